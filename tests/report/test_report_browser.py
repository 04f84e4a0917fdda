"""The page in a real headless Chromium."""

import pytest
from example_metrics import example_answers, example_metrics, row, write_audit
from example_track import example_track, write_track
from example_tune import example_tune, write_tune

from safetypin.report import write_report

ATTACK = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>"

pytestmark = pytest.mark.slow
pytest_plugins = ("browsing",)

LONG_NAME = "organisation/" + "a-very-long-model-name-" * 8


def audit():
    metrics = example_metrics(num_layers=80)
    metrics["model"]["name"] = LONG_NAME
    return metrics, write_audit


def tune():
    metrics = example_tune()
    metrics["model"]["name"] = metrics["set"]["path"] = LONG_NAME
    metrics["gates"][0] |= {"value": None, "why": "n" * 200}
    return metrics, write_tune


def track():
    metrics = example_track(num_layers=80)
    metrics["reference"]["name"] = metrics["tuned"]["path"] = metrics["set"]["path"] = LONG_NAME
    metrics["notes"] = ["n" * 300]
    return metrics, write_track


@pytest.fixture(scope="module", params=[audit, tune, track], ids=lambda kind: kind.__name__)
def report(request, tmp_path_factory):
    metrics, write = request.param()
    metrics["run"]["command"] += " --prompts " + "x" * 300
    answers = example_answers()
    answers["rows"] += [
        row("harmful", "HARMFUL " + ATTACK, (ATTACK, "refusal"), ("y" * 900, "complied")),
        row("harmless", ATTACK, (ATTACK, "complied"), (ATTACK, "degenerate")),
    ]
    return write_report(write(tmp_path_factory.mktemp("run"), metrics, answers))


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(width, scheme, opened):
    page = opened(width, color_scheme=scheme)
    page.click("#reveal-all")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_harmful_text_is_hidden_until_its_row_is_opened(opened):
    page = opened()
    answer = page.get_by_text("HARMFUL-ANSWER-2", exact=False)
    assert not answer.is_visible()
    assert "HARMFUL-" not in page.inner_text("body")
    page.locator("details.sealed summary").nth(2).click()
    assert answer.is_visible()
    assert not page.get_by_text("HARMFUL-ANSWER-3", exact=False).is_visible()


def test_a_row_opens_and_closes_by_keyboard(opened):
    page = opened()
    answer = page.get_by_text("HARMFUL-ANSWER-0", exact=False)
    page.locator("details.sealed summary").first.focus()
    page.keyboard.press("Enter")
    assert answer.is_visible()
    page.keyboard.press("Space")
    assert not answer.is_visible()


def test_reveal_all_opens_every_row_and_redacts_again(opened):
    page = opened()
    button = page.locator("#reveal-all")
    assert button.inner_text() == "Reveal all 7"
    button.click()
    assert page.locator("details.sealed[open]").count() == 7
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.locator("details.sealed[open]").count() == 0


def test_paper_keeps_opened_rows_redacted(opened):
    page = opened()
    page.click("#reveal-all")
    assert "HARMFUL-ANSWER-0" in page.inner_text("body")
    page.emulate_media(media="print")
    assert not page.get_by_text("HARMFUL-ANSWER-0", exact=False).is_visible()
    assert "HARMFUL-" not in page.inner_text("body")
    assert "Why is the sky blue?" in page.inner_text("body")


def test_markup_in_an_answer_stays_text_and_does_not_run(opened):
    page = opened()
    page.click("#reveal-all")
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    assert page.get_by_text(ATTACK).count() >= 5


def test_a_browser_refuses_a_script_that_is_not_ours(browser, report, tmp_path):
    tampered = tmp_path / "report.html"
    html = report.read_text(encoding="utf-8")
    tampered.write_text(html.replace("<main>", f"<main>{ATTACK}"), encoding="utf-8")
    page = browser.new_page()
    page.goto(tampered.as_uri())
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    page.close()


def test_without_script_rows_still_open_and_dead_buttons_are_absent(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("button:visible").count() == 0
    page.locator("details.sealed summary").first.click()
    assert page.get_by_text("HARMFUL-ANSWER-0", exact=False).is_visible()


def test_the_command_can_be_copied(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.click("#copy-command")
    page.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.inner_text("#command")
