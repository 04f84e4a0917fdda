import copy
import json
import re

import pytest
from example_metrics import rate, row
from example_track import GROUPS, MEASURES, STEPS, example_track, write_track
from reading import Page, check_promises

from safetypin.artifacts import UserError
from safetypin.report import write_report, write_track_report
from safetypin.report._read import parse
from safetypin.report._track_metrics import TrackMetrics
from safetypin.report._track_words import expected_gap

OPTIONAL = {"settings", "kind"}
PICTURES = {
    "drift-map", "drift-map-expected", "drift-relative-change", "drift-rms-units", "drift-steps",
    "drift-steps-groups", "drift-steps-norm-ratio", "drift-steps-relative-change",
    "drift-steps-row-cosine", "overlap", "overlap-layers", "overlap-map", "overlap-map-noise",
    "rates", "scores-layers", "scores-map-after", "scores-map-before",
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
