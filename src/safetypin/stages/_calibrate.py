"""Calibration prompts with the model's own answers, kept only where they are of the wanted kind."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, Response, UserError, Verdict, write_text
from safetypin.evaluate import judge_with_reasons, refusal_judge
from safetypin.stages._evaluate import answer
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output

CALIBRATION_FILE = "prompts.jsonl"
MIN_CALIBRATION = 8  # fewer refusals than this are no sample of a refusal behaviour


def check_texts(name: str, scored: PromptSet, text: PromptSet) -> None:
    """Raise if the perplexity would be measured on what weights are scored on.

    Raises:
        UserError: A prompt or response is in both.
    """
    if shared := scored.texts_shared_with(text):
        raise UserError(
            f"the {name} prompts to score on and the text for the perplexity share {len(shared)} "
            f"prompts or responses, first {shared[0][:60]!r}; use other texts, or allow it with "
            "--allow-shared-prompts"
        )


def calibrate(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    *,
    keep: Verdict | None,
    judge_name: str,
    judge_options: Mapping[str, Any],
    reporter: Reporter,
    max_new_tokens: int,
    batch_size: int,
    plain: bool = False,
    system: str | None = None,
) -> Output:
    """Let the model answer and keep the prompts whose answer has the verdict `keep`.

    A prompt set that comes with responses is taken as it is; where refusals are wanted, it is said
    how many of them are none. `keep` None keeps every answer that has a token.
    """
    outage = False
    if prompts.has_responses:
        kept = list(prompts)
        if keep is Verdict.REFUSAL:
            _tell_others(kept, reporter)
        counts = {"num_asked": len(kept), "num_refused": None, "num_kept": len(kept)}
    else:
        responses = answer(
            folder,
            "calibration",
            model,
            tokenizer,
            prompts,
            reporter=reporter,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            plain=plain,
            system=system,
        )
        if other := refusal_judge(judge_name, judge_options):
            reporter.note(
                f"the judge {judge_name} tells harm, not refusal, so {other} judges which answers "
                "are scored on"
            )
        options = {} if other else judge_options
        findings = judge_with_reasons(responses, other or judge_name, **options)
        verdicts = [finding.verdict for finding in findings]
        outage = any(finding.is_outage for finding in findings)
        kept = [
            dataclasses.replace(prompt, response=response.text)
            for prompt, response, verdict in zip(prompts, responses, verdicts, strict=True)
            if (verdict is keep if keep else bool(response.text.strip()))
        ]
        num_refused = sum(verdict is Verdict.REFUSAL for verdict in verdicts)
        counts = {"num_asked": len(responses), "num_refused": num_refused, "num_kept": len(kept)}
    rows = [{"prompt": prompt.text, "response": prompt.response} for prompt in kept]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / CALIBRATION_FILE, text)
    return Output(counts, [CALIBRATION_FILE], not outage)


def _tell_others(given: Sequence[Prompt], reporter: Reporter) -> None:
    """Say how many given responses are no refusal, by the judge that costs nothing."""
    responses = [Response(prompt=prompt.text, text=prompt.response or "") for prompt in given]
    findings = judge_with_reasons(responses, "phrases")
    others = sum(finding.verdict is not Verdict.REFUSAL for finding in findings)
    if others:
        reporter.note(
            f"{others} of {len(given)} given responses to harmful prompts are no refusal by the "
            "judge phrases; they are scored on as they were given, so leave out what is not safe"
        )


def read_calibration(folder: Path, name: str) -> PromptSet:
    """Return the prompts and answers that a calibration kept."""
    # not splitlines(): an answer may hold a line separator such as U+2028, which JSON leaves in
    lines = (folder / CALIBRATION_FILE).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    prompts = tuple(Prompt(text=row["prompt"], response=row["response"]) for row in rows)
    return PromptSet(name=name, prompts=prompts)
