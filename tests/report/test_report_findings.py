"""The pages of contrast, patch and guard: their words, and how they behave in a browser."""

import copy
import re

import numpy as np
import pytest
from example_findings import (
    example_contrast,
    example_guard,
    example_patch,
    measured,
    write_findings,
)
from example_sweep import example_sweep
from reading import Page, check_promises

from safetypin.report import write_report
from safetypin.report._neuron_figures import unit_ticks

pytest_plugins = ("browsing",)
ATTACK = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>"
LONG_NAME = "organisation/" + "a-very-long-model-name-" * 8
KINDS = {
    "contrast": example_contrast,
    "patch": example_patch,
    "guard": example_guard,
    "sweep": example_sweep,
}


def page(folder, metrics):
    path = write_report(write_findings(folder, metrics))
    return Page(path.read_text(encoding="utf-8"))


def hostile(kind):
    """Return metrics whose every name is markup, or far too long for a phone."""
    metrics = KINDS[kind](80) if kind == "contrast" else KINDS[kind]()
    for name in ("model_id", "reference_id", "safe_id", "unsafe_id"):
        if metrics.get(name):
            metrics[name] = f"{LONG_NAME}{ATTACK}#0123456789ab"
    if kind == "sweep":
        metrics["title"] = LONG_NAME + ATTACK
        metrics["methods"][0]["about"] = ATTACK
    metrics["run"] |= {"command": f"safetypin {ATTACK} --prompts " + "x" * 300}
    metrics["prompts"] = {ATTACK: {"source": LONG_NAME, "fingerprint": "ab" * 8, "num_prompts": 9}}
    metrics["settings"] |= {ATTACK: ATTACK, "reference": LONG_NAME}
    return metrics


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def report(kind, tmp_path_factory):
    return write_report(write_findings(tmp_path_factory.mktemp(kind), hostile(kind)))


