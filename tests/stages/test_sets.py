"""Where a set lies, as the map of the report names it."""

import pytest
import torch

from safetypin.artifacts import UserError, WeightMask, WeightScores, write_mask
from safetypin.select import GROUPS, top_fractions
from safetypin.stages import _tops, cut_sets, read_set, where


def mask_of(*names):
    tensors = {name: torch.eye(4, dtype=torch.bool) for name in names}
    return WeightMask(tensors=tensors, model_id="m#0")


def test_matrices_that_end_alike_keep_their_whole_place():
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    found = where(mask_of(*(f"transformer.h.0.{name}.weight" for name in names)))
    assert found["modules"] == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]


def test_the_map_keeps_the_order_of_the_set_and_counts_every_matrix():
    names = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    some = [f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in names]
    found = where(mask_of(*some[:-1]))
    assert found["modules"] == ["q_proj", "up_proj", "down_proj"]
    assert found["layers"] == [0, 1]
    assert found["counts"] == [[4, 4, 4], [4, 4, None]]
    assert found["sizes"] == [[16, 16, 16], [16, 16, None]]
    assert found["share"] == [[0.25] * 3, [0.25, 0.25, None]]


def scores_of(seed, num_layers=2):
    random = torch.Generator().manual_seed(seed)
    tensors = {
        f"model.layers.{layer}.mlp.{name}.weight": torch.rand(6, 9, generator=random).round(
            decimals=1
        )
        for layer in range(num_layers)
        for name in ("up_proj", "down_proj")
    }
    tensors["model.layers.0.experts"] = torch.rand(3, 5, 7, generator=random)
    return WeightScores(tensors=tensors, method="snip", model_id="m#0")


@pytest.mark.parametrize("group", GROUPS)
def test_tops_as_bits_are_the_tops(group):
    scores, shares = scores_of(0), (0.0, 0.05, 0.3, 1.0)
    expected = top_fractions(scores, shares, group=group)
    found = _tops.packed_tops(scores, shares, group=group)
    assert list(found) == list(shares)
    for share, mask in found.items():
        assert mask.fingerprint == expected[share].fingerprint
        assert list(mask.tensors) == list(expected[share].tensors)
        for name, members in mask.tensors.items():
            assert torch.equal(members, expected[share].tensors[name])


@pytest.mark.parametrize(("group", "largest"), [("row", 1), ("matrix", 1), ("layer", 3)])
def test_whole_masks_are_those_of_one_group_at_a_time(group, largest, monkeypatch):
    seen = []

    def counted(scores, fractions, *, group):
        seen.append(len(scores.tensors))
        return top_fractions(scores, fractions, group=group)

    monkeypatch.setattr(_tops, "top_fractions", counted)
    _tops.packed_tops(scores_of(0), (0.1, 0.2), group=group)
    assert max(seen) == largest
    assert sum(seen) == 5


def cut(folder, grid, overlap_fraction, halves=()):
    return cut_sets(
        folder,
        scores_of(0),
        scores_of(1),
        grid,
        group="matrix",
        overlap_fraction=overlap_fraction,
        halves=dict(halves),
        tops=["top_utility"],
        with_random=False,
    )


def test_the_overlap_is_measured_at_every_share_of_the_grid(tmp_path):
    files = []
    for half, scores in enumerate((scores_of(2), scores_of(3))):
        files.append(tmp_path / f"half-{half}.safetensors")
        write_mask(files[-1], top_fractions(scores, [0.3], group="matrix")[0.3])
    output = cut(tmp_path, [(0.1, 0.2), (0.2, 0.2)], 0.3, {"safety": files})
    overlaps = output.result["overlap"]
    assert [found["fraction"] for found in overlaps] == [0.1, 0.2, 0.3]
    ours, theirs = (top_fractions(scores_of(seed), [0.1])[0.1] for seed in (0, 1))
    assert overlaps[0]["num_both"] == (ours & theirs).num_selected
    assert overlaps[0]["num_utility"] == theirs.num_selected
    assert [found["noise_floor_safety"] is None for found in overlaps] == [True, True, False]


def test_a_set_is_the_top_of_one_score_less_that_of_the_other(tmp_path):
    output = cut(tmp_path, [(0.3, 0.1)], 0.2)
    safety = top_fractions(scores_of(0), [0.3])[0.3]
    utility = top_fractions(scores_of(1), [0.1])[0.1]
    found = read_set(tmp_path, "critical-q0.3-p0.1")
    assert found.fingerprint == (safety - utility).fingerprint
    assert output.result["sets"]["critical-q0.3-p0.1"]["fingerprint"] == found.fingerprint
    assert read_set(tmp_path, "top_utility-q0.3-p0.1").num_selected == found.num_selected
    assert sorted(output.files) == sorted(path.name for path in tmp_path.iterdir())


def test_a_share_whose_tops_are_empty_has_no_overlap(tmp_path):
    overlaps = cut(tmp_path, [(0.001, 0.001), (0.1, 0.1)], 0.2).result["overlap"]
    assert [found["fraction"] for found in overlaps] == [0.1, 0.2]
    with pytest.raises(UserError, match="selects no weight of any matrix"):
        cut(tmp_path, [(0.1, 0.1)], 0.001)
