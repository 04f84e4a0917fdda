"""`safetypin run`: a whole experiment from a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safetypin.artifacts import UserError
from safetypin.cli._options import QuietOption, VerboseOption, reporting
from safetypin.experiment import (
    Chain,
    Plan,
    Shard,
    Sweep,
    is_chain,
    is_sweep,
    make_plan,
    parse_shard,
    read_chain,
    read_experiment,
    read_sweep,
    run_chain,
    run_experiment,
    run_sweep,
    states,
    steps_of,
    submit,
)
from safetypin.report import print_experiment, print_sweep


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file, such as experiments/frozen-regime.toml.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/ and the file's name where none is given.", show_default=False)] = None,
    *,
    scale: Annotated[str | None, typer.Option(help="One of the file's scales, such as paper; small where none is given.", show_default=False)] = None,
    set: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A setting of tune or track, or seeds, that wins over the file's; repeatable.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run, and run nothing.")] = False,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Of a sweep: run every N-th cell, from the I-th; start N of them with one --out, on one machine or several that share it.", show_default=False)] = None,
    slurm: Annotated[int | None, typer.Option(metavar="N", min=1, help="Of a sweep: submit N shards to Slurm and return (extra `slurm`).", show_default=False)] = None,
    slurm_set: Annotated[list[str] | None, typer.Option("--slurm-set", metavar="NAME=VALUE", help="What Slurm is asked for, such as slurm_partition=gpu, timeout_min=600 or gpus_per_node=1; repeatable.", show_default=False)] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Run an experiment from its file: trainings that are compared, a chain of commands, or a sweep.

    Example: `safetypin run experiments/frozen-regime.toml --out runs/frozen`
    """
    if is_sweep(file):
        if shard is not None and slurm is not None:
            raise UserError("--slurm N submits every shard itself; leave --shard out")
        if slurm_set and slurm is None:
            raise UserError("--slurm-set would do nothing without --slurm; add --slurm N")
        sweep = read_sweep(file, scale, set or ())
        target = out or _folder(file, sweep.scale)
        if dry_run:
            _show_sweep(sweep, target)
        elif slurm is not None:
            for line in submit(
                _sweep_command(file, scale, set, target), target, slurm, slurm_set or ()
            ):
                typer.echo(line)
        else:
            part = None if shard is None else parse_shard(shard)
            _run_sweep(sweep, target, part, quiet=quiet, verbose=verbose)
        return
    for option, value in {"--shard": shard, "--slurm": slurm, "--slurm-set": slurm_set}.items():
        if value is not None:
            raise UserError(f"{option} is for sweeps (files with [methods]); {file} is none")
    if is_chain(file):
        chosen = read_chain(file, scale, set or (), out or _folder(file, scale or "small"))
        _run_steps(chosen, dry_run=dry_run, quiet=quiet, verbose=verbose)
        return
    experiment = read_experiment(file, scale, set or ())
    plan = make_plan(experiment, out or _folder(file, experiment.scale))
    console = Console()
    if dry_run:
        show_plan(plan, console)
        return
    metrics = run_experiment(
        plan, make_reporter=lambda folder: reporting(folder, quiet=quiet, verbose=verbose)
    )
    print_experiment(metrics, console)
    console.print(f"report: {plan.out / 'report.html'}", soft_wrap=True, highlight=False)


def _run_sweep(sweep: Sweep, out: Path, shard: Shard | None, *, quiet: bool, verbose: bool) -> None:
    found = run_sweep(
        sweep, out, reporter=reporting(out, quiet=quiet, verbose=verbose), shard=shard
    )
    console = Console()
    print_sweep(found, console)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


def _show_sweep(sweep: Sweep, out: Path) -> None:
    for number, (cell, state) in enumerate(states(sweep, out).items(), start=1):
        typer.echo(f"{number}  {cell}  {state}")
    typer.echo(f"all take {sweep.takes or 'a time that was not measured'}; to {out}")


def _sweep_command(
    file: Path, scale: str | None, changes: list[str] | None, out: Path
) -> list[str]:
    """Return the command that a shard runs, without its --shard."""
    command = ["run", str(file.resolve()), "--out", str(out.resolve()), "--quiet"]
    if scale is not None:
        command += ["--scale", scale]
    for change in changes or ():
        command += ["--set", change]
    return command


def _run_steps(chain: Chain, *, dry_run: bool, quiet: bool, verbose: bool) -> None:
    if dry_run:
        for number, step in enumerate(chain.steps, start=1):
            state = "done" if (chain.out / step.name / "metrics.json").exists() else "to do"
            typer.echo(f"{number}  {step.name}  {step.command}  {state}")
        typer.echo(f"all take {chain.takes or 'a time that was not measured'}; to {chain.out}")
        return
    found = run_chain(
        chain, make_reporter=lambda folder: reporting(folder, quiet=quiet, verbose=verbose)
    )
    for row in found["steps"]:
        typer.echo(f"{row['name']}: {row['answer']}. {row['sentence']}")
    typer.echo(f"report: {chain.out / 'report.html'}")


def _folder(file: Path, scale: str) -> Path:
    if not file.stem:
        raise UserError(f"{str(file)!r} names no file; name an experiment file")
    return Path("runs") / (file.stem if scale == "small" else f"{file.stem}-{scale}")


def show_plan(plan: Plan, console: Console) -> None:
    """Print every part in order, and whether it is done."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", "part", "state", ""):
        table.add_column(column)
    steps = steps_of(plan)
    for number, step in enumerate(steps, start=1):
        table.add_row(*(Text(text) for text in (str(number), step.name, step.state, step.about)))
    console.print(table)
    left = sum(step.state != "done" for step in steps)
    takes = plan.experiment.takes
    time = f"all take {takes}" if takes else "how long they take was not measured"
    said = f"{left} of {len(steps)} parts are left; {time}. They go to {plan.out}"
    console.print(said, soft_wrap=True, highlight=False, markup=False)
