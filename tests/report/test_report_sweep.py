"""The page of a sweep: what it says on top, and of destroyed models."""

import pytest
from example_findings import write_findings
from example_metrics import rate
from example_sweep import attacked, example_sweep, sweep_cell
from matplotlib.figure import Figure as Canvas
from reading import Page

from safetypin.artifacts import UserError
from safetypin.experiment.sweep._collect import _zero_shot
from safetypin.experiment.sweep._tables import _best, _row
from safetypin.report import write_report
from safetypin.report._read import parse
from safetypin.report._style import PAPER
from safetypin.report._sweep_figures import accuracy_picture, size_picture, utility_picture
from safetypin.report._sweep_metrics import SweepMetrics
from safetypin.report._sweep_paper import paper_table
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
        "random", "q0.01-p0.01-s1", 20, 1.1, seed=1, like="difference-q0.01-p0.01"
    )
    assert headline(parsed(metrics))[0] == "Controls do part of it"


def test_what_the_untouched_model_answers_anyway_is_no_rise_of_a_control():
    metrics = example_sweep()
    metrics["baseline"]["asr"] = rate(16, 40)
    rise = metrics["cells"][0]["asr_change"] | {"value": 0.55}
    metrics["cells"][0] |= {"asr": rate(38, 40), "asr_change": rise}
    for place, hits in ((2, 16), (3, 20)):  # 40 % and 50 %, of which 40 % are not the controls'
        metrics["cells"][place]["asr"] = rate(hits, 40)
    assert headline(parsed(metrics))[0] == "Safety comes out alone"
    metrics["cells"][3]["asr"] = rate(28, 40)
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


def first_table(metrics):
    m = parsed(metrics)
    table = paper_table(m, "Table 6", [cell for cell in m.cells if cell.method == "difference"])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [{key: text.replace("\u00a0", " ") for key, text in row.items()} for row in rows]


def test_the_papers_vanilla_stands_beside_the_attack_with_a_system_prompt():
    metrics = example_sweep()
    for part, hits in ((metrics["baseline"], 1), *((cell, 30) for cell in metrics["cells"])):
        part["attacks"] = {"system": attacked(hits, 40), **part["attacks"]}
    untouched, row, unknown = first_table(metrics)
    columns = list(row)
    assert columns[columns.index("system by `papers`") + 1] == "paper: vanilla"
    assert columns[columns.index("decoding by `papers`") + 1] == "paper: decoding"
    assert (row["paper: row"], row["ASR system"], row["paper: vanilla"]) == ("1/1", "75 %", "0.10")
    assert (row["paper: suffix"], row["paper: decoding"]) == ("0.97", "0.86")
    assert row["paper: mean accuracy"] == "0.54"
    assert (untouched["paper: row"], unknown["paper: row"]) == ("", "")


def test_what_the_published_judge_says_stands_in_the_tables():
    _, row, _ = first_table(example_sweep())
    assert row["ASR bare request"].startswith("85 %")
    assert row["by `papers`"] == "85 %"
    assert row["decoding by `papers`"] == "25 %"


def test_without_a_known_answer_no_column_is_the_papers():
    metrics = example_sweep()
    metrics["cells"][0]["known"] = None
    assert not any(name.startswith("paper") for name in first_table(metrics)[0])


def test_what_still_differs_from_the_paper_is_said(tmp_path):
    text = text_of(tmp_path / "known", example_sweep())
    assert "the paper's vanilla ASR is with Llama's system prompt (the attack" in text
    assert "decoding attack uses no chat template" in text
    metrics = example_sweep()
    metrics["cells"][0]["known"] = None
    assert "What still differs" not in text_of(tmp_path / "unknown", metrics)


def test_a_sweep_without_suffixes_says_so(tmp_path):
    metrics = example_sweep()
    assert "No suffix attack was run" in text_of(tmp_path / "none", metrics)
    for part in (metrics["baseline"], *metrics["cells"]):
        part["attacks"]["suffix"] = attacked(10, 40)
    assert "No suffix attack was run" not in text_of(tmp_path / "some", metrics)


def points_of(picture):
    """Return the title of every panel with its points: how high, and whether hollow."""
    figure = Canvas(figsize=(picture.width, picture.height))
    picture.draw(figure)
    return [
        (
            axes.get_title(loc="left"),
            [
                (line.get_ydata()[0], line.get_markerfacecolor() in ("none", PAPER))
                for line in axes.lines
                if len(line.get_xdata()) == 1
            ],
        )
        for axes in figure.axes
    ]


def test_destroyed_cells_are_hollow_in_the_panel_of_every_attack():
    metrics = example_sweep()
    panels = points_of(utility_picture(parsed(metrics)))
    assert [title for title, _ in panels] == ["bare request", "decoding, mean of 2"]
    for _, points in panels:
        assert len(points) == len(metrics["cells"]) == 6
        assert [is_hollow for _, is_hollow in points].count(True) == 1
    assert (0.9, True) in panels[1][1]  # 36 of 40, as judged


def test_a_cell_that_only_an_attack_destroys_is_hollow_in_that_panel_alone():
    metrics = example_sweep()
    metrics["cells"][0]["attacks"]["decoding"]["mean"] = None
    panels = points_of(utility_picture(parsed(metrics)))
    hollow = [[is_hollow for _, is_hollow in points].count(True) for _, points in panels]
    assert hollow == [1, 2]


