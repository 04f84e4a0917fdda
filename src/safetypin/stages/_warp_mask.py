"""The mask of WaRP: coefficients are scored once, and masks of every size cut from the scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from safetypin.artifacts import (
    Basis,
    PromptSet,
    RunRecord,
    WeightScores,
    load,
    read_scores,
    write_mask,
    write_scores,
)
from safetypin.prompts import batches, window
from safetypin.scores import coefficient_gradients, random_coefficients
from safetypin.select import bottom_directions, bottom_fraction, top_directions, top_fraction
from safetypin.stages._overlaps import where
from safetypin.stages._run import Output, discard
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._series import Series
from safetypin.stages._subject import Subject
from safetypin.stages._tune_config import TuneConfig
from safetypin.stages._tune_set import SET_FILE
from safetypin.stages._warp import answered, basis_in, make_basis

COEFFICIENTS = "coefficients"
SCORES_FILE = "scores.safetensors"


def make_rotated(
    series: Series, config: TuneConfig, subject: Subject, prompts: PromptSet
) -> RunRecord:
    """Make the basis of the safety prompts' inputs, and the mask of what matters most in it.

    Raises:
        UserError: Too few refusals to score on, or activations or gradients that are not finite.
    """
    answers = make_basis(series, config, subject, prompts)
    return make_mask(series, config, subject, answers)


def make_mask(
    series: Series, config: TuneConfig, subject: Subject, answers: PromptSet
) -> RunRecord:
    """Score the coefficients in the basis that was made before, and cut the mask."""
    basis = basis_in(series.out, subject, config)
    inputs = {
        **answered(config, subject, answers),
        "basis": basis.fingerprint,
        **cut_inputs(config),
    }

    if _is_scored(config) and not series.has("set", inputs):
        _score(series, config, subject, basis, answers)

    def compute(folder: Path) -> Output:
        if _is_scored(config):
            scores = read_scores(series.out / COEFFICIENTS / SCORES_FILE)
        else:
            scores = random_coefficients(subject.model, basis, seed=config.drawn_with)
        mask = _cut(config, scores)
        write_mask(folder / SET_FILE, mask)
        result = {
            "source": "made here",
            "path": None,
            "name": f"{config.importance}-{config.rotation}-k{config.keep_ratio:g}",
            "control": None,
            "num_selected": mask.num_selected,
            "num_weights": mask.num_weights,
            "fraction": mask.fraction,
            "fingerprint": mask.fingerprint,
            "basis": basis.fingerprint,
            "num_examples": scores.num_examples,
            "num_tokens": scores.num_tokens,
            "where": where(mask),
        }
        return Output(result, [SET_FILE])

    record = series.run("set", inputs, compute)
    if note := shortage(config, load(series.out / "set")):
        series.reporter.note(note)
    if not config.keep_scores:
        discard_coefficients(series.out)
    return record


def cut_inputs(config: TuneConfig) -> dict[str, Any]:
    """Return the settings that a mask depends on, beside its basis."""
    return {
        "importance": config.importance,
        "reduction": config.reduction,
        "keep_ratio": config.keep_ratio,
        "keep_group": config.keep_group,
        "whole_directions": config.whole_directions,
        "seed": config.drawn_with if config.importance == "random" else None,
    }


def shortage(config: TuneConfig, mask: Any) -> str | None:  # noqa: ANN401
    """Return what to say where fewer coefficients are held than were asked for."""
    if config.whole_directions:  # always as many as were asked for
        return None
    if config.keep_group == "model":
        wanted = round(config.keep_ratio * mask.num_weights)
    else:  # of experts in one tensor, each is a matrix
        matrices = [part for members in mask.tensors.values() for part in _matrices(members)]
        wanted = sum(round(config.keep_ratio * matrix.numel()) for matrix in matrices)
    if mask.num_selected >= wanted:
        return None
    return (
        f"the mask holds {mask.num_selected:,} coefficients, not the {wanted:,} of keep_ratio "
        f"{config.keep_ratio:g}: no other has a gradient on the safety prompts; a mask of "
        "--importance random holds them all, so compare it at a smaller share"
    )


def _matrices(members: Tensor) -> Sequence[Tensor]:
    return members.reshape(-1, *members.shape[-2:]).unbind()


def _is_scored(config: TuneConfig) -> bool:
    """Whether the mask depends on scores: none does that holds nothing, or everything."""
    return config.importance != "random" and 0 < config.keep_ratio < 1


def _score(
    series: Series, config: TuneConfig, subject: Subject, basis: Basis, answers: PromptSet
) -> None:
    """Score the coefficients once: masks of every size are cut from the same scores."""
    inputs = {
        **answered(config, subject, answers),
        "basis": basis.fingerprint,
        "reduction": config.reduction,
    }

    def compute(folder: Path) -> Output:
        scores = coefficient_gradients(
            subject.model,
            batches(
                answers,
                subject.tokenizer,
                batch_size=config.score_batch_size,
                plain=config.plain,
                system=config.system,
                max_length=window(subject.model, subject.tokenizer),
            ),
            basis,
            prompts_id=answers.fingerprint,
            reduction=config.reduction,
            progress=series.reporter.counting(UNITS_PER_EXAMPLE),
        )
        write_scores(folder / SCORES_FILE, scores)
        return Output({"num_examples": scores.num_examples}, [SCORES_FILE])

    series.run(COEFFICIENTS, inputs, compute, units=len(answers) * UNITS_PER_EXAMPLE)


def discard_coefficients(out: Path) -> None:
    """Remove the scores, 4 bytes a weight, once every mask that is wanted is cut."""
    discard(out / COEFFICIENTS)


def _cut(config: TuneConfig, scores: WeightScores) -> Any:  # noqa: ANN401
    least = config.importance == "bottom"
    if config.whole_directions:
        return (bottom_directions if least else top_directions)(scores, config.keep_ratio)
    pick = bottom_fraction if least else top_fraction
    return pick(scores, config.keep_ratio, group=config.keep_group)
