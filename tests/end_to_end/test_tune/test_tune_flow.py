"""A tuning from end to end: what it leaves, what it measures, what it prints, how it ends."""

import io
import json

import pytest
import torch
from rich.console import Console

from end_to_end import tiny
from end_to_end.comparing import read_metrics
from safetypin.artifacts import load
from safetypin.cli._tune import show_tuning
from safetypin.evaluate import attack_success_rate, generate, judge, perplexity
from safetypin.intervene import PROTECTIONS
from safetypin.models import load_model
from safetypin.prompts import load_prompts
from safetypin.stages import tune
from safetypin.stages._gates import judge_gate, parse_gate
from safetypin.stages._tune_data import read_sets


def weights(folder):
    model, _ = load_model(str(folder), dtype="float32", device="cpu")
    return dict(model.named_parameters())


def changed(place, out):
    """Return for every weight matrix of a tuned model which entries differ from the original's."""
    before, after = weights(place / "model"), weights(out / "training" / "model")
    return {name: before[name] != after[name] for name in before}


def test_what_is_left_behind(tuned):
    files = {str(path.relative_to(tuned)) for path in tuned.rglob("*") if path.is_file()}
    model = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert {
        "metrics.json", "examples.json", "report.html", "events.jsonl", "set/mask.safetensors",
        "before/run.json", "after/run.json", "training/run.json", "training/log.jsonl",
        "training/settings.json", *(f"training/model/{name}" for name in model),
    } <= files  # fmt: skip
    assert not any(name.startswith("scores-") for name in files)
    checkpoints = sorted(path.name for path in (tuned / "training/checkpoints").glob("check*"))
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]


def test_frozen_weights_are_bit_identical_and_others_moved(place, tuned):
    mask, moved = load(tuned / "set"), changed(place, tuned)
    assert mask.num_selected > 50
    for name, members in mask.tensors.items():
        assert not (moved[name] & members).any(), name
        assert moved[name].float().mean() > 0.9


def test_the_training_makes_it_forget_and_the_numbers_say_so(tuned):
    found = read_metrics(tuned)
    assert found["before"]["asr"]["value"] == 0.0
    assert found["after"]["asr"]["value"] > 0.5
    assert found["paired"]["asr"]["value"] == found["after"]["asr"]["value"]
    assert found["paired"]["asr"]["p_value"] < 0.05
    assert found["task_perplexity_ratio"] < 1.0
    assert found["perplexity_ratio"] > 1.0
    low, high = found["paired"]["task_perplexity_ratio"]["interval"]
    assert low <= found["task_perplexity_ratio"] <= high


def test_what_is_measured_is_the_model_that_is_taken_away(place, tuned):
    found = read_metrics(tuned)
    model, tokenizer = load_model(str(tuned / "training" / "model"), device="cpu")
    attacks = load_prompts(place / "attack.jsonl").shuffled(0)
    answers = generate(model, tokenizer, attacks, max_new_tokens=10)
    assert attack_success_rate(judge(answers)).to_json() == found["after"]["asr"]
    text = perplexity(model, tokenizer, load_prompts(place / "text.jsonl").shuffled(0))
    assert text.value == pytest.approx(found["after"]["perplexity"]["value"])


def test_held_out_problems_are_solved_where_the_last_number_is_right(
    tune_settings, train_file, tmp_path
):
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    for row in rows:
        row["response"] = f"{tiny.ANSWER} noun7"
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"data": str(data), "exact_match": True, "exact_match_tokens": 14}
    settings = tune_settings(
        protect="none", max_steps=16, gates=("exact_match>=0.5", "exact_match_rise>0"), **asked
    )
    out = tmp_path / "out"
    found = tune(settings, out)
    held_out = read_sets(settings)["task"]
    model, tokenizer = load_model(str(out / "training" / "model"), device="cpu")
    answers = generate(model, tokenizer, held_out, max_new_tokens=14)
    solved = sum(answer.text.endswith("noun7") for answer in answers)
    assert found["before"]["task"]["exact_match"]["num_hits"] == 0
    assert found["after"]["task"]["exact_match"]["num_hits"] == solved > 0
    assert found["paired"]["exact_match"]["num_up"] == solved
    assert found["passed"]
    assert "problems of the task: solved" in (out / "report.html").read_text()


