"""Options that several commands share, and the way they run."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from safetypin.artifacts import UserError
from safetypin.stages import EVENTS_FILE, Reporter

Command = TypeVar("Command", bound=Callable[..., Any])

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="smollm2, smollm2-aligned, a folder in Hugging Face form, or a Hub id owner/name[@revision].",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option(help="The run folder.", show_default=False)]
DtypeOption = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the accelerator where there is one.")
]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Send prompts as plain text, without a chat template.")
]
SetOption = Annotated[
    str | None,
    typer.Option(
        help="Which set of an audit, such as q0.01-p0.01; the verdict's where none is named.",
        show_default=False,
    ),
]
SystemOption = Annotated[str | None, typer.Option(help="System prompt.")]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="What the judge takes besides, as name=value; repeatable.", show_default=False
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print every step.")]


def shows_defaults(config: type[BaseModel]) -> Callable[[Command], Command]:
    """Let the help of a command say what a setting is where its option is not given.

    Such an option is None by default, so that a preset or a file can have its say first; typer
    would put what is shown in its place into brackets of two kinds.
    """

    def decorate(command: Command) -> Command:
        for name, hint in get_type_hints(command, include_extras=True).items():
            field = config.model_fields.get(name)
            if name == "preset" or field is None or field.default in (None, (), PydanticUndefined):
                continue
            kind, info = get_args(hint)
            info = copy.copy(info)  # several commands share one
            info.help = f"{info.help.rstrip('.')}; {_shown(field.default)}."
            command.__annotations__[name] = Annotated[kind, info]
        return command

    return decorate


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def numbers(text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of a comma-separated list.

    Raises:
        typer.BadParameter: One is no number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        hint = "; write 3% as 0.03" if "%" in text else ""
        raise typer.BadParameter(
            f"{text!r} is no list of numbers such as 0.01,0.02{hint}"
        ) from error


def names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of a comma-separated list."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def refuse_beside(option: str, others: Mapping[str, object]) -> None:
    """Raise if an option was given (is not None) that another one leaves without effect.

    Raises:
        UserError: It was.
    """
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{name} has no effect beside {option}; leave one of the two out")


def reporting(out: Path | None, *, quiet: bool, verbose: bool) -> Reporter:
    """Return the reporter of a command; its events go to `out`."""
    return Reporter(events=out and out / EVENTS_FILE, quiet=quiet, verbose=verbose)
