"""Drift over the checkpoints of a training."""

from collections.abc import Iterable, Iterator

from safetypin.artifacts import WeightMask
from safetypin.track._checkpoints import Checkpoint
from safetypin.track._drift import Groups, Progress, drift
from safetypin.track._reference import Before, open_reference
from safetypin.track._table import DriftTable

Moment = tuple[Checkpoint, DriftTable]


def drift_curves(
    reference: Before,
    checkpoints: Iterable[Checkpoint],
    groups: Groups,
    *,
    frozen: WeightMask | None = None,
    num_permutations: int = 999,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[Moment]:
    """Yield each checkpoint and its drift from the reference, one checkpoint at a time.

    Arguments and errors are those of `drift`. p-values are corrected within a checkpoint, not over
    the steps: all steps of one training tell one story.
    """
    opened = open_reference(reference)
    for checkpoint in checkpoints:
        table = drift(
            opened,
            checkpoint,
            groups,
            frozen=frozen,
            num_permutations=num_permutations,
            seed=seed,
            progress=progress,
        )
        yield checkpoint, table


def curve_rows(moments: Iterable[Moment]) -> list[dict[str, object]]:
    """Return the rows of all tables with `step` and `checkpoint` (its folder's name) in front."""
    return [
        {"step": checkpoint.step, "checkpoint": checkpoint.path.name, **row}
        for checkpoint, table in moments
        for row in table.to_rows()
    ]
