"""Whole experiments from a TOML file: find a set, train with several seeds, compare, conclude."""

from safetypin.experiment._file import Arm, Experiment, read_experiment
from safetypin.experiment._plan import Plan, Run, make_plan
from safetypin.experiment._run import run_experiment
from safetypin.experiment._spread import Spread, spread
from safetypin.experiment._state import Step, steps_of
from safetypin.experiment._steps import Chain, is_chain, read_chain, run_chain
from safetypin.experiment._verdict import decide
from safetypin.experiment.sweep import (
    Shard,
    Sweep,
    is_sweep,
    parse_shard,
    read_sweep,
    run_sweep,
    states,
    submit,
)

__all__ = [
    "Arm",
    "Chain",
    "Experiment",
    "Plan",
    "Run",
    "Shard",
    "Spread",
    "Step",
    "Sweep",
    "decide",
    "is_chain",
    "is_sweep",
    "make_plan",
    "parse_shard",
    "read_chain",
    "read_experiment",
    "read_sweep",
    "run_chain",
    "run_experiment",
    "run_sweep",
    "spread",
    "states",
    "steps_of",
    "submit",
]
