import copy
import json
import re

import pytest
from example_metrics import example_answers, rate, row, write_audit
from example_tune import change, example_tune, gate, write_tune
from reading import Page, check_promises

from safetypin.artifacts import UserError
from safetypin.report import write_report, write_tune_report
from safetypin.report._read import parse
from safetypin.report._tune_figures import loss_picture, running_mean
from safetypin.report._tune_metrics import TuneMetrics
from safetypin.report._tune_words import answer

# what the page does not show or can do without
OPTIONAL = {"settings", "task_perplexity_ratio", "basis"}


def parsed(metrics):
    return parse(TuneMetrics, metrics, "metrics.json", "tune")


def page(folder, metrics=None, answers=None):
    path = write_tune_report(write_tune(folder, metrics, answers))
    return Page(path.read_text(encoding="utf-8"))


def test_the_outcome_and_the_numbers_that_carry_it_come_first(tmp_path):
    words = page(tmp_path).words
    top = words[: words.index("Before and after The same prompts")]
    for part in (
        "Gates fail", "100 examples in 75 steps", "0.31 % of the weights", "8 % → 44 %",
        "4/48 before, 21/48 after", "29 % → 10 %", "1.65 → 0.87", "(95 % interval +22 to +47)",
    ):  # fmt: skip
        assert part in top


def test_every_gate_shows_its_value_and_whether_it_holds(tmp_path):
    metrics = example_tune()
    metrics["gates"].append(gate("task_loss<=2", None, False, "no task data was held out"))
    html = page(tmp_path, metrics).html
    shown = re.findall(r"<li><b aria-hidden=\"true\">(.)</b><code>(.*?)</code>: (.*?)</li>", html)
    assert [(mark, text) for mark, text, _ in shown] == [
        ("✗", "asr&lt;=0.1"),
        ("✓", "perplexity_ratio&lt;=1.2"),
        ("✗", "task_loss&lt;=2"),
    ]
    assert "<strong>0.4375</strong>" in shown[0][2]
    assert "<strong>n/a</strong>" in shown[2][2]
    assert "no task data was held out" in shown[2][2]


def test_changes_stand_with_interval_and_p_value_beside_both_counts(tmp_path):
    html = page(tmp_path).html
    line = re.search(r"<tr><th scope=\"row\">harmful requests: complied.*?</tr>", html)
    assert line
    for part in ("4/48", "21/48", "+35\u00a0points", "+22 to +47", "p\u00a0&lt;\u00a00.001"):
        assert part in line.group()


def without_gates(metrics, low, high):
    metrics |= {"gates": [], "passed": None}
    metrics["paired"]["asr"]["interval"] = [low, high]
    return answer(parsed(metrics))


def test_without_gates_the_interval_of_the_change_gives_the_answer():
    metrics = example_tune()
    assert without_gates(metrics, 0.01, 0.4) == "Safety fell"
    assert without_gates(metrics, -0.01, 0.4) == "No fall shown"
    assert without_gates(metrics, 0.0, 0.4) == "No fall shown"
    assert without_gates(metrics, -0.4, -0.01) == "Safety rose"


def test_a_destroyed_model_has_no_attack_success_rate(tmp_path):
    metrics = example_tune(gates=False)
    metrics["after"] |= {"destroyed": "83 % of the answers are degenerate", "asr": rate(3, 48)}
    metrics["after"]["degenerate"] = rate(40, 48)
    metrics["paired"]["asr"] = None
    found = page(tmp_path, metrics)
    assert "Destroyed Fine-tuned" in found.words
    assert "83 % of the answers are degenerate" in found.words
    assert "8 % → n/a" in found.words
    assert "3/48" not in found.words
    assert ">after: n/a</text>" in found.html


def test_no_judged_answer_is_said_and_not_a_number(tmp_path):
    metrics = example_tune(gates=False)
    metrics["after"]["asr"] = rate(0, 0, 48)
    metrics["paired"]["asr"] |= {"value": None, "interval": None, "p_value": None, "num_pairs": 0}
    words = page(tmp_path, metrics).words
    assert "Not measured Fine-tuned" in words
    assert "No answer to a harmful request could be judged both before and after" in words


def test_the_page_loads_nothing_and_every_link_of_it_has_a_target(tmp_path):
    check_promises(page(tmp_path))


def test_harmful_text_lies_only_inside_closed_redactions(tmp_path):
    html = page(tmp_path).html
    sealed = re.findall(r'<details class="sealed">.*?</details>', html, re.DOTALL)
    assert len(sealed) == 6
    for part in sealed:
        html = html.replace(part, "")
    assert "HARMFUL-" not in html
    assert "Why is the sky blue?" in html


def test_names_paths_and_answers_stay_text(tmp_path):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7*7 }}"
    metrics = example_tune()
    metrics["model"]["name"] = metrics["set"]["path"] = metrics["protect"]["about"] = attack
    metrics["gates"][0]["gate"] = metrics["run"]["command"] = metrics["set"]["name"] = attack
    metrics["protect"]["targets"] = [attack]
    answers = {
        "rows": [
            row(kind, attack, (attack, "refusal"), (attack, "complied"))
            for kind in ("harmful", "harmless")
        ]
    }
    found = page(tmp_path, metrics, answers)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert found.text.count(attack) >= 11


def no_set(metrics):
    metrics |= {"set": None}
    metrics["protect"]["kind"] = "none"


def stand_in(metrics):
    metrics["set"] |= {"control": "matched", "where": None, "path": None, "source": "made here"}


def no_task(metrics):
    metrics["before"]["task"] = metrics["after"]["task"] = None
    metrics |= {"task_perplexity_ratio": None}
    metrics["paired"] |= {"task_loss": None, "task_perplexity_ratio": None}


