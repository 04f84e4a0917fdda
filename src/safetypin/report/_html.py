"""A report as one self-contained page: no request, no foreign script, model output escaped."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from safetypin.artifacts import replacing
from safetypin.report import _words
from safetypin.report._examples import Example, Examples

REPORT_FILE = "report.html"
MAX_ROWS = 24  # answers of one kind on the page; the rest stays in examples.json
MAX_CHARACTERS = 2000  # of one answer

_KINDS = ("harmful", "harmless", "borderline")


def render(template: str, contents: dict[str, str], **values: Any) -> str:  # noqa: ANN401
    """Return a page.

    Args:
        template: File name of the template, which extends the base.
        contents: Headings of the sections by their ids, for the list at the top.
        values: What the template shows.
    """
    script = Markup(_template("report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_template("report.css")),
            script=script,
            script_hash=f"sha256-{digest}",
            contents=list(contents.items()),
            **values,
        )
    )


def write_page(folder: Path, page: str) -> Path:
    """Write `folder/report.html`; an older one stays until the new one is whole.

    Raises:
        UserError: The disk is full.
    """
    path = folder / REPORT_FILE
    # A model can emit half a surrogate pair, which UTF-8 cannot hold.
    content = page.encode("utf-8", errors="replace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def answers(examples: Examples | None) -> list[tuple[str, list[Example], int]]:
    """Return kind, rows shown and number left out, for the kinds that have rows."""
    rows = examples.rows if examples else []
    kinds = {kind: [row for row in rows if row.kind == kind] for kind in _KINDS}
    return [
        (kind, found[:MAX_ROWS], max(0, len(found) - MAX_ROWS))
        for kind, found in kinds.items()
        if found
    ]


def _template(name: str) -> str:
    return files("safetypin.report").joinpath("templates", name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= _filters()
    environment.globals |= {
        "ARMS": _words.ARMS,
        "ANSWERS": _words.ANSWERS,
        "VERDICTS": _words.VERDICTS,
        "MAX_CHARACTERS": MAX_CHARACTERS,
    }
    return environment


def _filters() -> dict[str, Any]:
    names = (
        "bounds", "counts", "decimal", "duration", "figures", "moment", "number", "p_value",
        "percent", "percent_change", "points", "points_interval", "rate", "ratio", "setting",
        "share",
    )  # fmt: skip
    return {name: getattr(_words, name) for name in names}
