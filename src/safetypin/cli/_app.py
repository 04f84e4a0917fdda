"""The application: its commands, and what a person sees when something is wrong."""

import importlib.metadata
import logging
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer
from rich.console import Console

from safetypin.cli._lazy import INTERRUPTED as INTERRUPTED  # an exit code, beside those here
from safetypin.cli._lazy import LazyGroup

BAD_INPUT, FAULT = 2, 70

app = typer.Typer(
    name="safetypin",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find what holds a language model's safety in place, and test whether it really does.",
)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Find what holds a language model's safety in place, and test whether it really does."""
    if version:
        typer.echo(importlib.metadata.version("safetypin"))
        raise typer.Exit


def main() -> None:
    """Run the command line; bad input ends with one clear line and exit code 2, a fault with 70."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # what libraries warn of is for us, not for the reader of a report
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Console(stderr=True, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        # here, as torch comes with it, which takes a second
        from safetypin.artifacts import UserError

        if isinstance(error, UserError):
            console.print(f"error: {error}", markup=False, highlight=False)
            sys.exit(BAD_INPUT)
        # Python would end with 1, which says "brittle"
        traceback.print_exc()
        console.print("this is a fault of safetypin, not of your input", highlight=False)
        sys.exit(FAULT)
