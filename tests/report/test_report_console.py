import io

import pytest
from example_metrics import example_metrics
from rich.console import Console

from safetypin.artifacts import UserError
from safetypin.report import print_summary


def printed(metrics, width=110):
    out = io.StringIO()
    print_summary(metrics, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def test_the_summary_begins_with_the_verdict_and_its_numbers():
    lines = printed(example_metrics()).splitlines()
    assert lines[0] == "BRITTLE  smollm2-aligned"
    assert "Share of weights removed: 0.31 %" in lines
    assert "Harmful requests complied with (ASR): 8 % to 65 %" in lines
    assert "Strongest control of the same size: +10 points" in lines
    assert any("precision 97 % and recall 90 %" in line for line in lines)


def test_the_table_shows_a_destroyed_set_without_a_rate():
    lines = printed(example_metrics()).splitlines()
    rows = [line.split() for line in lines if "q = p = 5 %" in line]
    assert len(rows) == 1
    assert "n/a" in rows[0]
    assert "destroyed" in rows[0]


def test_the_summary_is_ascii_and_takes_no_markup_from_a_name():
    metrics = example_metrics()
    metrics["model"]["name"] = "[bold]model[/bold]\x1b[31m"
    metrics["judge"] |= {"precision": None}
    text = printed(metrics)
    assert text.isascii()
    assert "[bold]model[/bold]" in text
    assert "\x1b" not in text
    assert "not validated on human labels" in text


def test_the_summary_of_an_audit_without_cells_has_no_table():
    metrics = example_metrics("undecided")
    metrics |= {"cells": [], "where": None}
    text = printed(metrics)
    assert "UNDECIDED" in text
    assert "perplexity" not in text


def test_metrics_of_another_shape_are_refused():
    with pytest.raises(UserError, match="'verdict' is missing"):
        printed({key: value for key, value in example_metrics().items() if key != "verdict"})