def test_attacks_stand_against_zero_shot_accuracy_where_it_was_measured(tmp_path):
    metrics = example_sweep()
    assert accuracy_picture(parsed(metrics)) is None
    metrics["baseline"]["zero_shot_mean"] = {"value": 0.5, "standard_error": 0.02}
    for place, cell in enumerate(metrics["cells"]):
        cell["zero_shot_mean"] = {"value": 0.3 + 0.02 * place, "standard_error": 0.02}
    figure = Canvas(figsize=(6, 6))
    accuracy_picture(parsed(metrics)).draw(figure)
    for axes in figure.axes:
        drawn = {float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
        assert sorted(drawn) == pytest.approx([0.3 + 0.02 * place for place in range(6)])
        assert axes.get_xlabel() == "mean zero-shot accuracy"
    assert "against the mean accuracy on the zero-shot tasks" in text_of(tmp_path, metrics)
    assert (tmp_path / "accuracy.svg").is_file()
    assert (tmp_path / "accuracy.png").is_file()


def test_every_panel_shows_the_untouched_model():
    figure = Canvas(figsize=(6, 6))
    metrics = parsed(example_sweep())
    for picture in (utility_picture(metrics), size_picture(metrics)):
        figure.clear()
        picture.draw(figure)
        for axes in figure.axes:
            name = "decoding" if axes.get_title(loc="left").startswith("decoding") else "bare"
            level = {"bare": 4 / 48, "decoding": 2 / 40}[name]
            lines = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
            assert list(lines[0]) == [level, level]


def test_a_run_before_rates_as_judged_were_kept_still_opens(tmp_path):
    metrics = example_sweep()
    for part in (metrics["baseline"], *metrics["cells"]):
        for found in part["attacks"].values():
            del found["mean_as_judged"], found["also_judged"]
    assert "top-0.01" in text_of(tmp_path, metrics)


def test_the_size_is_drawn_for_every_attack_and_every_unit():
    panels = points_of(size_picture(parsed(example_sweep())))
    counts = [(title, len(points)) for title, points in panels]
    bare, decoding = "bare request", "decoding, mean of 2"
    assert counts == [(bare, 5), (bare, 1), (decoding, 5), (decoding, 1)]  # weights, then ranks


def test_what_the_sets_share_is_shown_by_matrix_and_for_unequal_sizes(tmp_path):
    metrics = example_sweep()
    metrics["sets"]["overlap"]["snip"]["by_matrix"] = {
        "layers": [0, 1],
        "modules": ["q_proj", "up_proj"],
        "jaccard": [[0.25, 0.5], [0.75, None]],
        "chance": [[0.05, 0.05], [0.05, None]],
        "noise_floor": [[0.6, 0.7], [0.8, None]],
    }
    metrics["sets"]["between"] |= {
        "chance": [[1.0, 0.02], [0.02, 1.0]],
        "share_of_smaller": [[1.0, 0.9], [0.9, 1.0]],
        "chance_share_of_smaller": [[1.0, 0.05], [0.05, 1.0]],
    }
    text = text_of(tmp_path, metrics)
    assert "snip by matrix: Jaccard index / by chance / between halves of the prompts" in text
    assert "0.25 / 0.05 / 0.60" in text
    assert "n/a / n/a / n/a" in text
    assert "0.250 (0.020)" in text
    assert "Share of the smaller of two sets that lies in the larger (by chance)" in text
    assert "0.900 (0.050)" in text
    assert "in each matrix." in text


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


def test_a_sweep_of_ranks_alone_shows_what_they_share(tmp_path):
    metrics = example_sweep()
    metrics["sets"] = None
    assert metrics["ranks"] is not None
    text = text_of(tmp_path / "ranks", metrics)
    assert "What the ranks share" in text
    assert "shared squared cosines over their number, by layer" in text
    assert "Jaccard index of two sets" not in text
    metrics["ranks"] = None
    assert "What the ranks share" not in text_of(tmp_path / "none", metrics)


def test_the_best_suffix_stands_beside_the_papers(tmp_path):
    metrics = example_sweep()
    for part in (metrics["baseline"], *metrics["cells"]):
        suffix = attacked(10, 40) | {"by_variant": [rate(4, 40), rate(16, 40)]}
        part["attacks"]["suffix"] = suffix
    _, row, _ = first_table(metrics)
    assert (row["ASR suffix"], row["suffix, best one"], row["suffix, any"]) == (
        "25 %", "40 %", "25 %",
    )  # fmt: skip
    assert _best(suffix["by_variant"]) == 0.4
    text = text_of(tmp_path, metrics)
    assert "suffix, best one` is the one" in text


def test_the_mean_accuracy_has_its_standard_error():
    tasks = [
        {
            "task": name,
            "metric": "acc",
            "documents": [0, 1, 2, 3],
            "correct": [True, True, False, hit],
        }
        for name, hit in (("boolq", True), ("rte", False))
    ]
    found = _zero_shot({"zero_shot": {"tasks": tasks}})
    error = found["zero_shot_mean"]["standard_error"]
    assert (found["zero_shot_mean"]["value"], error > 0.1) == (0.625, True)
    assert _zero_shot({"zero_shot": None}) == {"zero_shot": {}, "zero_shot_mean": None}
    metrics = example_sweep()
    for part in (metrics["baseline"], *metrics["cells"]):
        part |= {"zero_shot": found["zero_shot"], "zero_shot_mean": found["zero_shot_mean"]}
        # keys that only real metrics have
        part |= dict.fromkeys(("refusal", "complied", "harmless_degenerate"), rate(1, 2))
    _, row, _ = first_table(metrics)
    assert row["mean accuracy"] == f"62 % (standard error {100 * error:.1f} %)"
    kept = _row("x", metrics["cells"][0])
    assert (kept["accuracy_mean"], kept["accuracy_mean_standard_error"]) == (0.625, error)
