"""The sets of an audit, from the scores that its stages left."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from safetypin.artifacts import RunRecord, read_scores, write_json
from safetypin.audit._config import AuditConfig
from safetypin.audit._effects import RANDOM_ARMS
from safetypin.audit._plan import KNOWS_NO_PROMPTS, SCORE_SETS
from safetypin.stages import HALF_FILES, SCORES_FILE, Output, cut_sets


def cut(folder: Path, out: Path, config: AuditConfig, records: Mapping[str, RunRecord]) -> Output:
    """Write every set, and the records of the scores, which may be deleted then.

    Args:
        folder: Where the sets go.
        out: The folder of the run, which holds the scores.
        config: The grid, the controls, the method.
        records: Of the score stages.

    Raises:
        UserError: A set is too large for a random one beside it, or the tops to compare are empty.
    """
    folders = {name: out / f"scores-{name}" for name in SCORE_SETS}
    output = cut_sets(
        folder,
        read_scores(folders["safety"] / SCORES_FILE),
        read_scores(folders["utility"] / SCORES_FILE),
        config.grid,
        group=config.group,
        overlap_fraction=config.overlap_fraction,
        halves={
            name: [path / file for file in HALF_FILES]
            for name, path in folders.items()
            if config.method not in KNOWS_NO_PROMPTS
        },
        tops=[arm for arm in config.controls if arm.startswith("top_")],
        with_random=any(arm in RANDOM_ARMS for arm in config.controls),
    )
    kept = {name: f"{name}.record.json" for name in SCORE_SETS}
    for name, file in kept.items():
        write_json(folder / file, dataclasses.asdict(records[f"scores-{name}"]))
    return Output(output.result, [*output.files, *kept.values()])
