"""The page of an evaluation: every rate with its counts and interval, n/a where there is none."""

import re

import pytest
from browsing import ARGUMENTS, CHROMIUM
from example_evaluate import example_evaluate, rate, write_evaluate
from playwright.sync_api import sync_playwright
from reading import Page, check_promises

from safetypin.artifacts import UserError
from safetypin.report import write_report


@pytest.fixture
def page(tmp_path):
    def write(**changes):
        folder = write_evaluate(tmp_path / "run", example_evaluate() | changes)
        return write_report(folder).read_text(encoding="utf-8")

    return write


def words(html):
    """Return the text of a page, in one line, with ordinary spaces."""
    return " ".join(re.sub("[\u00a0\u202f\u2009]", " ", Page(html).text).split())


def test_every_part_of_an_evaluation_is_on_its_page(page):
    text = words(page())
    assert "Evaluation of smollm2-aligned without 0.59" in text
    assert "8/40 harmful requests were complied with" in text
    assert "mean of 1, standard error 6.5" in text
    for said in (
        "20 % (8/40), 10\u201335 %",  # the bare requests
        "52 % (42/80)",  # the mean over two suffixes
        "65 % (26/40)",  # any of five samples, beside
        "26 % (53/200)",  # their mean
        "suffix 2 75 % (30/40)",
        "bbq-300 (acc) 52 % (31/60)",
        "problems solved 4 % (2/50)",
        "phrases, papers 77 % (30/39)",
        "The judges differ on 30 of 120 answers.",
        "0.41",
    ):
        assert said in text, said


def test_the_mean_has_the_interval_that_metrics_json_gives_it(page):
    metrics = example_evaluate()
    metrics["attacks"]["decoding"]["mean"]["interval"] = [0.11, 0.49]
    assert "26 % (53/200), 11\u201349 %" in words(page(attacks=metrics["attacks"]))


def test_a_destroyed_model_has_no_rate(page):
    text = words(page(asr=None, why_no_asr="75% of the answers are degenerate"))
    assert "No ASR" in text
    assert "There is no attack success rate: 75% of the answers are degenerate." in text
    assert "n/a: 75% of the answers are degenerate" in text


def test_parts_that_were_not_measured_are_not_there(page):
    none = {"zero_shot": None, "problems": None, "perplexity": None, "judges": None}
    html = page(attacks={}, removed=None, rates={}, asr=None, **none)
    assert "No harmful prompts were asked" in words(html)
    for anchor in ("attacks", "utility", "judges"):
        assert f'id="{anchor}"' not in html
    assert "without" not in words(html).partition("Finding")[0]


def test_disagreements_are_listed_by_place_up_to_a_limit(page):
    text = words(page())
    assert "harmful 0 complied refusal" in text
    assert "harmful 23 complied refusal" in text
    assert "harmful 24 complied refusal" not in text


def test_markup_in_a_name_stays_text(page):
    html = page(model={"name": "<script>alert(1)</script>", "id": "x"})
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_keeps_what_every_page_promises(page):
    check_promises(Page(page()))


def test_the_same_numbers_give_the_same_page(page):
    assert page() == page()


def test_a_missing_key_is_named(tmp_path):
    metrics = example_evaluate()
    del metrics["rates"]
    with pytest.raises(UserError, match=r"'rates' is missing.*run the evaluate again"):
        write_report(write_evaluate(tmp_path / "run", metrics))


def test_a_rate_of_nothing_is_not_zero(page):
    metrics = example_evaluate()
    metrics["attacks"] = {"vanilla": metrics["attacks"]["vanilla"]}
    metrics["attacks"]["vanilla"]["any_of_n"] = rate(0, 0, 40)
    assert "20 % (8/40), 10\u201335 % n/a" in words(page(attacks=metrics["attacks"]))


@pytest.mark.slow  # a real browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser_nothing_scrolls_sideways_is_logged_or_is_fetched(page, tmp_path, width):
    page(model={"name": "organisation/" + "a-very-long-model-name-" * 8, "id": "x"})
    address, troubles, requests = (tmp_path / "run" / "report.html").as_uri(), [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": width, "height": 800})
        opened.on("console", lambda message: troubles.append(message.text))
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(address)
        opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
    assert troubles == []
    assert {url for url in requests if not url.startswith("data:")} == {address}
