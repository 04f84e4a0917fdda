"""Commands that are imported when they are run, so that `safetypin --help` is quick.

Torch and transformers take seconds to import, and the list of commands needs neither.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, ParamSpec

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

INTERRUPTED = 130
P = ParamSpec("P")

# name of a command: where it is, and the first line of its help
HOMES = {
    "audit": ("_audit:audit", "Tell how brittle a chat model's safety is: score, prune beside controls, judge, report."),
    "score": ("_stages:score", "Score every block weight of MODEL by its importance for the prompts."),
    "select": ("_stages:select", "Select the safety-critical set: the top q of safety minus the top p of utility."),
    "prune": ("_stages:prune", "Remove a set from MODEL and save what is left as an ordinary Hugging Face folder."),
    "evaluate": ("_stages:evaluate", "Measure MODEL's refusals and perplexity, whole or with a set removed."),
    "gcg": ("_gcg:gcg", "Find suffixes on MODEL by greedy coordinate gradient, for `evaluate --attack suffix`."),
    "contrast": ("_contrast:contrast", "Find the units that act differently in MODEL and an unaligned model on the same tokens."),
    "patch": ("_patch:patch", "Write MODEL's activations at a set into the unaligned model, and take them out of MODEL."),
    "tune": ("_tune:tune", "Fine-tune MODEL under a protection; measure its safety and its task before and after."),
    "track": ("_track:track", "Tell what a fine-tune moved: weights, scores and sets, beside chance and controls."),
    "run": ("_run:run", "Run an experiment from its file: trainings that are compared, a chain of commands, or a sweep."),
    "report": ("_stages:report", "Write report.html anew from the numbers of an audit, a tune, a track or an experiment."),
    "doctor": ("_doctor:doctor", "Check the installation: versions, accelerator, embedded model, prompt sets, disk."),
    "import": ("_import:import_", "Import a set or scores from a .pt file, for the commands that take a folder of them."),
    "warp": ("_warp:warp", "Fine-tune MODEL in rotated coordinates, in which the most important ones for safety stay."),
    "guard": ("_guard:guard", "Tell unsafe prompts before a token is generated."),
}  # fmt: skip


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


class OnceCommand(TyperCommand):
    """A command that refuses a list of values given in two parts, of which the last would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own class
        """Parse the words of the command line."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for param in order:
                is_list = "comma-separated" in (getattr(param, "help", None) or "")
                if is_list and order.count(param) > 1:
                    name = max(param.opts, key=len)
                    ctx.fail(f"{name} is given more than once; separate its values by commas")
        return super().parse_args(ctx, args)


class LazyCommands(MutableMapping[str, Any]):
    """The commands by name; one is imported when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a command or a group of typer's
        if name not in self._loaded:
            self._loaded[name] = _imported(name)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:  # noqa: ANN401
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)

    def __contains__(self, name: object) -> bool:
        return name in HOMES  # the mapping's own would import the command


class LazyGroup(TyperGroup):
    """Lists its commands by the lines above, and imports the one that is run."""

    def __init__(self, **attrs: Any) -> None:  # noqa: ANN401
        super().__init__(**attrs)
        self.commands = LazyCommands()
        self._is_listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Return a command; while the help is written, only what the list says of it."""
        if self._is_listing:
            return TyperCommand(name=cmd_name, help=HOMES[cmd_name][1])
        return self.commands[cmd_name] if cmd_name in HOMES else None

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Return the names, in the order of the list."""
        return list(HOMES)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the help without importing any command."""
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


def _imported(name: str) -> Any:  # noqa: ANN401
    module, _, attribute = HOMES[name][0].partition(":")
    found = getattr(importlib.import_module(f"safetypin.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        for part in found.registered_commands:
            assert part.callback is not None
            part.callback, part.cls = interruptible(part.callback), OnceCommand
        group = typer.main.get_command(found)
        group.name = name
        return group
    about = CommandInfo(name=name, cls=OnceCommand, callback=interruptible(found))
    return typer.main.get_command_from_info(
        about, pretty_exceptions_short=True, rich_markup_mode="markdown"
    )
