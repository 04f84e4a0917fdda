"""The cells as a table for other programs, and the paper's Tables 6 and 7 as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetypin.artifacts import write_text
from safetypin.stages import write_table

CELLS_FILE = "cells.parquet"
PAPER_FILES = {"difference": "table6.csv", "projection": "table7.csv"}
RATES = (
    "asr", "refusal", "complied", "degenerate", "harmless_refused", "harmless_degenerate",
    "borderline_refused",
)  # fmt: skip


def write_tables(out: Path, found: Mapping[str, Any]) -> None:
    """Write `cells.parquet`, and a CSV for each of the paper's tables that has a row."""
    rows = [_row("baseline", found["baseline"])]
    rows += [_row(cell["id"], cell) for cell in found["cells"]]
    write_table(out / CELLS_FILE, [_wide(row, rows) for row in rows])
    kinds = {method["name"]: method["kind"] for method in found["methods"]}
    for kind, file in PAPER_FILES.items():
        cells = [cell for cell in found["cells"] if kinds[cell["method"]] == kind]
        if cells:
            table = [_row("baseline", found["baseline"])]
            table += [_row(cell["id"], cell) for cell in cells]
            text = io.StringIO()
            names = {name: None for row in (table[-1], *table) for name in row}
            writer = csv.DictWriter(text, list(names), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
            write_text(out / file, text.getvalue())


def _wide(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row with a value for every column of the table."""
    return {key: row.get(key) for one in (rows[-1], *rows) for key in one}


def _row(name: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    removed = cell.get("removed") or {}
    row: dict[str, Any] = {"cell": name}
    row |= {key: cell.get(key) for key in ("method", "size", "seed", "like", "why_destroyed")}
    row |= {key: removed.get(key) for key in ("unit", "count", "total", "share")}
    for rate in RATES:
        row |= _rate(rate, cell[rate])
    for attack, rates in sorted(cell["attacks"].items()):
        row |= _rate(f"{attack}_mean", rates["mean"])
        row |= _rate(f"{attack}_any_of_{rates['num_variants']}", rates["any_of_n"])
        if attack == "suffix":  # the paper's number is the highest of its suffixes
            row["suffix_best"] = _best(rates.get("by_variant"))
        for judge, rate in sorted(rates.get("also_judged", {}).items()):
            row |= _rate(f"{attack}_judged_by_{judge}", rate)
    for judge, rate in sorted(cell["also_judged"].items()):
        row |= _rate(f"asr_judged_by_{judge}", rate)
    for task, found in sorted(cell["zero_shot"].items()):
        row |= _rate(f"accuracy_{task}", found["accuracy"])
    if mean := cell.get("zero_shot_mean"):
        row["accuracy_mean"] = mean["value"]
        row["accuracy_mean_standard_error"] = mean["standard_error"]
    row["perplexity_ratio"] = cell.get("perplexity_ratio", 1.0)
    row |= {f"paper_{key}": value for key, value in (cell["known"] or {}).items()}
    return row


def _best(rates: Sequence[Mapping[str, Any]] | None) -> float | None:
    values = [rate["value"] for rate in rates or () if rate["value"] is not None]
    return max(values, default=None)


def _rate(name: str, rate: Mapping[str, Any] | None) -> dict[str, Any]:
    low, high = (rate or {}).get("interval") or (None, None)
    return {
        name: rate and rate["value"],
        f"{name}_hits": rate and rate["num_hits"],
        f"{name}_judged": rate and rate["num_judged"],
        f"{name}_low": low,
        f"{name}_high": high,
    }
