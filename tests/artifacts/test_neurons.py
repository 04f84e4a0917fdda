"""Sets and scores of units: algebra, hashes, files."""

import pytest
import torch

from safetypin.artifacts import (
    ArtifactMismatchError,
    DamagedArtifactError,
    NeuronScores,
    NeuronSet,
    load,
    save,
)

NAME = "model.layers.0.mlp.down_proj"


def of(*members, **options):
    tensors = {NAME: torch.tensor([index in members for index in range(6)])}
    return NeuronSet(tensors=tensors, **{"model_id": "m#1", "reference_id": "r#2", **options})


def test_sets_subtract_intersect_and_join():
    mine, theirs = of(0, 1, 2), of(2, 3)
    for found, members in (
        (mine - theirs, [0, 1]),
        (mine & theirs, [2]),
        (mine | theirs, [0, 1, 2, 3]),
    ):
        assert found.tensors[NAME].nonzero()[:, 0].tolist() == members
        assert found.site == "neuron"
        assert found.reference_id == "r#2"


def test_size_share_and_overlap():
    assert (of(0, 1, 2).num_selected, of().num_units, of(0, 1, 2).fraction) == (3, 6, 0.5)
    assert of(0, 1, 2).jaccard(of(2, 3)) == 0.25
    assert of().jaccard(of()) is None


def test_a_fingerprint_changes_with_members_site_and_model():
    prints = {of(0).fingerprint, of(1).fingerprint, of(0, site="residual").fingerprint,
              of(0, model_id="m#3").fingerprint}  # fmt: skip
    assert len(prints) == 4
    assert of(0, model_id="other name#1").fingerprint == of(0).fingerprint


def test_a_set_is_of_both_models_that_were_compared():
    assert of(0).is_of("m#1")
    assert of(0).is_of("elsewhere/m#1")
    assert of(0).is_of("r#2")
    assert not of(0).is_of("m#2x")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (of(0, site="residual"), "two sites: neuron and residual"),
        (of(0, model_id="x#9", reference_id=""), "of two models: m#1 and x#9"),
        (NeuronSet(tensors={"z": torch.ones(6, dtype=torch.bool)}, model_id="m#1"), "in only one"),
        (
            NeuronSet(tensors={NAME: torch.ones(5, dtype=torch.bool)}, model_id="m#1"),
            r"\(6,\) .*\(5,\)",
        ),
    ],
)
def test_sets_of_different_things_never_combine(other, said):
    with pytest.raises(ArtifactMismatchError, match=said):
        of(0) & other


def test_a_set_comes_back_from_its_folder(tmp_path):
    save(of(1, 4), tmp_path / "set")
    found = load(tmp_path / "set")
    assert isinstance(found, NeuronSet)
    assert found.fingerprint == of(1, 4).fingerprint
    assert (found.model_id, found.reference_id, found.site) == ("m#1", "r#2", "neuron")


def test_scores_come_back_from_their_folder_in_order(tmp_path):
    tensors = {"model.layers.1.mlp": torch.rand(3), "model.layers.0.mlp": torch.rand(2, 2)}
    scores = NeuronScores(
        tensors=tensors, site="residual", method="contrast-free", model_id="m#1",
        reference_id="r#2", prompts_id="p", num_examples=3, num_tokens=7,
    )  # fmt: skip
    save(scores, tmp_path / "scores")
    found = load(tmp_path / "scores")
    assert isinstance(found, NeuronScores)
    assert list(found.tensors) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor)
    assert (found.site, found.num_tokens, found.prompts_id) == ("residual", 7, "p")


@pytest.mark.parametrize("cut", [3, 40])
def test_a_file_that_was_cut_short_is_refused(tmp_path, cut):
    save(of(1, 4), tmp_path)
    path = tmp_path / "neurons.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DamagedArtifactError, match="changed since it was written"):
        load(tmp_path)
