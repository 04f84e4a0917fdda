"""Shards of a sweep as Slurm jobs, through submitit."""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetypin.artifacts import UserError
from safetypin.stages import held

CLUSTER = "SAFETYPIN_CLUSTER"  # `local` runs the jobs on this machine, as the tests do


def submit(command: Sequence[str], out: Path, count: int, settings: Iterable[str]) -> list[str]:
    """Submit every shard of a sweep as a job; return a line on each.

    Submitting again after a failure or a time limit goes on with what is not done.

    Args:
        command: Arguments of `safetypin`, without `--shard`.
        out: The run folder; logs go into `out/slurm`.
        count: Shards.
        settings: What submitit's executor is told, each as `name=value`.

    Raises:
        UserError: submitit is not installed, a setting is unknown, there is no Slurm, `out` is in
            use, or it holds files of something else.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "--slurm needs the extra `slurm`: pip install 'safetypin[slurm]'"
        ) from error
    with held(out):  # refused now rather than by every job
        pass
    executor = submitit.AutoExecutor(folder=out / "slurm", cluster=os.environ.get(CLUSTER, "slurm"))
    values = {"name": "safetypin", "timeout_min": 24 * 60, **_read(settings)}
    try:
        executor.update_parameters(**values)
    except (NameError, ValueError, AssertionError) as error:
        raise UserError(f"--slurm-set: {error}") from error
    lines = []
    with executor.batch():
        jobs = []
        for index in range(1, count + 1):
            whole = [sys.executable, "-m", "safetypin", *command, "--shard", f"{index}/{count}"]
            jobs.append(
                (shlex.join(whole[1:]), executor.submit(submitit.helpers.CommandFunction(whole)))
            )
    for shown, job in jobs:
        lines.append(f"job {job.job_id}: python {shown}")
    return [*lines, f"logs: {out / 'slurm'}; the page is written by every shard that ends"]


def _read(settings: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in settings:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UserError(f"--slurm-set {text!r} is no setting; write it as name=value")
        found[name] = int(value) if value.isdigit() else value
    return found