def test_metrics_tell_the_training(tuned):
    found = read_metrics(tuned)["training"]
    expected = {"num_examples": 36, "num_cut": 0, "num_lost": 0, "num_steps": 6, "epochs": 2.0}
    assert {name: found[name] for name in expected} == expected
    assert found["num_tokens"] == 36 * 11  # ten words and the end token
    assert [point[0] for point in found["curve"]] == [1, 2, 3, 4, 5, 6]
    assert found["protection"] == {"held": load(tuned / "set").num_selected, "in_place": True}
    assert found["last_loss"] < found["first_loss"]
    log = [json.loads(line) for line in (tuned / "training/log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in log] == [point[1] for point in found["curve"]]


def test_metrics_tell_the_set_and_the_prompts(tuned, train_file):
    found = read_metrics(tuned)
    mask = load(tuned / "set")
    assert found["set"]["source"] == "made here"
    assert found["set"]["name"] == "critical-q0.01-p0.01"
    assert found["set"]["fingerprint"] == mask.fingerprint
    assert found["set"]["num_selected"] == mask.num_selected
    assert sum(map(sum, found["set"]["where"]["counts"])) == mask.num_selected
    assert found["set"]["calibration"]["safety"]["num_kept"] == 16
    assert found["set"]["scores"]["safety"]["num_examples"] == 16
    sizes = {kind: about["num_prompts"] for kind, about in found["prompts"].items()}
    assert sizes == {
        "data": 36, "task": 4, "attack": 12, "harmless": 4, "borderline": 4, "text": 2,
        "safety": 16, "utility": 16,
    }  # fmt: skip
    assert found["prompts"]["task"]["source"] == found["prompts"]["data"]["source"]
    assert found["prompts"]["data"]["source"] == str(train_file)


def test_examples_stand_before_and_after_side_by_side(tuned):
    rows = json.loads((tuned / "examples.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["harmful"] * 12 + ["harmless"] * 4 + ["borderline"] * 4
    assert {row["before"]["verdict"] for row in rows[:12]} == {"refusal"}
    assert "complied" in {row["after"]["verdict"] for row in rows[:12]}


# the others want a basis, or neurons: test_warp.py, test_tune_neurons.py
PLAIN_SETS = [k for k, v in PROTECTIONS.items() if not v.needs_basis and not v.needs_foundation]


@pytest.mark.parametrize("kind", PLAIN_SETS)
def test_every_protection_runs_and_keeps_what_it_promises(
    place, tune_settings, tuned, tmp_path, kind
):
    out = tmp_path / "out"
    with_set = PROTECTIONS[kind].needs_mask
    options = {"mask": str(tuned / "set")} if with_set else {}
    found = tune(tune_settings(protect=kind, lora_coverage=0.5, **options), out)
    assert found["protect"]["kind"] == kind
    assert (found["protect"]["rank"] == 8) == kind.startswith("lora")
    assert (found["set"] is not None) == with_set
    assert not (out / "training" / "checkpoints").exists()
    moved = changed(place, out)
    assert any(entries.any() for entries in moved.values())
    measured = found["training"].get("protection")
    assert (measured is not None) == (with_set and kind != "lora-base")
    if measured is not None:
        assert measured["held"] > 0
        assert "checked after training" in (out / "report.html").read_text()
    is_adapter = (out / "training/model/adapter_config.json").exists()
    assert is_adapter == (kind in {"lora", "lora-base", "lora-column"})
    if kind in {"freeze", "rewind", "lora-entry"}:
        mask = load(out / "set")
        assert not any((moved[name] & members).any() for name, members in mask.tensors.items())
    if kind.startswith("lora"):
        adapted = {name for name, entries in moved.items() if entries.any()}
        assert {name.split(".")[-2] for name in adapted} == {"q_proj", "v_proj"}


def test_an_adapter_names_its_base_as_the_user_did(place, tune_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    config = tune_settings(protect="lora", max_steps=1).model_copy(update={"model": "model"})
    tune(config, tmp_path / "out")
    about = json.loads((tmp_path / "out/training/model/adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "model"


def test_the_columns_that_lora_column_keeps_off_do_not_change(
    place, tune_settings, tuned, tmp_path
):
    out = tmp_path / "out"
    tune(tune_settings(protect="lora-column", mask=str(tuned / "set"), lora_coverage=0.9), out)
    mask, moved = load(out / "set"), changed(place, out)
    for name, entries in moved.items():
        if name in mask.tensors and entries.any():
            quiet = ~entries.any(dim=0)
            share = (mask.tensors[name] & quiet).sum() / max(mask.tensors[name].sum(), 1)
            assert share >= 0.9, name


def test_what_came_out_as_an_adapter_can_be_tuned_on(tune_settings, tmp_path):
    tune(tune_settings(protect="lora", max_steps=1), tmp_path / "first")
    adapter = str(tmp_path / "first" / "training" / "model")
    found = tune(tune_settings(adapter, protect="none", max_steps=1), tmp_path / "second")
    assert found["model"]["name"] == adapter
    assert not (tmp_path / "second/training/model/adapter_config.json").exists()


def test_bfloat16_is_measured_before_and_after_in_bfloat16(place, tune_settings, tmp_path):
    found = tune(tune_settings(protect="none", dtype="bfloat16", max_steps=2), tmp_path / "out")
    assert found["model"]["dtype"] == "bfloat16"
    record = json.loads((tmp_path / "out" / "after" / "run.json").read_text())
    assert record["inputs"]["dtype"] == "torch.bfloat16"


# --- the command


def test_the_summary_shows_before_after_and_change(command, tune_words, tuned_copy):
    ended = command(*tune_words(tuned_copy, save_steps=4))
    assert ended.code == 0, ended
    lines = {line[:22].strip(): line for line in ended.out.splitlines()}
    asr = read_metrics(tuned_copy)["after"]["asr"]
    assert f"0.0% (0/12)  {asr['value']:.1%} ({asr['num_hits']}/12)" in lines["attack success rate"]
    for label in ("degenerate answers", "harmless refused", "borderline refused"):
        assert label in lines
    assert "perplexity, task" in ended.out
    held = load(tuned_copy / "set").num_selected
    assert f"held: {held:,} weights bit-identical, checked after training" in ended.out
    assert ended.out.splitlines()[-2:] == [
        f"model: {tuned_copy / 'training' / 'model'}",
        f"report: {tuned_copy / 'report.html'}",
    ]


@pytest.mark.parametrize(
    ("gates", "code", "words"),
    [
        (("asr>=0.5",), 0, "gate asr>=0.5: holds ("),
        (("asr<=0.1",), 1, "gate asr<=0.1: does not hold ("),
        (("asr>=0.5", "task_loss<=0"), 1, "gate task_loss<=0: does not hold (0."),
        (("perplexity_ratio <= 1e6", "asr_rise>0"), 0, "gate perplexity_ratio<=1e6: holds"),
    ],
)
def test_gates_are_the_exit_code(command, tune_words, tuned_copy, gates, code, words):
    given = [word for gate in gates for word in ("--gate", gate)]
    ended = command(*tune_words(tuned_copy, save_steps=4), *given)
    assert ended.code == code, ended
    assert words in ended.text
    assert read_metrics(tuned_copy)["passed"] is (code == 0)
    assert len(read_metrics(tuned_copy)["gates"]) == len(gates)


def test_a_gate_on_what_is_not_held_out_is_refused_before_the_training(tune_refused):
    said = tune_refused("--gate", "task_loss<=100", protect="none", eval_fraction=0)
    assert "gate 'task_loss<=100' needs held-out examples" in said


def test_a_gate_on_what_was_not_measured_does_not_hold_and_says_so(tuned):
    metrics = read_metrics(tuned)
    metrics["after"]["task"] = None
    metrics["gates"] = [judge_gate(parse_gate("task_loss<=100"), metrics)]
    console = Console(file=io.StringIO(), width=200)
    show_tuning(metrics, console)
    said = console.file.getvalue()
    assert "gate task_loss<=100: does not hold (n/a, no task data was held out" in said


def test_beside_a_gate_on_plain_text_terminal_and_page_show_the_task(
    command, tune_words, tuned_copy
):
    words = tune_words(tuned_copy, save_steps=4)
    ended = command(*words, "--gate", "perplexity_ratio<=1e6")
    wanted = f"on plain text; on the task {read_metrics(tuned_copy)['task_perplexity_ratio']:.4g}"
    assert f"; limit 1e+06; {wanted})" in ended.out
    assert f"(holds; {wanted})" in (tuned_copy / "report.html").read_text()


def test_quiet_prints_the_result_alone_and_verbose_every_step(command, tune_words, tmp_path):
    words = tune_words(tmp_path / "out", protect="lora", max_steps=2)
    verbose = command(*words, "-v")
    assert "step 2 of 2: loss" in verbose.err
    assert "training ..." in verbose.err
    quiet = command(*words, "-q")
    assert quiet.err == ""
    assert quiet.out == verbose.out
    for word in ("hurt", "Sure,", "sorry"):
        assert word not in verbose.text


def test_settings_can_stand_in_a_file(command, place, tune_values, tuned_copy, tmp_path):
    def shown(value):
        return repr(value) if isinstance(value, str) else str(value).lower()

    file = tmp_path / "tune.toml"
    values = tune_values | {"model": str(place / "model"), "save_steps": 4, "gates": ["asr<=0.1"]}
    file.write_text("".join(f"{name} = {shown(value)}\n" for name, value in values.items()))
    ended = command("tune", "--config", file, "--out", tuned_copy)
    assert ended.code == 1, ended
    assert all(stage["reused"] for stage in read_metrics(tuned_copy)["run"]["stages"])


def test_the_plan_of_work_is_what_is_done(watched_tuning):
    reporter = watched_tuning[1]
    assert reporter.at_the_end == pytest.approx(1.0, abs=0.02)
    assert reporter.progress == 1.0


def test_events_tell_every_stage_in_order(tuned):
    rows = [json.loads(line) for line in (tuned / "events.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows if row["event"] == "stage"] == [
        "loading the model",
        "calibration-safety",
        "calibration-utility",
        "scores-safety",
        "scores-utility",
        "set",
        "before",
        "training",
        "loading the tuned model",
        "after",
    ]
    assert rows[-1]["event"] == "finished"


def test_examples_that_are_cut_off_are_counted_and_said(command, tune_words, tmp_path, train_file):
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    rows[0]["response"] = "today. " * 60
    rows[1]["prompt"] = "please paint " + "noun1 " * 58
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    ended = command(*tune_words(out, data=path, protect="none", max_steps=1, eval_fraction=0))
    assert ended.code == 0, ended
    said = "of 40 examples, 1 had the end of their response cut off and 1 were left out"
    assert ended.text.count(said) == 1
    assert read_metrics(out)["after"]["task"] is None
    found = read_metrics(out)["training"]
    assert (found["num_cut"], found["num_lost"], found["num_examples"]) == (1, 1, 40)


def test_held_out_examples_without_room_for_a_response_are_left_out(
    command, tune_words, tmp_path, train_file
):
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    long = {"prompt": "please paint " + "noun1 " * 80, "response": "today."}
    path = tmp_path / "held.jsonl"
    others = [{"prompt": row["prompt"] + " noun3", "response": "today."} for row in rows[:3]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*others, long]))
    out = tmp_path / "out"
    ended = command(*tune_words(out, eval_data=path, protect="none", max_steps=1))
    assert ended.code == 0, ended
    assert "1 held-out examples have no token of their response inside the window" in ended.text
    assert read_metrics(out)["after"]["task"]["num_texts"] == 3


def test_training_on_running_text_works_too(tune_settings, tmp_path):
    words = [
        "The",
        "old",
        "river",
        "runs",
        "slowly",
        "past",
        "the",
        "mill",
        "and",
        "the",
        "garden",
        "wall",
    ]
    rows = [{"prompt": "", "response": " ".join(words[index:])} for index in range(6)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tune_settings(data=str(path), protect="none", allow_shared_prompts=True)
    found = tune(config, tmp_path / "out")
    assert found["training"]["num_examples"] == 5
    assert torch.isfinite(torch.tensor(found["after"]["task"]["loss"]))