def overflow(metrics):
    metrics["after"]["perplexity"]["value"] = None
    metrics |= {"perplexity_ratio": None}
    metrics["paired"]["perplexity_ratio"] = None


def no_curve(metrics):
    metrics["training"] |= {"curve": [], "first_loss": None, "last_loss": None}


def one_step(metrics):
    metrics["training"]["curve"] = [[1, 0.5, None]]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (no_set, "with nothing protected"),
        (stand_in, "a random, matched on |w| set"),
        (no_task, "no held-out examples of the task"),
        (overflow, "perplexity on plain text n/a"),
        (no_curve, "No loss was logged."),
        (one_step, "0.820 at last"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_report_is_made_of_whatever_a_tune_found(change, shown, tmp_path):
    metrics = copy.deepcopy(example_tune())
    change(metrics)
    assert shown in page(tmp_path, metrics).words


def test_solved_problems_stand_beside_their_change_where_they_were_asked(tmp_path):
    assert "problems of the task: solved" not in page(tmp_path).words
    metrics = example_tune()
    for name, hits in {"before": 2, "after": 9}.items():
        metrics[name]["task"]["exact_match"] = rate(hits, 16)
    metrics["paired"]["exact_match"] = change(8, 1, 16)
    html = page(tmp_path, metrics).html
    line = re.search(r"<tr><th scope=\"row\">problems of the task: solved.*?</tr>", html).group()
    for part in ("2/16", "9/16", "+44\u00a0points"):
        assert part in line


def basis(kind="input", ranks=(64, 40)):
    shares = {"first_share": 0.61, "top_tenth_share": 0.93, "num_for_90": 7}
    sites = [
        {"site": f"layers.{i}.q_proj", "d_in": 64, "rank": rank, **shares}
        for i, rank in enumerate(ranks)
    ]
    counts = {"num_matrices": 6, "num_sites": len(ranks), "num_tokens": 2_219}
    return {"kind": kind, **counts, "fingerprint": "0f", "sites": sites}


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (basis(), "reach every direction of 1, and the fewest of layers.1.q_proj: 40 of 64."),
        (basis(ranks=(64, 64)), "from 2,219 tokens of the safety prompts, which reach every"),
        (basis("identity", ()), "The basis of 6 matrices: the weights themselves."),
        (basis("random", ()), "The basis of 6 matrices: drawn at random."),
    ],
)
def test_rank_and_spectrum_of_a_basis_are_on_the_page(made, shown, tmp_path):
    metrics = example_tune("warp") | {"basis": made}
    found = page(tmp_path, metrics)
    assert shown in found.words
    assert ("Rank and spectrum of every input" in found.words) is bool(made["sites"])
    assert found.html.count('<td class="n">93\u00a0%</td>') == len(made["sites"])


def test_an_adapter_shows_its_values_and_holds_no_set(tmp_path):
    words = page(tmp_path, example_tune("lora", gates=False)).words
    assert "rank 8, alpha 16, dropout 0.05, on q_proj, v_proj" in words
    assert "No set of weights was held: “lora” does not take one." in words
    assert "None was set." in words


@pytest.mark.parametrize(
    ("protect", "shown"),
    [
        ("freeze", "Held 329,012 weights bit-identical, checked after training"),
        ("lora-entry", "Held 329,012 weights with a change of exactly zero, checked after"),
        ("warp", "Held coefficients, which moved by at most 3.2e\u22128 of the largest"),
    ],
)
def test_what_was_found_to_be_held_stands_beside_the_training(protect, shown, tmp_path):
    assert shown in page(tmp_path, example_tune(protect)).words


def test_a_run_that_looked_at_nothing_says_nothing_of_it(tmp_path):
    older = example_tune()
    del older["training"]["protection"]
    for metrics in (older, example_tune("lora")):
        assert "checked after training" not in page(tmp_path, metrics).words


def test_a_long_loss_is_smoothed_and_a_short_one_is_not():
    assert running_mean([1.0] * 29, 10) == []
    assert running_mean([float(i) for i in range(30)], 10)[:2] == [4.5, 5.5]
    training = parsed(example_tune()).training
    assert training.num_steps == 75
    assert "loss per token" in loss_picture(training).inline()


def test_the_report_command_knows_the_folder_of_a_tune(tmp_path):
    folder = write_tune(tmp_path / "tune")
    expected = write_tune_report(folder).read_bytes()
    (folder / "report.html").unlink()
    assert write_report(folder).read_bytes() == expected


def test_the_folder_of_another_command_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"is a folder of `safetypin audit`, not of `safetypin tu"):
        write_tune_report(write_audit(tmp_path))


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"kind": "guess"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"of kind 'guess'; known are audit, "):
        write_report(tmp_path)


@pytest.mark.parametrize("key", sorted(example_tune().keys() - OPTIONAL))
def test_a_missing_key_is_an_error_that_names_it(key):
    metrics = {name: value for name, value in example_tune().items() if name != key}
    with pytest.raises(UserError, match=rf"'{key}' is missing.*run the tune again"):
        parsed(metrics)


def test_a_run_without_answers_says_so(tmp_path):
    folder = write_tune(tmp_path)
    (folder / "examples.json").unlink()
    html = write_tune_report(folder).read_text(encoding="utf-8")
    assert "No answers were kept with this run." in html


def test_long_answers_are_counted_not_shown_whole(tmp_path):
    rows = [row("harmless", "p", ("x" * 5000, "complied"), ("y", "complied"))]
    found = page(tmp_path, answers={"rows": example_answers()["rows"] + rows})
    assert "(3,000 more characters in examples.json)" in found.text
