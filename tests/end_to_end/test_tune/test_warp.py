"""`safetypin warp`: all at once, in phases from each other's folders, killed, and refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from end_to_end.comparing import read_metrics
from safetypin.artifacts import Basis, RunRecord, UserError, WeightMask, load
from safetypin.scores import coefficient_gradients
from safetypin.stages import _warp, _warp_mask, share_stages, tune

PHASES = {
    "basis": ("safety", "num_safety", "max_new_tokens"),
    "tune": (
        "attack", "num_attack", "data", "learning_rate", "max_steps", "max_length",
    ),
    "all": (
        "safety", "num_safety", "attack", "num_attack", "data", "learning_rate", "max_steps",
        "max_length", "max_new_tokens",
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def warp_words(place, tune_options, tune_values):
    """Return the words of a phase."""

    def make(phase, given, out=None, **changes):
        wanted = PHASES.get(phase, ())
        options = {name: None for name in tune_values if name not in wanted}
        words = ["warp"] if phase == "all" else ["warp", phase]
        words += [given, *tune_options(**{**options, **changes})]
        return [*words, *([] if out is None else ["--out", out])]

    return make


@pytest.fixture(scope="session")
def warped(tune_settings, tmp_path_factory):
    """The folder of a finished run under warp; never to be changed."""
    folder = tmp_path_factory.mktemp("warped") / "run"
    tune(tune_settings(protect="warp", weight_decay=0.1), folder)
    return folder


@pytest.fixture(scope="session")
def phases(place, tune_settings, warp_words, tmp_path_factory):
    """The folders of the first two phases; never to be changed."""
    from typer.testing import CliRunner

    from safetypin.cli import app

    folder = tmp_path_factory.mktemp("phases")
    for words in (
        warp_words("basis", place / "model", folder / "basis"),
        warp_words("importance", folder / "basis", folder / "mask", keep_ratio=0.2),
    ):
        ended = CliRunner().invoke(app, [str(word) for word in words])
        assert ended.exit_code == 0, ended.output
    return folder / "basis", folder / "mask"


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def assert_held(out, model):
    """The saved model differs from the first one in free coefficients only."""
    basis, mask = load(out / "basis"), load(out / "set")
    before, after = weights(model), weights(out / "training" / "model")
    for name, value in after.items():
        if name not in mask.tensors:
            assert torch.equal(value, before[name]), name
            continue
        change = basis.rotated(name, value.double() - before[name].double()).abs()
        largest = basis.rotated(name, before[name].double()).abs().max()
        frozen = mask.tensors[name]
        if frozen.any():
            assert change[frozen].max() <= 1e-6 * largest
        assert change[~frozen].max() > 1e-4 * largest


def test_tuning_under_warp_makes_basis_and_mask_and_holds_them(warped, place):
    metrics = read_metrics(warped)
    assert metrics["protect"]["kind"] == "warp"
    assert metrics["set"]["fraction"] == pytest.approx(0.1, abs=0.001)
    assert metrics["set"]["name"] == "gradient-input-k0.1"
    assert metrics["training"]["protection"]["frozen_change"] <= 1e-6
    assert_held(warped, place / "model")
    basis = load(warped / "basis")
    assert isinstance(basis, Basis)
    assert basis.counted == "all"
    record = RunRecord.read(warped / "basis")
    assert {site["rank"] for site in record.result["sites"]} <= set(range(1, 65))
    assert metrics["basis"] == record.result
    page = (warped / "report.html").read_text()
    assert "coefficients" in page
    assert "Rank and spectrum of every input" in page


def test_the_mask_takes_one_bit_an_entry(warped):
    size = (warped / "set" / "mask.safetensors").stat().st_size
    mask = load(warped / "set")
    bits = sum(-(-members.numel() // 8) for members in mask.tensors.values())
    header = 400 + 300 * len(mask.tensors)
    assert bits <= size <= bits + header


def test_the_whole_command_is_one_run_of_tune(command, warp_words, place, tmp_path):
    out = tmp_path / "out"
    ended = command(*warp_words("all", place / "model", out, keep_ratio=0.3, modules="attn_*"))
    assert ended.code == 0, ended
    assert "held coefficients moved by at most" in ended.out
    metrics = read_metrics(out)
    assert metrics["preset"] == "warp"
    assert metrics["settings"]["epochs"] == 3
    assert metrics["settings"]["keep_ratio"] == 0.3
    assert all("self_attn" in name for name in load(out / "set").tensors)
    assert_held(out, place / "model")


def test_the_phases_give_what_the_whole_command_gives(command, warp_words, phases, place, tmp_path):
    out, whole = tmp_path / "phased", tmp_path / "whole"
    ended = command(*warp_words("tune", phases[1], out))
    assert ended.code == 0, ended
    ended = command(*warp_words("all", place / "model", whole, keep_ratio=0.2))
    assert ended.code == 0, ended
    assert load(out / "set").fingerprint == load(whole / "set").fingerprint
    assert load(out / "basis").fingerprint == load(whole / "basis").fingerprint
    left, right = (weights(folder / "training" / "model") for folder in (out, whole))
    assert all(torch.equal(left[name], right[name]) for name in left)
    settings = [read_metrics(folder)["settings"] for folder in (out, whole)]
    for name in ("keep_ratio", "importance", "form", "keep_group", "rotation"):
        assert settings[0][name] == settings[1][name]
    assert not (whole / "coefficients").exists()


def test_masks_of_other_sizes_are_cut_from_the_same_scores(tune_settings, tmp_path, monkeypatch):
    scored = []

    def counted(*args, **options):
        scored.append(1)
        return coefficient_gradients(*args, **options)

    monkeypatch.setattr(_warp_mask, "coefficient_gradients", counted)
    how = {"protect": "warp", "max_steps": 1, "keep_scores": True}
    tune(tune_settings(**how, keep_ratio=0.1), tmp_path / "first")
    shared = ("calibration-safety", "basis", "coefficients")
    assert share_stages(tmp_path / "first", tmp_path / "second", shared) == list(shared)
    tune(tune_settings(**how, keep_ratio=0.3), tmp_path / "second")
    tune(tune_settings(protect="warp", max_steps=1, keep_ratio=0.3), tmp_path / "alone")
    assert len(scored) == 2
    sets = [load(tmp_path / name / "set").fingerprint for name in ("second", "alone")]
    assert sets[0] == sets[1]


def test_the_least_important_directions_are_a_control_of_the_others(tune_settings, tmp_path):
    how = {"protect": "warp", "form": "column", "max_steps": 1, "keep_ratio": 0.25}
    for name in ("gradient", "bottom"):
        tune(tune_settings(**how, importance=name), tmp_path / name)
    top, bottom = (load(tmp_path / name / "set") for name in ("gradient", "bottom"))
    assert (top & bottom).num_selected == 0
    assert top.num_selected == bottom.num_selected


def test_a_phase_says_what_it_made(command, warp_words, phases, place, tmp_path):
    ended = command(*warp_words("basis", place / "model", tmp_path / "b", layers="last"))
    assert "4 input sites of 7 matrices" in ended.out
    ended = command(*warp_words("importance", phases[0], tmp_path / "m", importance="random"))
    assert "1,842 of 18,432 (9.99%) coefficients" in ended.out
    assert load(tmp_path / "m" / "set").space == load(phases[0] / "basis").fingerprint
    # another draw leaves the basis as it is
    words = warp_words("importance", phases[0], tmp_path / "n", importance="random", draw_seed=7)
    assert command(*words).code == 0
    one, other = (load(tmp_path / name / "set") for name in "mn")
    assert one.space == other.space
    assert one.fingerprint != other.fingerprint


CONTROLS = {
    "keep 0": ({"keep_ratio": 0}, 0.0),
    "random mask": ({"importance": "random"}, 0.1),
    "bottom mask": ({"importance": "bottom"}, 0.1),
    "random rotation": ({"rotation": "random"}, 0.1),
    "original space": ({"rotation": "identity"}, 0.1),
    "over the model": ({"keep_group": "model"}, 0.1),
    "adapters": ({"protect": "warp-lora", "lora_targets": "attn_q,attn_v"}, 0.1),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_runs_and_has_its_share(tune_settings, tmp_path, name):
    changes, share = CONTROLS[name]
    settings = {"protect": "warp", "max_steps": 1, **changes}
    if "lora_targets" in settings:
        settings["lora_targets"] = tuple(settings["lora_targets"].split(","))
    metrics = tune(tune_settings(**settings), tmp_path / "out")
    assert metrics["set"]["fraction"] == pytest.approx(share, abs=0.01)
    space = load(tmp_path / "out" / "set").space
    assert (space == "weights") is (name == "original space")


@pytest.mark.parametrize("num_written", [0, 1])
def test_a_killed_basis_goes_on_at_the_next_block(
    tune_settings, warped, tmp_path, monkeypatch, num_written
):
    # one layer a block
    monkeypatch.setattr(_warp, "blocks_of_layers", lambda weights, room: blocks(weights))
    made = []
    whole = _warp.block_directions

    def killed(model, batches, block, **options):
        if len(made) == num_written:
            raise KeyboardInterrupt
        made.append(block)
        return whole(model, batches, block, **options)

    def counted(model, batches, block, **options):
        made.append(block)
        return whole(model, batches, block, **options)

    settings, out = tune_settings(protect="warp", weight_decay=0.1), tmp_path / "out"
    monkeypatch.setattr(_warp, "block_directions", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(settings, out)
    monkeypatch.setattr(_warp, "block_directions", counted)
    tune(settings, out)
    assert len(made) == 2
    assert load(out / "basis").fingerprint == load(warped / "basis").fingerprint
    assert read_metrics(out)["after"] == read_metrics(warped)["after"]


def test_a_killed_importance_phase_goes_on_without_a_new_basis(
    command, warp_words, phases, tmp_path, monkeypatch
):
    out, whole = tmp_path / "out", _warp_mask.coefficient_gradients

    def killed(model, batches, basis, **options):
        whole(model, list(batches)[:1], basis, **options)
        raise KeyboardInterrupt

    def remade(*args, **options):
        raise AssertionError("the basis was made again")

    words = warp_words("importance", phases[0], out, keep_ratio=0.2)
    monkeypatch.setattr(_warp, "block_directions", remade)
    monkeypatch.setattr(_warp_mask, "coefficient_gradients", killed)
    assert command(*words).code == 130
    assert (out / "basis" / "run.json").exists()
    assert not (out / "set").exists()
    assert "holds no mask yet" in refused(command, warp_words("tune", out, tmp_path / "tuned"))
    monkeypatch.setattr(_warp_mask, "coefficient_gradients", whole)
    assert command(*words).code == 0
    assert load(out / "set").fingerprint == load(phases[1] / "set").fingerprint


def blocks(weights):
    found = {}
    for name, weight in weights.items():
        found.setdefault(weight.layer, {})[name] = weight
    return list(found.values())


def test_a_run_under_warp_is_tracked_with_a_set_that_is_made_from_scores(
    warped, command, place, tmp_path
):
    out = tmp_path / "tracked"
    words = ["track", warped, "--num-permutations", 19, "--device", "cpu", "--max-new-tokens", 10]
    for kind in ("safety", "utility"):
        words += [f"--{kind}", place / f"{kind}.jsonl", f"--num-{kind}", 16]
    ended = command(*words, "--out", out)
    assert ended.code == 0, ended
    assert "coefficients in a rotated basis (--protect warp)" in " ".join(ended.text.split())
    metrics = read_metrics(out)
    assert metrics["set"]["source"] == "made here"
    assert all(group["num_trainable"] == group["num_selected"] for group in metrics["groups"])


def test_a_phase_runs_on_the_device_that_it_is_told(command, warp_words, phases, tmp_path):
    out = tmp_path / "mask"
    words = warp_words("importance", phases[0], out, device="cpu", importance="random")
    assert command(*words).code == 0
    ended = command(*warp_words("tune", phases[1], tmp_path / "out", device="cpu", max_steps=1))
    assert ended.code == 0, ended
    assert read_metrics(tmp_path / "out")["settings"]["device"] == "cpu"


def test_a_mask_of_fewer_than_asked_for_is_said(tune_settings):
    config = tune_settings(protect="warp", keep_ratio=0.5)
    members = torch.zeros(2, 3, 4, dtype=torch.bool)
    members[0, :2] = True
    mask = WeightMask(tensors={"experts": members}, model_id="m")
    said = _warp_mask.shortage(config, mask)
    assert "holds 8 coefficients, not the 12 of keep_ratio 0.5" in said
    assert (
        _warp_mask.shortage(config, mask | WeightMask(tensors={"experts": ~members}, model_id="m"))
        is None
    )
    assert _warp_mask.shortage(tune_settings(protect="warp", form="column"), mask) is None


def test_a_settings_file_of_the_whole_command_is_read(command, warp_words, place, tmp_path):
    file, out = tmp_path / "warp.toml", tmp_path / "out"
    file.write_text('preset = "quick"\nprotect = "freeze"\n')
    words = warp_words("all", place / "model", out, config=str(file))
    assert "asks for protect 'freeze'" in refused(command, words, out)
    file.write_text('preset = "quick"\nprotect = "warp-lora"\nnum_safety = 100\n')
    ended = command(*warp_words("all", place / "model", out, config=str(file), max_steps=1))
    assert ended.code == 0, ended
    metrics = read_metrics(out)
    assert metrics["preset"] == "quick"
    assert metrics["protect"]["kind"] == "warp-lora"
    held = metrics["training"]["protection"]
    assert held["frozen_change"] <= held["tolerance"]


# --- refused


def copied(phases, tmp_path):
    return shutil.copytree(phases[1], tmp_path / "copied")


def refused(command, words, out=None):
    ended = command(*words)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert out is None or not out.exists()
    return ended.text


def test_a_basis_of_another_model_is_refused(command, warp_words, phases, place, tmp_path):
    folder = copied(phases, tmp_path)
    settings = json.loads((folder / "warp.json").read_text())
    settings["model"] = str(place / "unaligned")
    (folder / "warp.json").write_text(json.dumps(settings))
    for words in (
        warp_words("importance", folder),
        warp_words("tune", folder, tmp_path / "out"),
    ):
        assert "the basis in" in (text := refused(command, words))
        assert "make one of this model" in text


def test_a_basis_of_another_template_is_refused(command, warp_words, phases, place, tmp_path):
    folder = copied(phases, tmp_path)
    settings = json.loads((folder / "warp.json").read_text())
    settings["plain"] = True
    (folder / "warp.json").write_text(json.dumps(settings))
    words = warp_words("importance", folder)
    assert "made with another chat template or system prompt" in refused(command, words)
    words = warp_words("tune", folder, tmp_path / "out")
    assert "made with another chat template" in refused(command, words)


@pytest.mark.parametrize("rotation", ["identity", "random"])
def test_a_mask_of_another_basis_in_the_folder_is_refused(
    command, warp_words, place, tmp_path, rotation
):
    folder, out = tmp_path / "run", tmp_path / "out"
    how = {"rotation": rotation}
    for words in (
        warp_words("basis", place / "model", folder, **how),
        warp_words("importance", folder, importance="random"),
        # the same directions, of other prompts
        warp_words("basis", place / "model", folder, **how, num_safety=80),
    ):
        assert command(*words).code == 0
    text = refused(command, warp_words("tune", folder, out), out)
    assert "prompts: " in text
    assert f"make it again with `safetypin warp importance {folder}`" in text
    assert command(*warp_words("importance", folder, importance="random")).code == 0
    if rotation == "random":
        return
    settings = RunRecord.read(folder / "basis")
    other = dataclasses.replace(settings, inputs={**settings.inputs, "model_id": "other#1"})
    other.write(folder / "basis")
    assert "model_id" in refused(command, warp_words("tune", folder, out), out)


def test_a_mask_of_other_settings_than_the_folder_has_is_refused(
    command, warp_words, phases, tmp_path, monkeypatch
):
    folder, out = copied(phases, tmp_path), tmp_path / "out"

    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_warp_mask, "coefficient_gradients", killed)
    assert command(*warp_words("importance", phases[0], folder, keep_ratio=0.5)).code == 130
    text = refused(command, warp_words("tune", folder, out), out)
    assert "keep_ratio: 0.2 there, 0.5 here" in text
    assert f"`safetypin warp importance {folder}`" in text


def test_importance_does_not_remake_the_basis(command, warp_words, place, tmp_path):
    folder, file = tmp_path / "run", tmp_path / "safety.jsonl"
    lines = (place / "safety.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(lines))
    words = warp_words("basis", place / "model", folder, rotation="random", safety=str(file))
    assert command(*words).code == 0
    before = load(folder / "basis").fingerprint
    words = warp_words("importance", folder, importance="random", draw_seed=7)
    assert "seed: 0 there, 7 here" in refused(command, words)
    file.write_text("".join(lines[1:]))
    words = warp_words("importance", folder, importance="random")
    assert "are no longer those that the basis" in refused(command, words)
    assert load(folder / "basis").fingerprint == before
    assert not (folder / "set").exists()


@pytest.mark.parametrize("is_given", [True, False])
def test_a_refused_rerun_leaves_the_set_of_its_model(
    command, warp_words, phases, warped, place, tune_settings, tmp_path, is_given
):
    out = shutil.copytree(warped, tmp_path / "out")
    before = load(out / "set").fingerprint, load(out / "basis").fingerprint
    if is_given:
        other = warp_words("basis", place / "model", tmp_path / "other", rotation="identity")
        assert command(*other).code == 0
        assert command(*warp_words("importance", tmp_path / "other")).code == 0
        text = refused(command, warp_words("tune", tmp_path / "other", out))
        assert "with other settings" in text
    else:
        how = {"protect": "warp", "weight_decay": 0.1}
        with pytest.raises(UserError, match="with other settings"):
            tune(tune_settings(**how, rotation="random", importance="random"), out)
    assert (load(out / "set").fingerprint, load(out / "basis").fingerprint) == before


def test_another_basis_takes_the_place_of_the_one_in_the_folder_of_a_mask(
    command, warp_words, phases, place, tmp_path
):
    out = copied(phases, tmp_path)
    other = warp_words("basis", place / "model", tmp_path / "other", rotation="random")
    assert command(*other).code == 0
    words = warp_words("importance", tmp_path / "other", out, importance="random")
    ended = command(*words)
    assert ended.code == 0, ended
    assert load(out / "basis").fingerprint == load(tmp_path / "other" / "basis").fingerprint
    assert load(out / "set").space == load(out / "basis").space


@pytest.mark.parametrize("change", ["missing", "fewer", "flipped"])
def test_a_basis_that_lost_a_layer_is_refused_before_a_model_is_loaded(
    command, warp_words, phases, tmp_path, monkeypatch, change
):
    folder = copied(phases, tmp_path)
    path = folder / "basis" / "block-000.safetensors"
    if change == "missing":
        path.unlink()
    elif change == "fewer":
        tensors = dict(list(load_file(path).items())[:-1])
        save_file(tensors, path)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    def loaded(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("safetypin.stages._warp_phases.load_model", loaded)
    monkeypatch.setattr("safetypin.stages._tune.load_model", loaded)
    for words in (warp_words("importance", folder), warp_words("tune", folder, tmp_path / "out")):
        text = refused(command, words)
        assert "block-000.safetensors" in text


def test_a_phase_that_comes_too_early_is_refused(command, warp_words, phases, tmp_path):
    words = warp_words("importance", tmp_path / "nothing")
    assert "is no run of `safetypin warp basis`" in refused(command, words)
    words = warp_words("tune", phases[0], tmp_path / "out")
    assert "holds no mask yet" in refused(command, words, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_ratio": 1.5}, "keep_ratio must be in [0, 1], got 1.5; 1.5 % is 0.015"),
        ({"keep_ratio": -0.1}, "keep_ratio must be in [0, 1], got -0.1"),
        ({"keep_ratio": 1.0}, "holds every coefficient"),
        ({"layers": "7"}, "the model has the blocks 0 to 1"),
        ({"layers": "first"}, "none of all, early, middle, late, last"),
        ({"targets": "nothing"}, "matches no weight"),
        ({"control": "random"}, "its controls are --importance random"),
        ({"rotation": "svd"}, "choose one of input, random, identity"),
        ({"protect": "warp-lora", "targets": "ffn_up"}, "choose lora_targets among the modules"),
        ({"protect": "warp-lora", "lora_targets": "nothing"}, "matches no"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tune_refused, changes, said):
    assert said in tune_refused(**{"protect": "warp", **changes})


def test_a_mask_of_weights_and_one_of_coefficients_are_not_mixed_up(
    command, tune_words, staged, warped, tmp_path
):
    words = tune_words(tmp_path / "out", protect="warp", mask=str(staged / "set"))
    assert "holds no basis" in refused(command, words, tmp_path / "out")
    for protect in ("freeze", "rewind", "lora-entry", "lora-column"):
        words = tune_words(tmp_path / "out", protect=protect, mask=str(warped))
        assert "in the basis" in refused(command, words, tmp_path / "out")
