"""`safetypin import`: what the extension saved becomes what every command takes."""

import json

import pytest
import torch

from safetypin.artifacts import WeightMask, WeightScores, load
from safetypin.models import load_model


@pytest.fixture(scope="session")
def weights(place):
    model, _ = load_model(str(place / "model"), dtype="float32", device="cpu")
    return {name: value.detach() for name, value in model.named_parameters() if "proj" in name}


@pytest.fixture
def imported(command, place, tmp_path):
    """Save content as the extension does, import it; return the ended command and the folder."""

    def run(content, *more, model="model", name="masks.pt"):
        file, out = tmp_path / name, tmp_path / f"{name}.out"
        torch.save(content, file)
        given = ("--model", place / model, "--out", out, *more)
        return command("import", file, *given), out

    return run


def modules(weights, make):
    """Return what the extension saved: by the name of the module, without `.weight`."""
    return {name.removesuffix(".weight"): make(value) for name, value in weights.items()}


def test_a_set_is_imported_and_loads(imported, weights):
    content = modules(weights, lambda value: value.abs() > value.abs().median())
    ended, out = imported(content)
    assert (ended.code, ended.err) == (0, "")
    mask = load(out)
    assert isinstance(mask, WeightMask)
    for name, members in mask.tensors.items():
        assert torch.equal(members, content[name.removesuffix(".weight")])
    assert f"{mask.num_selected:,} of {mask.num_weights:,} weights" in ended.out


def test_an_imported_set_can_be_evaluated(imported, weights, evaluated):
    _, out = imported(modules(weights, lambda value: value.abs() > value.abs().median()))
    ended, folder = evaluated("--mask", out)
    assert ended.code == 0
    assert json.loads((folder / "summary.json").read_text())["harmful"]


def test_matrices_that_the_file_leaves_out_have_no_member(imported, weights):
    content = {"model.layers.0.mlp.up_proj": torch.ones(64, 32, dtype=torch.bool)}
    _, out = imported(content)
    mask = load(out)
    assert mask.tensors.keys() == weights.keys()
    assert mask.num_selected == 64 * 32


def test_the_highest_scores_are_imported_as_their_set(imported, weights):
    def top(value):
        values, indices = torch.topk(value.abs().flatten(), 10)
        return {"indices": indices, "scores": values, "shape": value.shape}

    _, out = imported(modules(weights, top), name="original_safety_scores.pt")
    mask = load(out)
    assert isinstance(mask, WeightMask)
    assert mask.num_selected == 10 * len(weights)


def test_whole_scores_are_imported_as_scores(imported, weights, command, tmp_path):
    ended, out = imported(modules(weights, torch.abs), "--method", "wanda")
    scores = load(out)
    assert isinstance(scores, WeightScores)
    assert (scores.method, scores.coverage) == ("wanda", 1.0)
    assert f"scores of {len(weights)} matrices" in ended.out
    cut = command("select", out, "--q", "0.1", "--out", tmp_path / "set")
    assert cut.code == 0
    assert load(tmp_path / "set").fraction == pytest.approx(0.1, abs=0.001)


def test_names_that_peft_and_compilers_wrap_are_known(imported):
    members = torch.ones(64, 32, dtype=torch.bool)
    names = (
        "base_model.model.model.layers.0.mlp.up_proj.base_layer",
        "_orig_mod.model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.base",
    )
    for number, name in enumerate(names):
        ended, out = imported({name: members}, name=f"{number}.pt")
        assert ended.code == 0, ended
        assert load(out).tensors["model.layers.0.mlp.up_proj.weight"].all()


def test_a_head_without_members_is_no_hindrance(imported, weights):
    content = modules(weights, lambda value: value > 0)
    content["lm_head"] = torch.zeros(5, 32, dtype=torch.bool)
    assert imported(content)[0].code == 0


def test_a_file_of_another_model_is_refused(imported, weights):
    content = modules(weights, lambda value: torch.ones(3, 3, dtype=torch.bool))
    ended, out = imported(content)
    assert ended.code == 2
    assert "is (3, 3), in the model it is (" in ended.text
    assert "name the model that the file was made of with --model" in ended.text
    assert not out.exists()


def test_a_module_that_the_model_does_not_have_is_named_with_the_nearest(imported):
    ended, _ = imported({"model.layers.9.mlp.up_proj": torch.ones(64, 32, dtype=torch.bool)})
    assert ended.code == 2
    assert "the model scores no weight 'model.layers.9.mlp.up_proj.weight'; did you" in ended.text


def test_a_file_with_more_than_tensors_is_refused(imported):
    ended, out = imported({"model.layers.0.mlp.up_proj": slice(1)})
    assert ended.code == 2
    assert "could run anything, so it is not loaded" in ended.text
    assert not out.exists()
