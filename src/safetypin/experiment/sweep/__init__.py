"""A sweep: many methods at many sizes, each with its controls, measured on the same prompts."""

from safetypin.experiment.sweep._file import Sweep, is_sweep, read_sweep
from safetypin.experiment.sweep._inputs import states
from safetypin.experiment.sweep._run import run_sweep
from safetypin.experiment.sweep._shards import Shard, parse_shard
from safetypin.experiment.sweep._slurm import submit

__all__ = [
    "Shard",
    "Sweep",
    "is_sweep",
    "parse_shard",
    "read_sweep",
    "run_sweep",
    "states",
    "submit",
]
