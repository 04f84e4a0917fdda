"""Scores, and every set of every method cut from them with no new pass over the model."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetypin.artifacts import UserError, WeightMask, read_mask, read_scores, write_mask
from safetypin.experiment.sweep._making import Making
from safetypin.experiment.sweep._prepared import SETS, mask_file
from safetypin.scores import needs_reference
from safetypin.select import method_matrix, top_fraction
from safetypin.stages import (
    HALF_FILES,
    SCORES_FILE,
    UNITS_PER_EXAMPLE,
    Output,
    Scoring,
    discard,
    overlap_of_tops,
    score_halves,
    where,
)

BOTH = ("safety", "utility")
NO_PROMPTS = ("magnitude", "random", "magnitude-difference")  # scores that know none


def _scoring(making: Making, scorer: str, name: str) -> Scoring:
    config = making.sweep.config
    return Scoring(
        method=scorer,
        counted=config.counted,
        reduction=config.reduction,
        batch_size=config.score_batch_size,
        targets=config.targets,
        seed=config.seed + (scorer == "random" and name == "utility"),
        plain=config.plain,
        system=config.system,
    )


def _prompts_of(making: Making, scorer: str) -> list[str]:
    """Return on which prompts a score is needed: a top alone needs no utility."""
    users = [method for method in making.methods.values() if method.scorer == scorer]
    return [name for name in BOTH if any(name in method.scored_on for method in users)]


def _score_folder(scorer: str, name: str) -> str:
    return f"scores-{scorer}-{name}"


def make_sets(making: Making, scorers: list[str]) -> Mapping[str, Any]:
    """Score, cut every set of every method, and let the scores go."""
    scored = {
        _score_folder(scorer, name): (scorer, name)
        for scorer in scorers
        for name in _prompts_of(making, scorer)
    }
    fraction = making.sweep.config.overlap_fraction
    inputs = {
        **making.subject.inputs,
        "reference_id": making.reference_id,
        "scores": {
            folder: {
                **_scoring(making, *of).inputs,
                "prompts": making.prompts[of[1]].fingerprint,
                "fraction": fraction,
            }
            for folder, of in scored.items()
        },
        "methods": {
            name: method.model_dump(exclude={"about"})
            for name, method in making.methods.items()
            if method.scorer
        },
    }
    series = making.series
    if not series.has(SETS, inputs):
        for folder, of in scored.items():
            _score(making, folder, *of)
    record = series.run(SETS, inputs, partial(_cut, making, scorers))
    if not making.sweep.config.keep_scores:
        for folder in scored:
            discard(series.out / folder)
    return record.result


def _score(making: Making, folder: str, scorer: str, name: str) -> None:
    how, prompts = _scoring(making, scorer, name), making.prompts[name]
    fraction = making.sweep.config.overlap_fraction
    inputs = {
        **making.subject.inputs,
        **how.inputs,
        "reference_id": making.reference_id,
        "prompts": prompts.fingerprint,
        "fraction": fraction,
    }
    making.series.run(
        folder,
        inputs,
        lambda place: score_halves(
            place,
            making.subject.model,
            making.subject.tokenizer,
            prompts,
            how,
            fraction=fraction,
            reporter=making.series.reporter,
            reference=making.reference if needs_reference(scorer) else None,
        ),
        units=len(prompts) * UNITS_PER_EXAMPLE,
    )


def _cut(making: Making, scorers: list[str], folder: Path) -> Output:
    files, sizes, overlaps, largest = [], {}, {}, {}
    for scorer in scorers:
        names = _prompts_of(making, scorer)
        places = {name: making.series.out / _score_folder(scorer, name) for name in names}
        scores = {name: read_scores(place / SCORES_FILE) for name, place in places.items()}
        for name, method in making.methods.items():
            if method.scorer != scorer:
                continue
            for size, mask in method.cut(scores).items():
                cell = making.sweep.cell(name, size).id
                if not mask.num_selected:
                    raise UserError(
                        f"[methods.{name}] selects no weight at size {size}; take a larger one"
                    )
                write_mask(folder / mask_file(cell), mask)
                files.append(mask_file(cell))
                sizes[cell] = _describe(mask)
                largest[name] = cell
        if len(scores) == len(BOTH):
            overlaps[scorer] = _overlap(making, scorer, scores, places)
    masks = {name: read_mask(folder / mask_file(cell)) for name, cell in largest.items()}
    result = {
        "sets": sizes,
        "overlap": overlaps,
        "between": method_matrix(masks).to_json(),
        "of": largest,
    }
    return Output(result, files)


def _describe(mask: WeightMask) -> dict[str, Any]:
    return {
        "num_selected": mask.num_selected,
        "num_weights": mask.num_weights,
        "fingerprint": mask.fingerprint,
        "where": where(mask),
    }


def _overlap(
    making: Making, scorer: str, scores: Mapping[str, Any], places: Mapping[str, Path]
) -> dict[str, Any]:
    """Return what the tops on safety and on utility prompts share, with chance and noise floor."""
    fraction = making.sweep.config.overlap_fraction
    halves = {
        name: [read_mask(place / file) for file in HALF_FILES]
        for name, place in places.items()
        if scorer not in NO_PROMPTS
    }
    safety, utility = (top_fraction(scores[name], fraction) for name in BOTH)
    return overlap_of_tops(fraction, safety, utility, halves)
