"""The reports of audit, tune and track: one self-contained page each, and a summary in words."""

from safetypin.report._chain import headline
from safetypin.report._console import print_judge, print_summary
from safetypin.report._experiment import print_experiment
from safetypin.report._headline import MAX_MISMATCH
from safetypin.report._sweep import print_sweep
from safetypin.report._track import write_track_report
from safetypin.report._tune import write_tune_report
from safetypin.report._write import write_report

__all__ = [
    "MAX_MISMATCH",
    "headline",
    "print_experiment",
    "print_judge",
    "print_summary",
    "print_sweep",
    "write_report",
    "write_track_report",
    "write_tune_report",
]
