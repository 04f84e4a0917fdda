"""The page and the table of an experiment."""

import copy
import io
import json
import re

import pytest
from example_metrics import rate
from reading import Page, check_promises
from rich.console import Console

from safetypin.artifacts import UserError
from safetypin.report import print_experiment, write_report
from safetypin.report._experiment import write_experiment_report

REFUSED = {"value": -0.1, "interval": [-0.3, 0.1], "num_pairs": 16, "p_value": 0.6}


def training(seed, arm="frozen", *, tracked=True):
    rise = {"value": 0.4, "interval": [0.25, 0.55], "num_pairs": 40, "p_value": 1e-4}
    made = {
        "seed": seed,
        "reports": {"tune": f"{arm}-{seed}/tune/report.html", "track": None},
        "outcome": {
            "asr_before": rate(4, 40),
            "asr_after": rate(20, 40),
            "asr_rise": rise,
            "refused_before": rate(4, 16),
            "refused_after": rate(2, 16),
            "over_refusal_rise": REFUSED,
            "degenerate_after": rate(1, 40),
            "destroyed": None,
            "perplexity_ratio": 1.25,
            "task_perplexity_ratio": 0.5,
            "num_steps": 25,
        },
        "drift": None,
        "scores": None,
        "overlap": None,
    }
    if not tracked:
        return made
    made["reports"]["track"] = f"{arm}-{seed}/track/report.html"
    held = dict.fromkeys(("value", "ratio", "of_matched", "p_value"))
    scores = dict.fromkeys(("drop", "interval", "relative_interval", "relative_noise"))
    jaccard = {"share": 0.4, "chance_jaccard": 0.01, "noise_jaccard": 0.3, "control_jaccard": 0.2}
    return made | {
        "drift": {"is_held": True, "trainable_share": 0.0, **held},
        "scores": {
            **scores,
            "relative_drop": 0.3,
            "relative_interval": [0.2, 0.4],
            "relative_noise": 0.05,
            "control_drop": None,
            "control_relative_drop": 0.28,
            "rank_change": -0.1,
        },
        "overlap": {**jaccard, "jaccard": 0.25},
        "overlaps": {
            "critical": {**jaccard, "jaccard": 0.25},
            "top_safety": {**jaccard, "jaccard": 0.5, "control_jaccard": None},
        },
    }


def spread(values):
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else None
    sd = 0.05 if len(known) > 1 else None
    return {"values": values, "mean": mean, "sd": sd, "interval": None, "whole": None}


def example():
    """Return the metrics.json of two seeds with a frozen set, and one with none."""
    names = {
        "asr_rise": 0.4, "over_refusal_rise": -0.1, "perplexity_ratio": 1.25,
        "task_perplexity_ratio": 0.5, "drift_ratio": None, "drift_of_matched": None,
        "score_drop": None, "relative_drop": 0.3, "rank_change": -0.1, "jaccard": 0.25,
        "top_safety_share": 0.4, "top_safety_jaccard": 0.5,
    }  # fmt: skip
    arms = [("frozen", "freeze", [1, 2]), ("free", "none", [1])]
    part = {"name": "frozen-1/tune", "seconds": 62.0, "reused": False}
    return {
        "schema": 1,
        "kind": "experiment",
        "safetypin": "0.1.0",
        "title": "A <title>",
        "about": "Is safety lost?",
        "scale": "small",
        "seeds": [1, 2],
        "settings": {"model": "smollm2-aligned", "q": 0.05, "lora_targets": ["q_proj", "v_proj"]},
        "set": {
            "name": "critical-q0.05-p0.05",
            "num_selected": 2_500_000,
            "num_weights": 106_000_000,
            "fraction": 0.0236,
            "fingerprint": "0123456789abcdef",
        },
        "arms": [
            {
                "arm": name,
                "about": f"about {name}",
                "protect": protect,
                "settings": {"protect": protect},
                "runs": [training(seed, name, tracked=name == "frozen") for seed in seeds],
                "spread": {key: spread([value] * len(seeds)) for key, value in names.items()},
            }
            for name, protect, seeds in arms
        ],
        "hypotheses": "A/B",
        "verdict": [
            {
                "hypothesis": letter,
                "claim": f"claim {letter}",
                "answer": answer,
                "sentences": [f"Sentence of {letter}."],
            }
            for letter, answer in {"A": "supported", "B": "not supported"}.items()
        ],
        "run": {
            "started": "2026-11-21T12:00:00+00:00",
            "finished": "2026-11-21T12:10:00+00:00",
            "seconds": 600.0,
            "command": "safetypin run experiments/frozen-regime.toml",
            "python": "3.11",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "platform": "Linux",
            "num_threads": 2,
            "commit": None,
            "parts": [part],
        },
    }


def write(folder, metrics=None):
    (folder / "metrics.json").write_text(json.dumps(metrics or example()))
    return folder


def page(folder, metrics=None):
    return Page(write_report(write(folder, metrics)).read_text(encoding="utf-8"))