def test_the_page_loads_nothing_and_markup_stays_text(kind, tmp_path):
    found = page(tmp_path, hostile(kind))
    check_promises(found)
    tags = [tag for tag, _ in found.tags]
    assert (tags.count("script"), tags.count("img")) == (1, 0)
    assert found.text.count(ATTACK) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(width, scheme, opened):
    shown = opened(width, color_scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert shown.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_markup_does_not_run(opened):
    shown = opened()
    shown.wait_for_timeout(100)
    assert shown.evaluate("window.ran === undefined")
    assert shown.get_by_text(ATTACK).count() >= 2


@pytest.mark.slow
def test_no_label_of_a_figure_lies_on_another(opened):
    """A tick that matplotlib spells in its own markup, or one too many, shows here."""
    shown = opened(1280)
    clashes = shown.evaluate("""() => {
      const found = [];
      for (const svg of document.querySelectorAll('figure svg')) {
        const boxes = [...svg.querySelectorAll('text')].map((t) => [t, t.getBoundingClientRect()]);
        for (const [t, a] of boxes) for (const [u, b] of boxes)
          if (t !== u && a.left < b.right - 1 && b.left < a.right - 1
              && a.top < b.bottom - 3 && b.top < a.bottom - 3)
            found.push([t.textContent, u.textContent]);
        for (const [t] of boxes) if (t.textContent.includes('$')) found.push([t.textContent]);
      }
      return found;
    }""")
    assert clashes == []


def test_the_patch_page_shows_intervals_controls_and_perplexity_beside_the_answer(tmp_path):
    words = page(tmp_path, example_patch()).words
    top = words[: words.index("The aligned model's activations")]
    for part in ("Cause", "85 %", "95 % interval 70 % to 95 %", "Strongest random set 20 %",
                 "of 3 with as many units in every layer",
                 "perplexity 13.30 and 13.30"):  # fmt: skip
        assert part in top.replace("\u00a0", " ")
    rest = words.replace("\u00a0", " ")
    assert "contrast 20 % 9,216 15 % (3/20) 5 % 1.07\u00d7 85 % 70 % to 95 %" in rest
    assert "contrast 5 % 2,304 n/a, destroyed 50 % 41\u00d7 n/a n/a" in rest
    assert "precision 97 % (96/99)" in rest


def test_a_patch_page_of_an_older_version_has_no_perplexity_and_says_so(tmp_path):
    metrics = copy.deepcopy(example_patch())
    for cell in (*metrics["cells"], metrics["safe"], metrics["unsafe"]):
        cell.pop("perplexity")
        cell.pop("perplexity_ratio", None)
    words = page(tmp_path, metrics).words.replace("\u00a0", " ")
    assert "contrast 20 % 9,216 15 % (3/20) 5 % n/a 85 %" in words


@pytest.mark.parametrize("answer", ["nothing to recover", "undecided"])
def test_a_patch_page_without_a_recovery_says_why(answer, tmp_path):
    metrics = example_patch()
    metrics["verdict"] = {"answer": answer, "fraction": None, "recovery": None, "random": None}
    words = page(tmp_path, metrics).words
    assert "Strongest random set" not in words
    said = "comply with nearly the same" if answer != "undecided" else "No size has both"
    assert said in words


def test_the_guard_page_shows_intervals_and_the_controls_beside_the_answer(tmp_path):
    words = page(tmp_path, example_guard()).words.replace("\u00a0", " ")
    top = words[: words.index("On held-out prompts Every row")]
    for part in ("98 % right 94/96 held-out prompts (95 % interval 93\u201399 %)", "0.985",
                 "95 % interval 0.945 to 1.000", "random units at most 0.970",
                 "TF-IDF at most 0.960"):  # fmt: skip
        assert part in top
    assert (
        "contrast units, logistic 2,304 98 % (93\u201399) 98 % (87\u2013100) 98 % (87\u2013100) "
        "0.900 (0.84\u20130.95) 0.985 (0.94\u20131.00) 0.985 55 1 / 1 39 95 % (83\u201399)"
    ) in words
    assert "random units, seed 0 held-out prompts +2 points \u22121 to +7 p = 0.200" in words


def test_the_guard_page_says_of_which_kind_the_prompts_are_and_how_far_words_get(tmp_path):
    metrics = example_guard()
    for row in metrics["rows"]:
        if row["features"] == "tfidf-char":
            row["other"] = measured(72, 0.75)
        if row["features"] == "tfidf-word":
            row["other"] = measured(65, 0.73)
    words = page(tmp_path, metrics).words.replace("\u00a0", " ")
    reached = "of the held-out prompts, character TF-IDF 75 % of another source"
    said = "every topic has safe and unsafe prompts"
    assert f"Topic-matched: {said}; word TF-IDF still reaches 93 % {reached}." in words
    assert f"Kind of set topic-matched {said} word TF-IDF still reaches 93 % {reached}" in words
    assert "easy set" not in words[: words.index("How to read it")]


@pytest.mark.parametrize(
    ("num_matched", "easy", "said"),
    [
        (0, True, "Easy: topics differ between the classes: none has both safe and unsafe prompts, "
         "so words alone can tell them apart; word TF-IDF reaches 93 %"),
        (3, True, "Easy: only 3 of 80 topics have both safe and unsafe prompts, so words alone can "
         "tell them apart; word TF-IDF reaches 93 %"),
        (60, False, "Topic-matched: 60 of 80 topics have safe and unsafe prompts; word TF-IDF "
         "still reaches 93 %"),
        # older versions called this easy, as TF-IDF reaches 90 %
        (80, True, "Topic-matched: every topic has safe and unsafe prompts; word TF-IDF still"),
    ],
)  # fmt: skip
def test_a_set_of_prompts_is_easy_by_its_topics_and_not_by_what_words_reach(
    tmp_path, num_matched, easy, said
):
    metrics = example_guard()
    metrics["data"] |= {"num_matched_topics": num_matched, "easy": easy}
    assert said in page(tmp_path, metrics).words.replace("\u00a0", " ")


@pytest.mark.parametrize("are_known", [True, False])
def test_the_guard_page_says_where_leaks_could_not_be_checked(tmp_path, are_known):
    metrics = example_guard()
    metrics["neurons"]["are_prompts_known"] = are_known
    said = "The prompts that the set was found on are not known: leaks could not be checked."
    assert (said in page(tmp_path, metrics).words) == (not are_known)


def test_a_guard_page_of_an_older_version_has_a_curve_without_random_units(tmp_path):
    metrics = example_guard()
    for row in metrics["curve"]:
        row.pop("random")
        row.pop("intervals")
    for row in metrics["rows"]:
        row["test"].pop("f1_interval", None)
    metrics["neurons"].pop("are_prompts_known")
    words = page(tmp_path, metrics).words
    assert "Learning curve" in words
    assert "0.900 0.985" in words
    assert "could not be checked" not in words


def test_the_contrast_page_shows_its_chance_levels(tmp_path):
    words = page(tmp_path, example_contrast()).words.replace("\u00a0", " ")
    top = words[: words.index("How to read it A unit")]
    for part in (
        "17,496 neurons",
        "Repeatable 0.60",
        "chance 0.0256",
        "spread evenly it were 8.3 %",
    ):
        assert part in top
    assert "the largest score among 76 neighbouring units" in words


def test_a_small_model_has_no_last_layers_to_speak_of(tmp_path):
    metrics = example_contrast(2)
    metrics["map"] |= {"num_units": 128}
    words = page(tmp_path, metrics).words
    assert "In the last 3 layers" not in words
    assert "a point is a unit" in words


def test_a_map_of_36_layers_and_9728_units_is_two_bitmaps_and_no_more(tmp_path):
    path = write_report(write_findings(tmp_path, example_contrast()))
    assert path.read_text().count("<image") <= 4
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("num_units", "shown"),
    [
        (9728, ["0", "2,000", "4,000", "6,000", "8,000"]),
        (1536, ["0", "400", "800", "1,200"]),
        (128, ["0", "40", "80", "120"]),
    ],
)
def test_the_maps_of_units_say_below_them_which_unit_is_where(num_units, shown, tmp_path):
    metrics = example_contrast()
    metrics["map"] |= {"num_units": num_units}
    html = page(tmp_path, metrics).html
    for name in ("map-place", "map-rank"):
        svg = html[html.index(f'<title id="{name}-title">') :]
        labels = re.findall(r"<text [^>]*>([^<]*)</text>", svg[: svg.index("</svg>")])
        assert labels[: len(shown)] == shown


@pytest.mark.parametrize("num_units", [9728, 1536, 128, 3])
def test_a_unit_is_numbered_below_the_column_that_holds_its_score(num_units):
    num_columns = min(128, num_units)
    bins = np.array_split(np.arange(num_units), num_columns)
    columns, units = unit_ticks(num_units, num_columns)
    assert 3 <= len(units) <= 6
    for column, unit in zip(columns, units, strict=True):
        assert unit in bins[round(column)]
