"""`safetypin score`: from a prompt source to saved scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import PromptSet, RunRecord, UserError, Verdict, write_scores
from safetypin.evaluate import check_judge
from safetypin.models import load_model, model_id
from safetypin.prompts import load_prompts
from safetypin.scores import needs_reference
from safetypin.stages._calibrate import calibrate, read_calibration
from safetypin.stages._evaluate import second_judge
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output, held, run_stage
from safetypin.stages._score import SCORES_FILE, UNITS_PER_EXAMPLE, Scoring, score
from safetypin.stages._subject import model_inputs

# of the prompts and answers that were scored on; a set keeps them of its scores
PROMPT_HASHES = "prompt_hashes"


def sampled(source: str, num_prompts: int | None, column: str, seed: int) -> PromptSet:
    """Return a random sample of a prompt source, as an audit takes it; all of it for None."""
    return load_prompts(source, prompt_column=column).shuffled(seed).take(num_prompts)


def check_reference(method: str, reference: str | None) -> None:
    """Raise unless another model is given where a method compares with one, and only there.

    Raises:
        UserError: It is missing, or of no use.
    """
    needed = needs_reference(method)
    if needed and not reference:
        raise UserError(f"method {method} compares with another model; give one with --reference")
    if reference and not needed:
        raise UserError(f"--reference is of no use to method {method}, which scores one model")


def score_files(
    *,
    model: str,
    prompts: str,
    out: Path,
    how: Scoring,
    keep: Verdict | None,
    num_prompts: int | None,
    prompt_column: str,
    max_new_tokens: int,
    judge_name: str,
    judge_options: Mapping[str, Any],
    dtype: str,
    device: str | None,
    reporter: Reporter,
    reference: str | None = None,
) -> RunRecord:
    """Score a model on a prompt source and save the scores.

    The sample of prompts is drawn with the seed of `how`. Prompts without responses are answered by
    the model first; `keep` says which answers to keep. `reference` is the other model of a method
    that compares two.

    Raises:
        UserError: Bad input, or no answer of the kind to keep.
    """
    check_reference(how.method, reference)
    asked = sampled(prompts, num_prompts, prompt_column, how.seed)
    check_judge(judge_name, dict(judge_options))
    with held(out), reporter.running():
        reporter.expect(len(asked) * (UNITS_PER_EXAMPLE + max_new_tokens))
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        options = {"max_new_tokens": max_new_tokens, "plain": how.plain, "system": how.system}
        inputs = {
            **model_inputs(loaded, tokenizer, model_id(loaded)),
            "prompts": asked.fingerprint,
            "keep": keep and keep.value,
            "judge": judge_name,
            "judge_options": dict(judge_options),
            **second_judge(judge_name, judge_options),
            **options,
        }
        reporter.stage("answers", len(asked) * max_new_tokens)
        record, _ = run_stage(
            out / "calibration",
            "calibration",
            inputs,
            lambda folder: calibrate(
                folder,
                loaded,
                tokenizer,
                asked,
                keep=keep,
                judge_name=judge_name,
                judge_options=judge_options,
                reporter=reporter,
                batch_size=32,
                **options,  # type: ignore[arg-type]
            ),
            reporter=reporter,
        )
        if not record.result["num_kept"]:
            raise UserError(
                f"none of the {record.result['num_asked']} answers was a {keep and keep.value}; "
                "use another model or prompts, or --keep all"
            )
        calibrated = read_calibration(out / "calibration", asked.name)
        reporter.stage(f"scores ({how.method})", len(asked) * UNITS_PER_EXAMPLE)
        other = load_model(reference, dtype=dtype, device=device)[0] if reference else None
        inputs |= {"calibrated": calibrated.fingerprint, **how.inputs}
        inputs |= {"reference_id": model_id(other)} if other else {}

        def compute(folder: Path) -> Output:
            scores = score(loaded, tokenizer, calibrated, how, reporter=reporter, reference=other)
            write_scores(folder / SCORES_FILE, scores)
            result = {
                "num_matrices": len(scores.tensors),
                "num_examples": scores.num_examples,
                "num_tokens": scores.num_tokens,
                "coverage": scores.coverage,
                PROMPT_HASHES: sorted(calibrated.text_hashes),
            }
            return Output(result, [SCORES_FILE])

        record, _ = run_stage(out / "scores", "scores", inputs, compute, reporter=reporter)
        reporter.finish()
    return record