def compared():
    """Return the metrics.json of two arms beside a first one."""
    metrics = example()
    metrics |= {"set": None, "hypotheses": "protections"}
    for arm in metrics["arms"]:
        arm["spread"] |= {name: spread([0.5, 0.6]) for name in ("asr_after", "task_loss_after")}
        for run in arm["runs"]:
            run["outcome"]["task_loss_after"] = 1.2
    one = {"claim": "c", "sentences": ["ASR."]}
    asr, task = {"value": -0.16, "interval": [-0.27, -0.06]}, {"value": None, "interval": None}
    metrics["verdict"] = [
        {"hypothesis": "erosion", "answer": "supported", **one},
        {"hypothesis": "drawn", "answer": "supported", **one,
         "differences": {"asr": asr, "task_loss": asr, "refusals": task}},
        {"hypothesis": "free", "answer": "not supported", **one,
         "differences": {"asr": asr, "task_loss": task, "refusals": task}},
    ]  # fmt: skip
    return metrics


def test_compared_arms_stand_in_a_table_under_a_short_answer(tmp_path):
    metrics = compared()
    words = page(tmp_path, metrics).words
    assert "frozen beats 1 of 2 other arms, loses to 1" in words
    table = page(tmp_path, metrics).html.split("The first arm beside every other")[1]
    row = re.search(r'<th scope="row">drawn</th>.*?</tr>', table, re.DOTALL).group()
    for part in ("supported", "\u221216 (\u221227 to \u22126)", "\u22120.160", "n/a"):
        assert part in row
    metrics["verdict"][0]["answer"] = "undecided"
    words = page(tmp_path, metrics).words
    assert "Undecided: no loss of safety to protect from is shown" in words
    assert "beats" not in words


def printed(metrics):
    out = io.StringIO()
    print_experiment(metrics, Console(file=out, width=80))
    return out.getvalue()


def test_the_answers_come_first_with_their_sentences(tmp_path):
    words = page(tmp_path).words
    top = words[: words.index("All trainings The same prompts")]
    assert "A supported; B not supported" in top
    for part in ("A: supported. claim A.", "Sentence of A.", "B: not supported.", "Is safety"):
        assert part in top


def test_every_training_has_a_row_with_links_to_its_pages(tmp_path):
    html = page(tmp_path).html
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', html)
    assert [re.search(r">(?:<strong>)?(\w+ \w+)", row)[1] for row in rows[:4]] == [
        "frozen 1",
        "frozen 2",
        "frozen mean",
        "free 1",
    ]
    assert '<a href="frozen-2/tune/report.html">tune</a>' in rows[1]
    assert '<a href="frozen-2/track/report.html">track</a>' in rows[1]
    assert "track" not in rows[3]


def test_the_table_has_counts_of_what_was_measured(tmp_path):
    words = page(tmp_path).words.replace("\u00a0", " ")
    signs = ("1.25×", "−30 %")  # noqa: RUF001 - as they are printed
    for part in ("10 %", "50 %", "+40 (+25 to +55)", "25 % → 12 %", "held", *signs):
        assert part in words
    assert "+40 ± 5" in words


def test_scores_and_sets_stand_beside_noise_and_control(tmp_path):
    words = page(tmp_path).words.replace("\u00a0", " ").replace("\u2212", "-")
    assert "frozen 2 n/a -30 % -40 % to -20 % -5 % -28 %" in words
    assert "frozen 1 critical 40 % 0.25 0.30 0.20 0.01" in words
    assert "frozen 1 top safety 40 % 0.50 0.30 n/a 0.01" in words
    assert "frozen mean ± sd top safety 40 ± 5 % 0.50 ± 0.05" in words
    assert "free mean" not in words
    bare = example()
    for arm in bare["arms"]:
        for run in arm["runs"]:
            run.update(scores=None, overlaps={})
    assert "Scores and sets" not in page(tmp_path, bare).words


def test_the_page_keeps_the_promises_of_every_page(tmp_path):
    html = page(tmp_path).html
    check_promises(Page(re.sub(r'href="[\w/-]+/report\.html"', 'href="#verdict"', html)))


def test_what_an_experiment_file_says_is_escaped(tmp_path):
    assert "A &lt;title&gt;" in page(tmp_path).html


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    write(tmp_path)
    first = write_experiment_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_a_destroyed_model_has_no_asr(tmp_path):
    metrics = example()
    outcome = metrics["arms"][0]["runs"][0]["outcome"]
    outcome |= {"destroyed": "it loops", "asr_after": None, "asr_rise": None}
    words = page(tmp_path, metrics).words.replace("\u00a0", " ")
    assert "frozen 1 tune track 10 % destroyed n/a" in words


def test_the_table_fits_a_terminal():
    lines = printed(example()).splitlines()
    assert max(map(len, lines)) <= 80
    assert re.match(r"frozen 1 +50 % +\+40 +1\.25x +0\.50x +-30 % +held +0\.25 *$", lines[1])
    assert re.match(r"frozen mean +\+40 +1\.25 +0\.50 +-30 % +0\.25 *$", lines[3])
    assert re.match(r"free 1 +50 % +\+40 +1\.25x +0\.50x *$", lines[4])
    assert "A: SUPPORTED  claim A" in lines
    assert "  Sentence of B." in lines


def test_a_key_that_is_missing_is_named(tmp_path):
    metrics = copy.deepcopy(example())
    del metrics["arms"][0]["runs"][1]["outcome"]["asr_rise"]
    with pytest.raises(UserError, match=r"'arms\.0\.runs\.1\.outcome\.asr_rise' is missing"):
        write_report(write(tmp_path, metrics))
