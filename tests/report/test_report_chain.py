"""The page of a chain of commands: one answer of all steps, its figures, and links that lead."""

import re
import shutil
from urllib.parse import unquote

import pytest
from example_findings import (
    about,
    example_contrast,
    example_guard,
    example_patch,
    write_findings,
)
from reading import Page

from safetypin.artifacts import UserError
from safetypin.report import headline, write_report

STEPS = {
    "units": example_contrast,
    "patched": example_patch,
    "guard-a": example_guard,
    "guard-b": example_guard,
}


def chain(folder, steps=None):
    """Write the steps with their pages, and the metrics of the chain; return the folder."""
    rows = []
    for name, metrics in (steps or {name: make() for name, make in STEPS.items()}).items():
        write_report(write_findings(folder / name, metrics))
        answer, sentence = headline(folder / name)
        rows.append({
            "name": name, "command": metrics["kind"], "answer": answer, "sentence": sentence,
            "report": f"{name}/report.html",
        })  # fmt: skip
    found = about("run chain.toml") | {
        "kind": "chain", "title": "A chain", "about": "What is done.", "scale": "small",
        "steps": rows, "prompts": {},
    }  # fmt: skip
    return write_findings(folder, found)


def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def guard(*, random=0.02, tfidf=0.08):
    """Return a guard whose accuracy is so much above its baselines, give or take 3 points."""
    metrics = example_guard()
    for row in metrics["comparisons"]:
        value = random if row["against"] == "random" else tfidf
        row |= {"value": value, "interval": [value - 0.03, value + 0.03]}
    return metrics


def test_every_step_has_a_link_that_leads_to_its_page(tmp_path):
    found = page(chain(tmp_path))
    links = [a["href"] for tag, a in found.tags if tag == "a" and not a["href"].startswith("#")]
    assert links == [f"{name}/report.html" for name in STEPS]
    assert all((tmp_path / unquote(link)).is_file() for link in links)
    assert "&lt;a" not in found.html
    inner = {a["href"][1:] for tag, a in found.tags if tag == "a" and a["href"][0] == "#"}
    assert inner <= set(found.ids)


def test_the_curve_of_recovery_and_the_tables_of_the_guards_are_on_the_page(tmp_path):
    found = page(chain(tmp_path))
    titles = re.findall(r"<svg [^>]*><title [^>]*>([^<]*)", found.html)
    assert "Recovery against the share of units; the numbers are in the table below" in titles
    words = found.words.replace("\u00a0", " ")
    assert "contrast 20 % 9,216 15 % (3/20) 5 % 1.07\u00d7 85 % 70 % to 95 %" in words
    for name in ("guard-a", "guard-b"):
        part = words[words.index(f"Do they make a guard: {name} Every row") :]
        assert "contrast units, logistic 2,304 98 % (93\u201399)" in part
        assert "words (TF-IDF)" in part
    assert len(found.ids) == len(set(found.ids))


@pytest.mark.parametrize(
    ("cause", "random", "tfidf", "said"),
    [
        ("cause", 0.02, 0.08,
         "The units are a cause; the guard beats TF-IDF but is not shown to beat random units"),
        ("cause", 0.05, 0.08, "The units are a cause; the guard beats random units and TF-IDF"),
        ("no more than random", 0.0, 0.0, "The units do no more than random ones; the guard is "
         "not shown to beat random units or TF-IDF"),
        ("undecided", -0.05, 0.08, "Whether the units are a cause is undecided; the guard beats "
         "TF-IDF but is worse than random units"),
    ],
)  # fmt: skip
def test_the_answer_is_made_of_all_steps(tmp_path, cause, random, tfidf, said):
    patched = example_patch()
    patched["verdict"]["answer"] = cause
    steps = {"a": example_contrast(), "b": patched, "c": guard(random=random, tfidf=tfidf)}
    found = page(chain(tmp_path, steps))
    head = re.search(r'<section id="verdict".*?<h2>(.*?)</h2>', found.html, re.DOTALL)
    assert head[1] == said
    words = found.words.replace("\u00a0", " ")
    assert "17,496 neurons differ most" in words
    assert "On topic-matched prompts the guard is right on 94/96 held-out ones" in words


def test_the_answer_goes_by_topic_matched_prompts_where_there_are_any(tmp_path):
    easy = guard(random=0.2, tfidf=0.2)
    easy["data"] |= {"num_matched_topics": 0, "easy": True}
    found = page(chain(tmp_path / "both", {"easy": easy, "matched": guard()}))
    assert "The guard beats TF-IDF but is not shown to beat random units" in found.words
    assert (
        "The guard beats random units and TF-IDF"
        in page(chain(tmp_path / "one", {"easy": easy})).words
    )
    words = found.words.replace("\u00a0", " ")
    assert "easy held-out prompts easy 98 % (94/96) yes (+20) yes (+20)" in words
    assert "matched another source topic-matched 98 % (94/96) not shown (+2) yes (+8)" in words


def test_a_chain_whose_steps_are_gone_still_says_what_they_found(tmp_path):
    folder = chain(tmp_path)
    for name in STEPS:
        shutil.rmtree(folder / name)
    found = page(folder)
    assert "98 % right" in found.words.replace("\u00a0", " ")
    assert "guard-b: 94/96 held-out prompts" in found.words
    assert not [a for tag, a in found.tags if tag == "a" and a["href"][0] != "#"]


def test_a_name_that_is_markup_stays_text(tmp_path):
    name = "<img src=x onerror=alert(1)>\"'#?"
    found = page(chain(tmp_path, {name: example_patch()}))
    assert not [tag for tag, _ in found.tags if tag == "img"]
    links = [a["href"] for tag, a in found.tags if tag == "a" and not a["href"].startswith("#")]
    assert [unquote(link) for link in links] == [f"{name}/report.html"]
    assert not set(links[0]) & set("<>\"'#?")


def test_a_step_that_is_of_another_command_is_refused(tmp_path):
    folder = chain(tmp_path)
    write_findings(folder / "patched", example_guard())
    with pytest.raises(UserError, match="guard"):
        write_report(folder)
