"""Sweeps of an untrained model: settings that change between runs, or that would do nothing."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch

from end_to_end import tiny
from safetypin.artifacts import UserError
from safetypin.experiment import parse_shard, read_sweep, run_sweep, states
from safetypin.experiment.sweep import _run
from safetypin.experiment.sweep._restored import ChangedModelError
from safetypin.experiment.sweep.methods import _weights
from safetypin.stages import Reporter

FILE = """
title = "A smaller sweep"

[settings]
num_safety = 8
num_utility = 8
num_attack = 2
num_harmless = 2
num_borderline = 2
num_text = 2
max_new_tokens = 3
also_judges = []

[methods.top]
kind = "share"
score = "magnitude"
shares = [0.01, 0.02, 0.05, 0.1]

[scales.small.settings]
"""
KINDS = ("safety", "utility", "attack", "harmless", "borderline", "text")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an untrained model and prompts."""
    folder = tmp_path_factory.mktemp("untrained")
    tokenizer = tiny.make_tokenizer()
    tiny.make_untrained(tokenizer).eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    tiny.write_prompts(folder)
    return folder


@pytest.fixture
def write(place, tmp_path):
    """Write the file of a sweep with other methods or settings."""

    def make(methods=None, settings=""):
        paths = {"model": place / "model"} | {kind: place / f"{kind}.jsonl" for kind in KINDS}
        text = FILE + "".join(f'{name} = "{path}"\n' for name, path in paths.items()) + settings
        if methods is not None:
            text = text[: text.index("[methods.")] + methods + text[text.index("\n[scales") :]
        file = tmp_path / "sweep.toml"
        file.write_text(text)
        return file

    return make


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """Answers to score on, which an untrained model does not give."""

    def answered(series, answering, subject, name, prompts):
        said = tiny.REFUSAL if name == "safety" else tiny.ANSWER
        kept = [dataclasses.replace(prompt, response=said) for prompt in prompts]
        return dataclasses.replace(prompts, prompts=tuple(kept))

    monkeypatch.setattr(_run, "calibrated", answered)


def run(file, out, changes=(), shard=None):
    part = None if shard is None else parse_shard(shard)
    sweep = read_sweep(file, None, changes)
    return run_sweep(sweep, out, reporter=Reporter(quiet=True), shard=part)


def test_cells_of_another_shard_with_other_settings_are_not_mixed_in(write, tmp_path, command):
    file, out = write(), tmp_path / "out"
    run(file, out, shard="1/2")
    assert len(run(file, out, shard="2/2")["cells"]) == 4
    found = run(file, out, ["max_new_tokens=4"], shard="1/2")
    assert [cell["id"] for cell in found["cells"]] == ["top-0.01", "top-0.05"]
    page = (out / "report.html").read_text()
    assert "2 of 4 cells are still to be run" in page
    told = states(read_sweep(file, None, ["max_new_tokens=4"]), out)
    assert [told[f"top-{size}"] for size in ("0.01", "0.02")] == [
        "done", "to do again, was run with other settings",
    ]  # fmt: skip
    shown = command("run", file, "--out", out, "--dry-run", "--set", "max_new_tokens=4")
    assert shown.out.count("done") == 2
    assert len(run(file, out, ["max_new_tokens=4"], shard="2/2")["cells"]) == 4


def test_a_cell_that_leaves_the_model_changed_is_not_kept(write, tmp_path, monkeypatch):
    @contextmanager
    def leaking(model, mask, reference=None):
        yield model
        with torch.no_grad():
            next(model.parameters()).flatten()[0] += 1

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(_weights, "pruned", leaking)
        with pytest.raises(ChangedModelError, match=r"top-0\.01 left model\.embed_tokens"):
            run(write(), out)
    assert not list(out.glob("cells/*/run.json"))
    assert len(run(write(), out)["cells"]) == 4


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ('kind = "pattern"\nscore = "magnitude"\npatterns = "1:0"', "takes 1 of every 0"),
        ('kind = "pattern"\nscore = "magnitude"\npatterns = "5:4"', "takes 5 of every 4"),
        ('kind = "pattern"\nscore = "magnitude"\npatterns = "0:4"', "takes 0 of every 4"),
        ('kind = "share"\nscore = "magnitude"\nshares = [0.0001]', "0.0001 selects no weight"),
        ('kind = "share"\nscore = "magnitude"\nshares = 0.005\ngroup = "row"', "of any row"),
        (
            'kind = "difference"\nscore = "magnitude"\ngrid = [[0.0001, 0.01]]',
            "of any matrix",
        ),
    ],
)
def test_what_removes_nothing_is_refused_before_anything_is_measured(
    write, tmp_path, method, words
):
    out = tmp_path / "out"
    with pytest.raises(UserError) as refused:
        run(write(f"[methods.odd]\n{method}\n"), out)
    assert words in str(refused.value)
    assert not (out / "baseline").exists()


@pytest.mark.parametrize(
    "method",
    ['kind = "ranks"\nremove = [1, 30]', 'kind = "projection"\nkeep = [[1, 1], [30, 1]]'],
)
def test_more_ranks_than_the_tokens_gave_are_refused_before_the_first_cell(write, tmp_path, method):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"\[methods\.odd\]"):
        run(write(f"[methods.odd]\n{method}\n", 'counted = "last"\n'), out)
    assert not (out / "cells").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("num_samples = 3", "the attack decoding is not run"),
        ('attacks = "prefill"\ntemperature = 0.5', "the attack decoding is not run"),
        ('suffixes = "nowhere.txt"', "the attack suffix is not run"),
        ('prefill = "Sure"', "the attack prefill is not run"),
        ("num_attacked = 2", "no attacks are named"),
        ("num_zero_shot = 10", "zero_shot names no task"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(write, tmp_path, settings, words):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="would do nothing") as refused:
        run(write(settings=f"{settings}\n"), out)
    assert words in str(refused.value)
    assert not (out / "baseline").exists()


@pytest.mark.parametrize(
    "method",
    [
        'kind = "heads"\nheads = 2',
        'kind = "ranks"\nremove = 2',
        'kind = "projection"\nkeep = [[1, 1]]',
    ],
)
def test_only_a_control_of_weights_is_matched_in_magnitude(write, method):
    control = '[methods.odd]\nkind = "random"\nlike = "it"\nmatch = "magnitude"\n'
    with pytest.raises(UserError, match="which is for weights; it removes no"):
        read_sweep(write(f"[methods.it]\n{method}\n{control}"))


def test_options_of_slurm_that_do_nothing_are_refused(write, command):
    ended = command("run", write(), "--slurm", "2", "--shard", "1/2")
    assert (ended.code, "leave --shard out" in ended.text) == (2, True)
    ended = command("run", write(), "--slurm-set", "timeout_min=5", "--dry-run")
    assert (ended.code, "without --slurm" in ended.text) == (2, True)
