"""The pages say which stages were made by other versions than the run's."""

import pytest
from example_findings import example_contrast, write_findings
from example_metrics import example_metrics, write_audit
from reading import Page

from safetypin.report import write_report

OTHER = [
    {"stages": ["baseline", "sets"], "versions": {"commit": "0ld", "torch": "2.1.0"}},
    {"stages": ["judge"], "versions": {"commit": None}},
]
PAGES = {"audit": (example_metrics, write_audit), "contrast": (example_contrast, write_findings)}


def words(kind, folder, **run):
    make, write = PAGES[kind]
    metrics = make()
    metrics["run"] |= run
    return Page(write_report(write(folder, metrics)).read_text(encoding="utf-8")).words


@pytest.mark.parametrize("kind", PAGES)
def test_stages_that_other_versions_made_are_told(kind, tmp_path):
    shown = words(kind, tmp_path, other_versions=OTHER)
    assert "2 stages were made by commit 0ld, torch 2.1.0: baseline, sets" in shown
    assert "1 stage was made by commit not known: judge" in shown


@pytest.mark.parametrize("kind", PAGES)
def test_a_run_of_one_version_or_of_an_older_file_tells_none(kind, tmp_path):
    assert "made by commit" not in words(kind, tmp_path)
