"""Scores of the reference by halves of the prompts, and of a tuned model, with what changed."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    PromptSet,
    WeightMask,
    WeightScores,
    read_scores,
    write_mask,
    write_scores,
)
from safetypin.scores import merge
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output
from safetypin.stages._score import Scoring, score
from safetypin.stages._sets import mask_file
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_groups import SETS, critical_and_tops, cut, read_sets_of
from safetypin.stages._track_tables import Row, read_table, write_table
from safetypin.track import DynamicsTable, score_dynamics, set_overlaps

PARTS = ("half-0.safetensors", "half-1.safetensors")
DYNAMICS_FILE = "dynamics.parquet"
OVERLAP_FILE = "overlap.parquet"
HISTOGRAMS_FILE = "histograms.parquet"
UNITS_PER_SCORE = 2e-5  # to compare one with another, against one generated token


def score_parts(
    folder: Path, subject: Subject, prompts: PromptSet, how: Scoring, reporter: Reporter
) -> Output:
    """Score the model on each half of the prompts; the two together are the scores on all."""
    about: dict[str, Any] = {"num_examples": 0, "num_tokens": 0}
    for half, file in zip(prompts.halves(), PARTS, strict=True):
        scores = score(subject.model, subject.tokenizer, half, how, reporter=reporter)
        write_scores(folder / file, scores)
        about["num_examples"] += scores.num_examples
        about["num_tokens"] += scores.num_tokens
        about["coverage"] = scores.coverage
        del scores  # 4 bytes a weight, before the other half takes as many
    return Output(about, list(PARTS))


def read_parts(folder: Path) -> tuple[WeightScores, WeightScores]:
    """Return the scores on each half; a tensor is read when it is asked for."""
    first, second = (read_scores(folder / file) for file in PARTS)
    return first, second


def read_whole(folder: Path) -> WeightScores:
    """Return the scores on all prompts."""
    return merge(*read_parts(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescoring:
    """What every scoring of a tuned model takes.

    Attributes:
        prompts: The calibrated prompts: the reference's own answers, so that both models are
            scored on the same tokens.
        before: Folders of the reference's scores.
        how: How weights are scored.
        shares: Of the safety and of the utility top that the critical set is made of.
        top: Of the tops that are followed by themselves; the same shares where None.
        groups: Sets of the reference to follow.
    """

    prompts: Mapping[str, PromptSet]
    before: Mapping[str, Path]
    how: Mapping[str, Scoring]
    shares: Mapping[str, float]
    top: float | None
    groups: Mapping[str, WeightMask]


def rescore(folder: Path, subject: Subject, task: Rescoring, reporter: Reporter) -> Output:
    """Score a tuned model, cut its sets, and compare the scores at the groups' entries.

    Both scores are never on the disk at once with those of the reference: each is compared and
    cut while it is in memory.
    """
    tops, rows, counts, result = {}, list[Row](), list[Row](), dict[str, Any]()
    for name in SCORED:
        before = read_whole(task.before[name])
        after = score(
            subject.model, subject.tokenizer, task.prompts[name], task.how[name], reporter=reporter
        )
        # the same prompts, which the halves before are called by otherwise
        after = dataclasses.replace(after, prompts_id=before.prompts_id)
        group = task.how[name].group
        tops[name] = cut(after, task.shares[name], task.top, group)
        table = score_dynamics(before, after, task.groups, progress=_telling(reporter))
        rows += _named(table, name)
        counts += _histograms(table, name)
        result[name] = _about(table)
    masks = critical_and_tops(tops["safety"], tops["utility"])
    for name, mask in masks.items():
        write_mask(folder / mask_file(f"after-{name}"), mask)
    write_table(folder / DYNAMICS_FILE, rows)
    write_table(folder / HISTOGRAMS_FILE, counts)
    files = [mask_file(f"after-{name}") for name in masks]
    return Output({"dynamics": result}, [DYNAMICS_FILE, HISTOGRAMS_FILE, *files])


def measure_noise(
    folder: Path,
    before: Mapping[str, Path],
    groups: Mapping[str, WeightMask],
    halves: Path,
    reporter: Reporter,
) -> Output:
    """Compare the reference's scores on the two halves of the prompts, at sets of the first half.

    What is found here is found without any training.
    """
    sets = read_sets_of(halves, "half-0")
    sets |= {name: mask for name, mask in groups.items() if name not in sets}
    rows, counts, result = list[Row](), list[Row](), dict[str, Any]()
    for name in SCORED:
        table = score_dynamics(*read_parts(before[name]), sets, progress=_telling(reporter))
        rows += _named(table, name)
        counts += _histograms(table, name)
        result[name] = _about(table)
    write_table(folder / DYNAMICS_FILE, rows)
    write_table(folder / HISTOGRAMS_FILE, counts)
    return Output({"dynamics": result}, [DYNAMICS_FILE, HISTOGRAMS_FILE])


def _telling(reporter: Reporter) -> Callable[[int], None]:
    return lambda count: reporter.advance(count * UNITS_PER_SCORE)


def comparing_units(num_weights: int) -> float:
    """Return the work of comparing both scores of every weight."""
    return len(SCORED) * num_weights * UNITS_PER_SCORE


def _named(table: DynamicsTable, score_name: str) -> list[Row]:
    return [{"score": score_name, **row} for row in table.to_rows()]


def _histograms(table: DynamicsTable, score_name: str) -> list[Row]:
    """Return the histograms of every group, in all and in every part of the model."""
    return [{"score": score_name, **one.to_json()} for one in table.histograms]


def _about(table: DynamicsTable) -> dict[str, Any]:
    """Return the histograms over the whole model, and what must be said."""
    whole = [one.to_json() for one in table.histograms if one.layer is None and one.role is None]
    return {"histograms": whole, "notes": list(table.notes)}


def read_dynamics(folder: Path) -> list[Row]:
    """Return the rows of a stage that compared scores."""
    return read_table(folder / DYNAMICS_FILE)


def read_histograms(folder: Path) -> list[Row]:
    """Return the histograms of such a stage; none where an older version made it."""
    path = folder / HISTOGRAMS_FILE
    return read_table(path) if path.exists() else []


def compare_sets(folder: Path, groups: Path, tuned: Path, control: Path | None) -> Output:
    """Compare the sets before with those after, beside two halves of the prompts and a control.

    Args:
        folder: Where the table goes.
        groups: Folder of the sets before, on all prompts and on each half.
        tuned: Folder of the tuned model's sets.
        control: Folder of the control run's.
    """
    halves = [read_sets_of(groups, f"half-{number}") for number in range(2)]
    table = set_overlaps(
        read_sets_of(groups, "before"),
        read_sets_of(tuned, "after"),
        {name: (halves[0][name], halves[1][name]) for name in SETS},
        control=None if control is None else read_sets_of(control, "after"),
    )
    write_table(folder / OVERLAP_FILE, table.to_rows())
    return Output({}, [OVERLAP_FILE])
