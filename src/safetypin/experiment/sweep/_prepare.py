"""What has to be made before the first cell: answers, scores, sets, ranks and head probes.

Every size of every method is cut from what is made here, with no new pass over the model.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    RANKS_FILE,
    PromptSet,
    UserError,
    WeightMask,
    describe_ranks,
    read_mask,
    read_scores,
    write_mask,
    write_neuron_scores,
    write_ranks,
)
from safetypin.experiment.sweep._file import Sweep
from safetypin.experiment.sweep._prepared import HEADS, RANKS, SETS, mask_file
from safetypin.experiment.sweep.methods import Method, Random
from safetypin.prompts import batches, window
from safetypin.scores import needs_reference, probe_heads
from safetypin.select import method_matrix, overlap, top_fraction
from safetypin.stages import (
    HALF_FILES,
    SCORES_FILE,
    UNITS_PER_EXAMPLE,
    Output,
    Scoring,
    Series,
    Subject,
    discard,
    score_halves,
    where,
)
from safetypin.subspaces import actsvd

NO_PROMPTS = ("magnitude", "random", "magnitude-difference")  # scores that know none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """What the stages before the first cell work with.

    Attributes:
        sweep: What is asked for.
        series: Runs the stages.
        subject: The model.
        reference: The second model, where there is one.
        prompts: Safety and utility prompts with the model's own answers.
    """

    sweep: Sweep
    series: Series
    subject: Subject
    reference: Any
    prompts: Mapping[str, PromptSet]

    @property
    def methods(self) -> dict[str, Method]:
        """The methods that are no controls, by name."""
        return {
            name: method
            for name, method in self.sweep.methods.items()
            if not isinstance(method, Random)
        }


def prepare(making: Making) -> dict[str, Any]:
    """Make all of it; return what metrics.json says of the sets.

    Raises:
        UserError: Too few prompts to score on, or a method does not fit the model.
    """
    methods = making.methods.values()
    scorers = list(dict.fromkeys(m.scorer for m in methods if m.scorer is not None))
    found = {"sets": _sets(making, scorers) if scorers else None}
    for name in dict.fromkeys(name for method in methods for name in method.ranks):
        _ranks(making, name)
    if any(method.needs_heads for method in methods):
        _heads(making)
    return found


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


def _score_folder(scorer: str, name: str) -> str:
    return f"scores-{scorer}-{name}"


def _sets(making: Making, scorers: list[str]) -> Mapping[str, Any]:
    """Score, cut every set of every method, and let the scores go."""
    scored = {
        _score_folder(scorer, name): (scorer, name)
        for scorer in scorers
        for name in ("safety", "utility")
    }
    fraction = making.sweep.config.overlap_fraction
    inputs = {
        **making.subject.inputs,
        "reference": making.sweep.measures.reference,
        "scores": {
            folder: {
                **_scoring(making, *of).inputs,
                "prompts": making.prompts[of[1]].fingerprint,
                "fraction": fraction,
            }
            for folder, of in scored.items()
        },
        "methods": {n: m.model_dump() for n, m in making.methods.items() if m.scorer},
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
        "reference": making.sweep.measures.reference,
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
        places = {n: making.series.out / _score_folder(scorer, n) for n in ("safety", "utility")}
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
        overlaps[scorer] = _overlap(making, scorer, scores, places)
    masks = {name: read_mask(folder / mask_file(cell)) for name, cell in largest.items()}
    result = {"sets": sizes, "overlap": overlaps, "between": method_matrix(masks), "of": largest}
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
    tops = [top_fraction(scores[name], fraction) for name in ("safety", "utility")]
    floors = {}
    if scorer not in NO_PROMPTS:
        for name, place in places.items():
            halves = [read_mask(place / file) for file in HALF_FILES]
            floors[name] = overlap(*halves).jaccard
    both = overlap(*tops)
    return {
        "fraction": fraction,
        "jaccard": both.jaccard,
        "chance": both.chance_jaccard,
        "noise_floors": floors,
    }


def _batches(making: Making, name: str, counted: str) -> Any:  # noqa: ANN401
    config, subject = making.sweep.config, making.subject
    return batches(
        making.prompts[name],
        subject.tokenizer,
        counted=counted,
        batch_size=config.score_batch_size,
        plain=config.plain,
        system=config.system,
        max_length=window(subject.model, subject.tokenizer),
    )


def _ranks(making: Making, name: str) -> None:
    config, prompts = making.sweep.config, making.prompts[name]
    inputs = {
        **making.subject.inputs,
        "prompts": prompts.fingerprint,
        "counted": config.counted,
        "targets": config.targets,
        "plain": config.plain,
        "system": config.system,
    }

    def compute(folder: Path) -> Output:
        ranks = actsvd(
            making.subject.model,
            _batches(making, name, config.counted),
            targets=config.targets,
            prompts_id=prompts.fingerprint,
        )
        write_ranks(folder / RANKS_FILE, ranks)
        return Output(describe_ranks(ranks), [RANKS_FILE])

    making.series.run(f"{RANKS}-{name}", inputs, compute, units=len(prompts) * UNITS_PER_EXAMPLE)


def _heads(making: Making) -> None:
    config = making.sweep.config
    inputs = {
        **making.subject.inputs,
        "prompts": {name: prompts.fingerprint for name, prompts in making.prompts.items()},
        "seed": config.seed,
        "plain": config.plain,
        "system": config.system,
    }

    def compute(folder: Path) -> Output:
        sides = [_batches(making, name, "response") for name in ("safety", "utility")]
        scores = probe_heads(making.subject.model, *sides, seed=config.seed)
        write_neuron_scores(folder / NEURON_SCORES_FILE, scores)
        return Output({"num_examples": scores.num_examples}, [NEURON_SCORES_FILE])

    units = 10.0 * sum(map(len, making.prompts.values()))
    making.series.run(HEADS, inputs, compute, units=units)
