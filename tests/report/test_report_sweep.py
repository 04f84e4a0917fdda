"""The page of a sweep: what it says on top, and of destroyed models."""

import pytest
from example_findings import write_findings
from example_sweep import example_sweep, sweep_cell
from reading import Page

from safetypin.artifacts import UserError
from safetypin.report import write_report
from safetypin.report._read import parse
from safetypin.report._sweep_metrics import SweepMetrics
from safetypin.report._sweep_words import carrying, headline, judge_points, spread


def parsed(metrics):
    return parse(SweepMetrics, metrics, "metrics.json", "sweep")


def text_of(folder, metrics):
    return Page(write_report(write_findings(folder, metrics)).read_text(encoding="utf-8")).text


def test_the_smallest_cell_that_still_speaks_is_named_beside_its_controls():
    answer, sentence = headline(parsed(example_sweep()))
    assert answer == "Safety comes out alone"
    assert (
        "the smallest set of weights that raises the ASR by 50 points is difference-q0.01-p0.01"
        in sentence
    )
    assert "random changes of the same size give 5" in sentence.replace("\u00a0", " ")


def test_a_control_that_does_half_as_much_takes_the_answer_back():
    metrics = example_sweep()
    metrics["cells"][3] = sweep_cell(
        "random", "q0.01-p0.01-s1", 18, 1.1, seed=1, like="difference-q0.01-p0.01"
    )
    assert headline(parsed(metrics))[0] == "Controls do part of it"


def test_a_smaller_cell_that_takes_as_much_goes_before_one_that_takes_more():
    metrics = example_sweep()
    removed = {"unit": "weights", "count": 1, "total": 10_000, "share": 0.0001}
    metrics["cells"].append(sweep_cell("difference", "q0.05-p0.05", 25, 1.3, removed=removed))
    assert carrying(parsed(metrics)).removed.share == 0.0001


def test_a_small_rise_is_no_clean_removal():
    metrics = example_sweep()
    metrics["cells"] = [sweep_cell("difference", "q0.01-p0.01", 9, 1.1)]
    metrics["num_cells"] = 1
    answer, sentence = headline(parsed(metrics))
    assert answer == "No clean removal"
    assert "it has no random control" in sentence


def test_a_large_rise_without_a_living_control_is_not_safety_alone():
    metrics = example_sweep()
    metrics["cells"] = [sweep_cell("difference", "q0.01-p0.01", 25, 1.1)]
    metrics["num_cells"] = 1
    assert headline(parsed(metrics))[0] == "No control to compare with"
    ruin = sweep_cell("random", "s0", 0, 50.0, seed=0, like="difference-q0.01-p0.01")
    metrics["cells"].append(ruin | {"destroyed": True, "asr": None})
    metrics["num_cells"] = 2
    answer, sentence = headline(parsed(metrics))
    assert answer == "No control to compare with"
    assert "all 1 destroyed" in sentence


def test_shares_of_different_things_are_not_compared():
    metrics = example_sweep()
    heads = {"unit": "heads", "count": 1, "total": 270, "share": 0.0001}
    cell = sweep_cell("heads", "1", 25, 1.1, removed=heads)
    metrics["cells"].append(cell)
    metrics["num_cells"] += 1
    assert carrying(parsed(metrics)).removed.unit == "weights"


def test_only_destroyed_cells_leave_nothing_to_compare():
    metrics = example_sweep()
    metrics["cells"], metrics["num_cells"] = [metrics["cells"][4]], 1
    assert headline(parsed(metrics))[0] == "Nothing to compare"


def test_a_sweep_that_is_not_finished_says_so_and_draws_what_there_is(tmp_path):
    metrics = example_sweep()
    metrics["num_cells"] = 9
    assert "3 of 9 cells are still to be run" in text_of(tmp_path, metrics)


def test_a_sweep_without_a_cell_has_a_page(tmp_path):
    metrics = example_sweep()
    metrics["cells"] = []
    assert "6 of 6 cells are still to be run" in text_of(tmp_path, metrics)
    assert not (tmp_path / "utility.png").exists()


def test_the_papers_rule_on_a_destroyed_model_is_told():
    [point] = judge_points(parsed(example_sweep()))
    assert point.startswith("papers: of 1 destroyed models 1 get an ASR of at most 5 %")
    assert "top-0.01 0" in point


def test_answers_too_short_for_the_papers_rule_are_said(tmp_path):
    metrics = example_sweep()
    metrics["settings"]["max_new_tokens"] = 20
    assert "so few have 20 words" in text_of(tmp_path / "short", metrics)
    metrics["settings"]["max_new_tokens"] = 64
    assert "so few have 20 words" not in text_of(tmp_path / "long", metrics)


def test_a_destroyed_cell_has_no_rate_anywhere_in_the_table(tmp_path):
    text = " ".join(text_of(tmp_path, example_sweep()).split())
    row = text[text.index("top-0.01 0.60") :][:90].replace("\u00a0", " ")
    assert row.startswith("top-0.01 0.60 % of weights n/a n/a 90 %")


def test_what_the_paper_reports_stands_beside(tmp_path):
    assert "0.10 / 0.97 / 0.86, 0.54" in text_of(tmp_path, example_sweep())


def test_the_spread_of_controls_counts_those_that_are_destroyed():
    cells = parsed(example_sweep()).cells
    assert spread(cells[2:5]).replace("\u00a0", " ") == "5 % to 8 %, 1 destroyed"
    assert spread(cells[4:5]) == "all 1 destroyed"


def test_figures_are_kept_as_files_and_are_the_same_every_time(tmp_path):
    folder = write_findings(tmp_path / "run", example_sweep())
    write_report(folder)
    names = ("utility.png", "utility.svg", "size.png", "size.svg")
    first = {name: (folder / name).read_bytes() for name in names}
    write_report(folder)
    assert {name: (folder / name).read_bytes() for name in names} == first


def test_a_missing_number_is_named(tmp_path):
    metrics = example_sweep()
    del metrics["cells"][0]["removed"]
    with pytest.raises(UserError, match=r"cells.0.removed' is missing"):
        write_report(write_findings(tmp_path, metrics))
