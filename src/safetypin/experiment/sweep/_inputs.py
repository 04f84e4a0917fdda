"""What a cell depends on, and which cells a run folder holds with the same."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import read_json
from safetypin.audit import read_prompts
from safetypin.experiment.sweep._cells import Cell
from safetypin.experiment.sweep._file import Sweep
from safetypin.experiment.sweep._measure import battery
from safetypin.experiment.sweep.methods import Random

CELLS = "cells"
SCORING = ("counted", "reduction", "targets", "seed", "plain", "system")
TO_DO, DONE, STALE = "to do", "done", "to do again, was run with other settings"


def cell_inputs(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """Return what the file says of a cell; what is measured and the models come to it."""
    method = sweep.methods[cell.method]
    return {
        "cell": dataclasses.asdict(cell),
        "method": sweep.of(cell).inputs,
        "control": method.inputs if isinstance(method, Random) else None,
        "scoring": {name: getattr(sweep.config, name) for name in SCORING},
    }


def states(sweep: Sweep, out: Path) -> dict[str, str]:
    """Return of every cell, by its id, whether it is done with these settings.

    Reads the prompts where any cell was run; that the model is the same only a run can tell.

    Raises:
        UserError: The prompts cannot be read, or a setting is wrong.
    """
    files = {cell.id: out / CELLS / cell.id / "run.json" for cell in sweep.cells}
    if not any(file.exists() for file in files.values()):
        return dict.fromkeys(files, TO_DO)
    measured = battery(sweep, read_prompts(sweep.config)).inputs
    found = {}
    for cell in sweep.cells:
        wanted = json.loads(json.dumps(measured | cell_inputs(sweep, cell)))
        if files[cell.id].exists():
            inputs = read_json(files[cell.id]).get("inputs", {})
            found[cell.id] = DONE if _holds(inputs, wanted) else STALE
        else:
            found[cell.id] = TO_DO
    return found


def _holds(inputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether inputs have what is wanted, whatever else they have."""
    scoring: Mapping[str, Any] = inputs.get("scoring", {})
    return all(scoring.get(name) == value for name, value in wanted["scoring"].items()) and all(
        name in inputs and inputs[name] == value
        for name, value in wanted.items()
        if name != "scoring"
    )
