"""SN-Tune and RSN-Tune from the command's settings: only the weights of the neurons move."""

import json

import pytest
import torch

from safetypin.artifacts import ArtifactMismatchError, NeuronSet, UserError, load, save
from safetypin.models import load_model, neuron_weights
from safetypin.stages import (
    EVENTS_FILE,
    Reporter,
    contrast_models,
    make_contrast_config,
    make_track_config,
    track,
    tune,
)
from safetypin.stages._tune_neurons import check_foundation


@pytest.fixture(scope="module")
def neurons(place, tmp_path_factory):
    """A set with foundation neurons taken out, as `contrast --method ablation` leaves it."""
    out = tmp_path_factory.mktemp("neurons") / "out"
    options = {
        "method": "ablation", "counted": "prompt", "prompts": str(place / "safety.jsonl"),
        "num_prompts": 6, "fraction": 0.5, "group": "layer", "device": "cpu",
        "foundation": str(place / "text.jsonl"), "foundation_fraction": 0.3,
    }  # fmt: skip
    contrast_models(make_contrast_config(str(place / "model"), options), out)
    return out


@pytest.mark.parametrize("protect", ["sn-tune", "rsn-tune"])
def test_only_the_weights_of_the_neurons_move(protect, neurons, tune_settings, place, tmp_path):
    config = tune_settings(protect=protect, mask=str(neurons))
    found = tune(config, tmp_path / "out")
    assert found["set"]["source"] == "contrast"
    model = load_model(str(place / "model"), dtype="float32", device="cpu")[0]
    tuned = load_model(str(tmp_path / "out/training/model"), dtype="float32", device="cpu")[0]
    mask = neuron_weights(model, load(neurons / "neurons"))
    for name, value in tuned.named_parameters():
        before = model.get_parameter(name)
        members = mask.tensors.get(name, torch.zeros_like(before, dtype=torch.bool))
        assert torch.equal(value[~members], before[~members]), name
    assert any(
        not torch.equal(tuned.get_parameter(name)[m], model.get_parameter(name)[m])
        for name, m in mask.tensors.items()
    )


def test_what_a_track_calls_trainable_is_what_the_neurons_are(neurons, tune_settings, tmp_path):
    tune(tune_settings(protect="sn-tune", mask=str(neurons)), tmp_path / "run")
    config = make_track_config(
        str(tmp_path / "run"), None, None,
        {"device": "cpu", "rescore": False, "num_permutations": 19},
    )  # fmt: skip
    rows = track(config, tmp_path / "out")["drift"]["rows"]
    found = {row["group"]: row for row in rows if row["measure"] == "rms_units"}
    assert found["critical"]["num_trainable"] == found["critical"]["num_weights"]
    # drawn beside the set, where nothing could move
    assert found["random"]["num_trainable"] == 0
    # and so what is expected of it is what it did itself, not an average with the rest
    assert found["critical"]["ratio"] == pytest.approx(1, abs=0.01)


def test_the_inner_folder_of_a_set_without_foundation_neurons_is_taken(neurons, tune_settings):
    check_foundation(tune_settings(protect="rsn-tune", mask="x"), neurons / "neurons")


def test_a_set_with_foundation_neurons_or_of_another_model_is_refused(
    neurons, tune_settings, tmp_path
):
    plain = load(neurons / "neurons")
    save(plain, tmp_path / "plain")
    with pytest.raises(UserError, match="none were taken out of the set in"):
        tune(tune_settings(protect="rsn-tune", mask=str(tmp_path / "plain")), tmp_path / "out")
    save(NeuronSet(tensors=plain.tensors, model_id="x#9"), tmp_path / "other")
    with pytest.raises(ArtifactMismatchError, match="are of x#9, the model is"):
        tune(tune_settings(protect="sn-tune", mask=str(tmp_path / "other")), tmp_path / "out2")


def test_that_a_set_of_weights_is_trained_as_it_is_said(tuned, tune_settings, neurons, tmp_path):
    """As in an experiment, whose arms all take its one set of weights."""

    def notes(name, mask):
        out = tmp_path / name
        reporter = Reporter(events=out / EVENTS_FILE, quiet=True)
        config = tune_settings(protect="sn-tune", mask=str(mask), max_steps=1)
        assert tune(config, out, reporter=reporter)["set"] is not None
        events = map(json.loads, (out / EVENTS_FILE).read_text().splitlines())
        return [event["text"] for event in events if event["event"] == "note"]

    said = f"--mask {tuned} holds a set of weights: --protect sn-tune trains these and no others"
    assert any(said in note for note in notes("weights", tuned))
    assert not any("holds a set of weights" in note for note in notes("neurons", neurons))
