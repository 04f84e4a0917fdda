"""What metrics.json says of the overlap of two tops: whole, by layer and by matrix."""

import torch

from safetypin.artifacts import WeightMask
from safetypin.select import overlap, overlap_by_layer
from safetypin.stages import overlap_of_tops

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NEXT, HEAD = "model.layers.2.mlp.up_proj.weight", "lm_head.weight"


def mask_of(**members):
    """Sets of 10 weights a matrix, from the members' indices; layer 2 has no down_proj."""
    tensors = {}
    for short, name in {"up": UP, "down": DOWN, "next": NEXT, "head": HEAD}.items():
        tensors[name] = torch.zeros(2, 5, dtype=torch.bool)
        tensors[name].view(-1)[members.get(short, [])] = True
    return WeightMask(tensors=tensors, model_id="m#1")


SAFETY = mask_of(up=[0, 1, 2, 3], down=[0, 1], next=[5], head=[1])
UTILITY = mask_of(up=[2, 3, 4], down=[1, 2], next=[6])
HALVES = {
    "safety": (mask_of(up=[0, 1], down=[0], next=[5]), mask_of(up=[0, 1, 2], down=[0, 1])),
    "utility": (mask_of(up=[2], down=[1], next=[6]), mask_of(up=[2, 3], down=[1, 2, 3])),
}


def test_every_matrix_has_its_index_beside_chance_and_the_lower_of_the_floors():
    found = overlap_of_tops(0.3, SAFETY, UTILITY, HALVES)["by_matrix"]
    assert (found["layers"], found["modules"]) == ([0, 2], ["up_proj", "down_proj"])
    assert found["jaccard"] == [[2 / 5, 1 / 3], [0.0, None]]
    # 4 and 3 of 10 share 1.2 by chance
    assert found["chance"][0][0] == 1.2 / (4 + 3 - 1.2)
    assert found["noise_floor"] == [[1 / 2, 1 / 3], [0.0, None]]
    assert found["num_both"] == [[2, 1], [0, None]]
    assert (found["num_safety"], found["num_utility"]) == ([[4, 2], [1, None]], [[3, 2], [1, None]])
    assert found["num_weights"] == [[10, 10], [10, None]]
    safety, utility = found["halves"]
    assert (safety["of"], utility["of"]) == ("safety", "utility")
    assert safety["num_both"] == [[2, 1], [0, None]]
    assert (utility["num_first"], utility["num_second"]) == (
        [[1, 1], [1, None]],
        [[2, 3], [0, None]],
    )


def test_whole_and_layers_are_what_their_matrices_add_up_to():
    found = overlap_of_tops(0.3, SAFETY, UTILITY, HALVES)
    whole = overlap(SAFETY, UTILITY)
    assert found["jaccard"] == whole.jaccard
    assert (found["num_both"], found["num_safety"], found["num_weights"]) == (3, 8, 40)
    assert found["noise_floor_safety"] == overlap(*HALVES["safety"]).jaccard
    layers = {part.layer: part.overlap for part in overlap_by_layer(SAFETY, UTILITY)}
    assert [row["layer"] for row in found["by_layer"]] == [0, 2]
    for row in found["by_layer"]:
        assert row["jaccard"] == layers[row["layer"]].jaccard
        assert row["chance_both"] == layers[row["layer"]].chance_both


def test_without_halves_there_is_no_floor():
    found = overlap_of_tops(0.3, SAFETY, UTILITY, {})
    assert found["noise_floor_safety"] is None
    assert found["by_matrix"]["noise_floor"] == [[None, None], [None, None]]


def test_a_half_that_selects_nothing_in_a_matrix_leaves_it_without_a_floor():
    empty = {"safety": (mask_of(up=[1]), mask_of(up=[1]))}
    found = overlap_of_tops(0.3, SAFETY, UTILITY, empty)["by_matrix"]["noise_floor"]
    assert found == [[1.0, None], [None, None]]
