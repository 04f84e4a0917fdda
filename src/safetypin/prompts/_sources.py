"""Prompt sets: from a file, a name of `PROMPT_SOURCES`, or a data set on the Hub."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.prompts._named import PROMPT_SOURCES
from safetypin.prompts._read import READERS, Row, hub_rows, read_file


def load_prompts(
    source: str | Path,
    *,
    prompt_column: str = "prompt",
    response_column: str = "response",
    split: str | None = None,
) -> PromptSet:
    """Read prompts from a file (.jsonl .csv .txt .parquet), a named source or the Hub.

    Args:
        source: Path, name from `PROMPT_SOURCES`, or Hub id `owner/name[@revision]`.
        prompt_column: The column that holds the request.
        response_column: The column that holds the response; `response` is read where it exists,
            another one must exist.
        split: Split of a Hub data set, "train" where None.

    Raises:
        UserError: No such source, an empty one, or one without the column.
    """
    path, source = Path(source), str(source)
    if path.suffix in READERS or path.is_file():
        return prompt_set(path.name, read_file(path), prompt_column, response_column)
    if source in PROMPT_SOURCES:
        return prompt_set(source, PROMPT_SOURCES[source].read(), "prompt")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", source):
        name, _, revision = source.partition("@")
        rows = hub_rows(name, revision=revision or None, split=split or "train")
        return prompt_set(source, rows, prompt_column, response_column)
    near = difflib.get_close_matches(source, PROMPT_SOURCES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(
        f"no prompt source {source!r}; {hint}"
        f"known are {', '.join(PROMPT_SOURCES)}, or a file ({' '.join(READERS)})"
    )


def prompt_set(
    name: str, rows: Iterable[Row], prompt_column: str, response_column: str = "response"
) -> PromptSet:
    """Make a prompt set from rows.

    Raises:
        UserError: There are no rows, they have no such column, or a value is no text.
    """
    prompts = []
    needed = {"prompt": prompt_column}
    if response_column != "response":
        needed["response"] = response_column
    for index, row in enumerate(rows):
        for kind, column in needed.items():
            if column not in row:
                raise UserError(
                    f"{name!r} has no column {column!r} (row {index}); it has "
                    f"{', '.join(map(repr, row)) or 'none'}: choose one with --{kind}-column"
                )
        row_name = f"row {index} of {name!r}"
        where = f"of {row_name}"
        prompts.append(
            Prompt(
                text=(_text(row[prompt_column], f"{prompt_column!r} {where}") or "").strip(),
                response=_text(row.get(response_column), f"{response_column!r} {where}"),
                category=_text(row.get("category"), f"'category' {where}"),
                topic=_text(row.get("topic"), f"'topic' {where}"),
                where=row_name,
            )
        )
    return PromptSet(name=name, prompts=tuple(prompts))


def _text(value: object, what: str) -> str | None:
    """Return a cell as text, None where it is empty."""
    if isinstance(value, list | dict):
        raise UserError(f"{what} is a {type(value).__name__}, not a text; give one text a row")
    text = "" if value is None else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds half a character ({error.object[error.start]!a}), which no tokenizer "
            "reads; write the whole character or leave it out"
        ) from error
    return text or None
