"""What has to be made before the first cell: sets from scores, ranks and head probes.

Every size of every method is cut from what is made here, with no new pass over the model.
"""

from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    RANKS_FILE,
    PromptSet,
    RankBasis,
    RunRecord,
    describe_ranks,
    read_ranks,
    write_neuron_scores,
    write_ranks,
)
from safetypin.experiment.sweep._cut import make_sets
from safetypin.experiment.sweep._making import Making
from safetypin.experiment.sweep._prepared import HEADS, RANKS
from safetypin.prompts import batches, window
from safetypin.scores import probe_heads
from safetypin.select import subspace_overlap
from safetypin.stages import UNITS_PER_EXAMPLE, Output
from safetypin.subspaces import actsvd

HALF_RANKS = ("half-0.ranks.safetensors", "half-1.ranks.safetensors")


def prepare(making: Making) -> dict[str, Any]:
    """Make all of it; return what metrics.json says of the sets.

    Raises:
        UserError: Too few prompts to score on, or a method does not fit the model.
    """
    methods = making.methods.values()
    scorers = list(dict.fromkeys(m.scorer for m in methods if m.scorer is not None))
    found = {"sets": make_sets(making, scorers) if scorers else None, "ranks": None}
    ranked = dict.fromkeys(name for method in methods for name in method.ranks)
    for name in ranked:
        _ranks(making, name)
    if len(ranked) > 1:
        found["ranks"] = _rank_overlap(making)
    if any(method.needs_heads for method in methods):
        _heads(making)
    return found


def _batches(making: Making, prompts: PromptSet, counted: str) -> Any:  # noqa: ANN401
    config, subject = making.sweep.config, making.subject
    return batches(
        prompts,
        subject.tokenizer,
        counted=counted,
        batch_size=config.score_batch_size,
        plain=config.plain,
        system=config.system,
        max_length=window(subject.model, subject.tokenizer),
    )


def _ranks(making: Making, name: str) -> None:
    """Make the output ranks on some prompts, and cut to the overlap's share those on each half."""
    config, prompts = making.sweep.config, making.prompts[name]
    share = making.sweep.measures.overlap_ranks
    inputs = {
        **making.subject.inputs,
        "prompts": prompts.fingerprint,
        "counted": config.counted,
        "targets": config.targets,
        "plain": config.plain,
        "system": config.system,
        "halves": share,
    }

    def compute(folder: Path) -> Output:
        ranks = _directions(making, prompts)
        write_ranks(folder / RANKS_FILE, ranks)
        for half, file in zip(prompts.halves(), HALF_RANKS, strict=True):
            write_ranks(folder / file, _directions(making, half, share))
        return Output(describe_ranks(ranks), [RANKS_FILE, *HALF_RANKS])

    units = 2 * len(prompts) * UNITS_PER_EXAMPLE
    making.series.run(f"{RANKS}-{name}", inputs, compute, units=units)


def _directions(making: Making, prompts: PromptSet, rank: float | None = None) -> RankBasis:
    config = making.sweep.config
    return actsvd(
        making.subject.model,
        _batches(making, prompts, config.counted),
        rank=rank,
        targets=config.targets,
        prompts_id=prompts.fingerprint,
    )


def _rank_overlap(making: Making) -> dict[str, Any]:
    """Return what the safety and utility ranks share by layer, with chance and noise floor."""
    share = making.sweep.measures.overlap_ranks
    places = {name: making.series.out / f"{RANKS}-{name}" for name in ("safety", "utility")}

    def compute(_: Path) -> Output:
        whole = [read_ranks(place / RANKS_FILE) for place in places.values()]
        halves = {
            name: (read_ranks(place / HALF_RANKS[0]), read_ranks(place / HALF_RANKS[1]))
            for name, place in places.items()
        }
        found = subspace_overlap(whole[0], whole[1], share, halves=halves).by_layer
        rows = [{"layer": layer, **one.to_json()} for layer, one in found.items()]
        return Output({"share": share, "by_layer": rows}, [])

    made = {name: RunRecord.read(place).inputs for name, place in places.items()}
    record = making.series.run("overlap-ranks", {"ranks": made, "share": share}, compute)
    return dict(record.result)


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
        sides = [_batches(making, making.prompts[n], "response") for n in ("safety", "utility")]
        scores = probe_heads(making.subject.model, *sides, seed=config.seed)
        write_neuron_scores(folder / NEURON_SCORES_FILE, scores)
        return Output({"num_examples": scores.num_examples}, [NEURON_SCORES_FILE])

    units = 10.0 * sum(map(len, making.prompts.values()))
    making.series.run(HEADS, inputs, compute, units=units)
