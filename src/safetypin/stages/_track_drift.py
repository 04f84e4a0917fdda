"""The drift of every group at one checkpoint, as a stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, WeightMask
from safetypin.stages._run import Output
from safetypin.stages._series import Series
from safetypin.stages._subject import Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_source import Source, weights_hash
from safetypin.stages._track_tables import Row, read_table, write_table
from safetypin.track import Checkpoint, drift

DRIFT_FILE = "drift.parquet"
UNITS_PER_WEIGHT = 3e-5  # against one generated token


def measure_drift(
    series: Series,
    config: TrackConfig,
    source: Source,
    checkpoint: Checkpoint,
    subject: Subject,
    groups: Mapping[str, WeightMask],
) -> RunRecord:
    """Measure how far the groups moved from the reference to a checkpoint.

    Args:
        series: The stage `drift/step-N` is run in it.
        config: Permutations and seed.
        source: Where the checkpoint is from, and what was frozen.
        checkpoint: It.
        subject: The reference.
        groups: Sets of its weights.
    """
    frozen = source.frozen(checkpoint)
    inputs = {
        "model_id": subject.identity,
        "checkpoint": weights_hash(checkpoint),
        "step": checkpoint.step,
        "groups": {name: mask.fingerprint for name, mask in groups.items()},
        "frozen": frozen and frozen.fingerprint,
        "num_permutations": config.num_permutations,
        "seed": config.seed,
    }
    num_weights = sum(mask.numel() for mask in next(iter(groups.values())).tensors.values())

    def compute(folder: Path) -> Output:
        table = drift(
            subject.model,
            checkpoint,
            groups,
            frozen=frozen,
            num_permutations=config.num_permutations,
            seed=config.seed,
            progress=lambda count: series.reporter.advance(count * UNITS_PER_WEIGHT),
        )
        rows = [{"step": checkpoint.step, **row} for row in table.to_rows()]
        write_table(folder / DRIFT_FILE, rows)
        about: dict[str, Any] = {
            "step": checkpoint.step,
            "path": str(checkpoint.path),
            "kind": checkpoint.kind,
            "notes": list(table.notes),
        }
        return Output(about, [DRIFT_FILE])

    units = num_weights * UNITS_PER_WEIGHT
    return series.run(stage_name(checkpoint), inputs, compute, units=units)


def stage_name(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint's stage, also of its folder."""
    return f"drift/step-{checkpoint.step}"


def read_drift(out: Path, source: Source) -> list[Row]:
    """Return the rows of all checkpoints, by step."""
    return [
        row
        for checkpoint in source.checkpoints
        for row in read_table(out / stage_name(checkpoint) / DRIFT_FILE)
    ]
