"""Where a set lies, as the map of the report names it."""

import torch

from safetypin.artifacts import WeightMask
from safetypin.stages import where


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
