"""The application: its commands, and what a person sees when something is wrong."""

import functools
import importlib.metadata
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from safetypin.artifacts import UserError
from safetypin.cli._audit import audit
from safetypin.cli._contrast import contrast
from safetypin.cli._doctor import doctor
from safetypin.cli._gcg import gcg
from safetypin.cli._guard import guard
from safetypin.cli._import import import_
from safetypin.cli._options import OnceCommand
from safetypin.cli._patch import patch
from safetypin.cli._run import run
from safetypin.cli._stages import evaluate, prune, report, score, select
from safetypin.cli._track import track
from safetypin.cli._tune import tune
from safetypin.cli._warp import warp

BAD_INPUT, FAULT, INTERRUPTED = 2, 70, 130
P = ParamSpec("P")

app = typer.Typer(
    name="safetypin",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find what holds a language model's safety in place, and test whether it really does.",
)


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """Let Ctrl-C end a command with code 130 and the word that nothing is lost."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            text = "interrupted; the same command goes on where this one was"
            Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
            raise typer.Exit(INTERRUPTED) from error

    return run


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Find what holds a language model's safety in place, and test whether it really does."""
    if version:
        typer.echo(importlib.metadata.version("safetypin"))
        raise typer.Exit


COMMANDS = (
    audit, score, select, prune, evaluate, gcg, contrast, patch, tune, track, run, report, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command(cls=OnceCommand)(interruptible(command))
for phase in (*warp.registered_commands, *guard.registered_commands):
    assert phase.callback is not None
    phase.callback, phase.cls = interruptible(phase.callback), OnceCommand
app.add_typer(warp)
app.add_typer(guard, name="guard")
app.command("import", cls=OnceCommand)(interruptible(import_))


def main() -> None:
    """Run the command line; bad input ends with one clear line and exit code 2, a fault with 70."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # what libraries warn of is for us, not for the reader of a report
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Console(stderr=True, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except UserError as error:
        console.print(f"error: {error}", markup=False, highlight=False)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:
        # Python would end with 1, which says "brittle"
        traceback.print_exc()
        console.print("this is a fault of safetypin, not of your input", highlight=False)
        sys.exit(FAULT)
