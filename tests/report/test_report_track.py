import copy
import json
import re

import pytest
from example_metrics import rate, row
from example_track import GROUPS, MEASURES, SETS, STEPS, example_track, write_track
from matplotlib.figure import Figure
from reading import Page, check_promises

from doc_pages import ARTIFACTS, table
from safetypin.artifacts import UserError
from safetypin.report import _words, write_report, write_track_report
from safetypin.report._read import parse
from safetypin.report._track_metrics import TrackMetrics
from safetypin.report._track_pictures import pictures
from safetypin.report._track_words import expected_gap

OPTIONAL = {"settings", "kind"}
PICTURES = {
    "drift-map", "drift-map-expected", "drift-relative-change", "drift-rms-units", "drift-steps",
    "drift-steps-groups", "drift-steps-norm-ratio", "drift-steps-relative-change",
    "drift-steps-row-cosine", "overlap", "overlap-layers", "overlap-map", "rank-changes",
    "rates", "scores-layers", "scores-map",
    *(f"scores-{score}-{group.replace('_', '-')}" for score in ("safety", "utility")
      for group in GROUPS),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a track, with its report and figures."""
    folder = write_track(tmp_path_factory.mktemp("track"))
    write_track_report(folder)
    return folder


@pytest.fixture(scope="module")
def found(made):
    return Page((made / "report.html").read_text(encoding="utf-8"))


def parsed(metrics):
    return parse(TrackMetrics, metrics, "metrics.json", "track")


def page(folder, metrics=None, answers=None):
    path = write_track_report(write_track(folder, metrics, answers))
    return Page(path.read_text(encoding="utf-8"))


def test_the_findings_come_first_in_words_with_their_rules(found):
    top = found.words[: found.words.index("What became of the answers")]
    for part in (
        "Safety fell It complied with 4 of 48", "8 % → 44 %", "1.10\u00d7 expected", "p = 0.004",
        "Did the safety-critical weights move more than others? More.", "C supported.",
        "A stated rule.", "43 %", "chance 0.31 %", "two halves of the prompts 61 %",
        "checkpoint-100 is left out",
    ):  # fmt: skip
        assert part in top


def test_every_group_shows_value_expectation_counts_and_p_value(found):
    table = found.words[found.words.index("Could change rms units") :]
    table = table[: table.index("Where it moved")]
    assert table.count("329,012/329,012") == len(GROUPS)
    for part in ("0.0131 expected 0.0119; p = 0.004", "sd 0.0039", "0.999912 expected 0.999921"):
        assert part in table


def test_the_papers_measure_stands_apart_with_its_warning(found):
    words = found.words
    part = words[
        words.index("The papers\u2019 relative change") : words.index("What became of the sc")
    ]
    assert "Not evidence. Mean |change| / |weight| is dominated by the smallest |W|" in part
    assert "would still show 20\u00d7 as much for random weights" in part
    before = words[words.index("Could change rms units") : words.index("Where it moved")]
    assert "relative change" not in before.replace("relative_change", "relative change")


def test_the_gap_of_the_papers_measure_is_that_of_the_expectations():
    metrics = example_track()
    assert "20\u00d7" in expected_gap(parsed(metrics))
    for shown in metrics["drift"]["rows"]:
        if shown["measure"] == "relative_change" and shown["group"] == "random":
            shown["expected"] = None
    assert expected_gap(parsed(metrics)) is None


def test_overlaps_stand_beside_chance_noise_and_control(found):
    line = re.search(r'<tr class="critical"><th scope="row">safety-critical set</th><td class="n">'
                     r"329,012</td>.*?</tr>", found.html)  # fmt: skip
    assert line
    for part in ("141,475", "43.0\u00a0%", "0.274", "0.3\u00a0%", "61.0\u00a0%", "35.0\u00a0%"):
        assert part in line.group()


def test_scores_stand_beside_control_and_noise_with_intervals(found):
    words = found.words
    part = words[words.index("Safety scores Group") :]
    for heading in ("before → after", "before → after the control run", "no training"):
        assert heading in part
    assert "\u221239 % \u221244 % to \u221235 %" in part


def test_the_page_loads_nothing_and_every_link_of_it_has_a_target(found):
    check_promises(found)


def test_every_figure_lies_beside_the_page_as_png_and_svg(made):
    files = {path.name for path in (made / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")}
    for path in (made / "figures").iterdir():
        begin = path.read_bytes()[:8]
        assert (
            begin == b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else begin.startswith(b"<?xml")
        )


def test_the_docs_name_every_figure():
    rows = table(ARTIFACTS, "### `safetypin track RUN --out DIR`")
    said = next(about for name, about in rows if name.startswith("`figures/"))
    names = re.findall(r"`([^`]+)`", said)
    patterns = [re.sub(r"SCORE|GROUP|MEASURE", "[a-z-]+", name) for name in names]
    for picture in PICTURES:
        assert any(re.fullmatch(pattern, picture) for pattern in patterns), picture
    for pattern in patterns:
        assert any(re.fullmatch(pattern, picture) for picture in PICTURES), pattern


def panels(name, metrics):
    """Return the axes of one figure of a track."""
    figure = Figure()
    dict(pictures(parsed(metrics)))[name].draw(figure)
    return figure.axes


def test_every_set_has_its_overlap_by_layer_in_full(tmp_path):
    metrics = example_track(control=False)
    shown = panels("overlap_layers", metrics)
    assert [axes.get_title(loc="left") for axes in shown] == [_words.ARMS[name] for name in SETS]
    for axes, group in zip(shown, SETS, strict=True):
        values = [r["jaccard"] for r in metrics["overlap"]["by_layer"] if r["group"] == group]
        line = next(line for line in axes.lines if line.get_marker() == "o")
        assert list(line.get_ydata()) == values
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > max(values)


def test_every_set_has_its_fall_by_layer_of_both_scores():
    metrics = example_track()
    for place, layer in enumerate(metrics["dynamics"]["by_layer"]):
        layer["drop"] = place / 1000
    shown = panels("drops", metrics)
    wanted = [(score, group) for score in ("safety", "utility") for group in SETS]
    for axes, (score, group) in zip(shown, wanted, strict=True):
        line = next(line for line in axes.lines if line.get_marker() == "o")
        assert list(line.get_ydata()) == [
            1 - row["drop"]
            for row in metrics["dynamics"]["by_layer"]
            if (row["model"], row["score"], row["group"]) == ("tuned", score, group)
        ]


def test_every_set_is_mapped_by_the_score_that_it_is_the_top_of():
    titles = [axes.get_title(loc="left") for axes in panels("score_map", example_track())]
    assert [title for title in titles if title not in ("", "after")] == [
        "safety-critical set, safety score before",
        "top safety, safety score before",
        "top utility, utility score before",
    ]
    titles = [axes.get_title(loc="left") for axes in panels("overlap_map", example_track())]
    assert [title for title in titles if title not in ("", "noise floor")] == [
        _words.ARMS[name] for name in SETS
    ]


def test_changes_of_rank_stand_beside_control_and_noise():
    metrics = example_track()
    changes = {"tuned": 0.02, "control": -0.03, "noise": -0.04}
    for moved in metrics["dynamics"]["rows"]:
        by = changes[moved["model"]] * (2 if moved["score"] == "utility" else 1)
        moved |= {"rank_before": 0.5, "rank_after": 0.5 + by}
    for axes, factor in zip(panels("ranks", metrics), (1, 2), strict=True):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == pytest.approx([2 * factor, -3 * factor] * len(GROUPS))
        strokes = [stroke.get_segments()[0][0][0] for stroke in axes.collections]
        assert strokes == pytest.approx([-4 * factor] * len(GROUPS))


def test_a_track_of_an_older_version_shows_the_critical_set_alone(tmp_path):
    metrics = example_track()
    found = metrics["dynamics"]
    found["by_layer"] = [
        {key: value for key, value in row.items() if key != "group"}
        for row in found["by_layer"]
        if (row["group"], row["score"]) == ("critical", "safety")
    ]
    found["maps"] = [one for one in found["maps"] if one["group"] in ("critical", "matched")]
    assert [a.get_title(loc="left") for a in panels("drops", metrics)] == ["safety-critical set"]
    assert len(panels("score_map", metrics)) == 3  # before, after and their scale
    found["maps"] = []
    assert "Mean score by layer and module" not in page(tmp_path, metrics).html


def test_the_same_files_give_the_same_bytes(made, tmp_path):
    write_track_report(write_track(tmp_path))
    for path in (made / "report.html", *(made / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / path.relative_to(made)).read_bytes(), path.name


def test_harmful_text_lies_only_inside_closed_redactions(found):
    html = found.html
    for part in re.findall(r'<details class="sealed">.*?</details>', html, re.DOTALL):
        html = html.replace(part, "")
    assert "HARMFUL-" not in html
    assert "Why is the sky blue?" in html


def test_names_paths_and_answers_stay_text(tmp_path):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7*7 }}"
    metrics = example_track()
    metrics["reference"]["name"] = metrics["tuned"]["path"] = metrics["tuned"]["folder"] = attack
    metrics["findings"][0]["sentence"] = metrics["findings"][1]["answer"] = attack
    metrics["set"]["name"] = metrics["set"]["path"] = metrics["notes"][0] = attack
    metrics["drift"]["notes"][0] = metrics["dynamics"]["notes"][0] = attack
    metrics["drift"]["roles"][0]["role"] = metrics["run"]["command"] = attack
    answers = {"rows": [row("harmful", attack, (attack, "refusal"), (attack, "complied"))]}
    shown = page(tmp_path, metrics, answers)
    assert [tag for tag, _ in shown.tags].count("script") == 1
    assert not [tag for tag, _ in shown.tags if tag == "img"]
    assert shown.text.count(attack) >= 14


def frozen(metrics):
    metrics.update(example_track(frozen=True))


def no_scores(metrics):
    metrics |= {"scores": None, "dynamics": None, "overlap": None, "control": None}


def no_control(metrics):
    metrics.update(example_track(control=False))


def taken_from_the_run(metrics):
    metrics["outcome"]["is_evaluated_here"] = False


def destroyed(metrics):
    metrics["outcome"]["after"] |= {"destroyed": "it repeats one word", "asr": rate(3, 48)}
    metrics["outcome"]["paired"]["asr"] = None
    metrics["findings"][0] |= {"answer": "destroyed", "sentence": "It repeats one word."}


def one_checkpoint_of_unknown_step(metrics):
    metrics["checkpoints"] = [{"step": 0, "path": "model", "kind": "peft"}]
    metrics["drift"]["rows"] = [
        r | {"step": 0} for r in metrics["drift"]["rows"] if r["step"] == STEPS[-1]
    ]


def empty_maps_and_histograms(metrics):
    for name in ("value", "expected"):
        metrics["drift"]["maps"][0][name] = [[None] * 7 for _ in range(30)]
    for histogram in metrics["dynamics"]["histograms"]:
        histogram |= {"edges": [], "before": [], "after": [], "zeros_before": 4}


def nothing_untied(metrics):
    for shown in metrics["drift"]["rows"]:
        shown |= {"low": None, "high": None, "p_value": None, "p_corrected": None, "spread": None}
    for shown in metrics["dynamics"]["rows"]:
        shown |= {"drop": None, "drop_interval": None, "against_matched": None}
    for shown in metrics["overlap"]["rows"]:
        shown |= {"noise_share": None, "noise_jaccard": None, "share": None, "jaccard": None}


def two_groups(metrics):
    kept = {"critical", "random"}
    metrics["groups"] = [g for g in metrics["groups"] if g["group"] in kept]
    metrics["drift"]["rows"] = [r for r in metrics["drift"]["rows"] if r["group"] in kept]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (frozen, "not trainable: the run held it, or no adapter reaches it"),
        (no_scores, "No scores were made of the tuned model ( --no-rescore )."),
        (no_control, "No control run was given."),
        (taken_from_the_run, "as the run of tune measured them"),
        (destroyed, "8 % → n/a"),
        (one_checkpoint_of_unknown_step, "an adapter"),
        (empty_maps_and_histograms, "Where it moved"),
        (nothing_untied, "Of the set still in the set made anew n/a"),
        (two_groups, "The groups of weights"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_report_is_made_of_whatever_a_track_found(change, shown, tmp_path):
    metrics = copy.deepcopy(example_track())
    change(metrics)
    if change is one_checkpoint_of_unknown_step:
        metrics["tuned"] |= {"kind": "peft", "step": 0}
    assert shown in page(tmp_path, metrics).words


def test_the_report_command_knows_the_folder_of_a_track(made, tmp_path):
    folder = write_track(tmp_path / "track")
    assert write_report(folder).read_bytes() == (made / "report.html").read_bytes()


@pytest.mark.parametrize("key", sorted(example_track().keys() - OPTIONAL))
def test_a_missing_key_is_an_error_that_names_it(key):
    metrics = {name: value for name, value in example_track().items() if name != key}
    with pytest.raises(UserError, match=rf"'{key}' is missing.*run the track again"):
        parsed(metrics)


def test_a_map_of_the_wrong_shape_is_refused():
    metrics = example_track()
    metrics["drift"]["maps"][0]["expected"][2].pop()
    with pytest.raises(UserError, match=r"expected must have 30 rows of 7 modules"):
        parsed(metrics)


def test_bins_without_ends_are_refused():
    metrics = example_track()
    metrics["dynamics"]["histograms"][0]["edges"].pop()
    with pytest.raises(UserError, match=r"40 edges for 40 bins"):
        parsed(metrics)


def test_the_example_has_every_measure_and_step():
    rows = example_track()["drift"]["rows"]
    assert len(rows) == len(STEPS) * len(GROUPS) * len(MEASURES)
    assert json.dumps(rows, allow_nan=False)
