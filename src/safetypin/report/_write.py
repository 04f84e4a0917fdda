"""Writes the page of a run folder, whichever command made it."""

from pathlib import Path

from safetypin.report._audit import write_audit_report
from safetypin.report._chain import write_chain_report
from safetypin.report._contrast import write_contrast_report
from safetypin.report._evaluate import write_evaluate_report
from safetypin.report._experiment import write_experiment_report
from safetypin.report._guard import write_guard_report
from safetypin.report._patch import write_patch_report
from safetypin.report._read import kind_of
from safetypin.report._sweep import write_sweep_report
from safetypin.report._track import write_track_report
from safetypin.report._tune import write_tune_report

_WRITERS = {
    "audit": write_audit_report,
    "evaluate": write_evaluate_report,
    "tune": write_tune_report,
    "track": write_track_report,
    "contrast": write_contrast_report,
    "patch": write_patch_report,
    "guard": write_guard_report,
    "chain": write_chain_report,
    "experiment": write_experiment_report,
    "sweep": write_sweep_report,
}


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` anew from the numbers of the command that made the folder.

    The same numbers give the same bytes. An older report stays until the new one is whole.

    Raises:
        UserError: metrics.json is missing or is not of schema 1, or the disk is full.
    """
    return _WRITERS[kind_of(folder)](folder)
