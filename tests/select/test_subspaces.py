import dataclasses

import pytest
import torch

from conftest import build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, RankBasis, UserError, WeightMask
from safetypin.select import method_matrix, subspace_overlap
from safetypin.subspaces import actsvd, random_ranks

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"


def ranks_of(directions, full=None, model_id="m#1"):
    return RankBasis(
        directions=directions,
        singular_values={},
        full_ranks=full or {name: len(tensor) for name, tensor in directions.items()},
        hashes={},
        model_id=model_id,
    )


def axes(size, *chosen):
    return torch.eye(size)[:, list(chosen)]


def test_similarity_of_worked_examples():
    a, b = ranks_of({UP: axes(4, 0, 1)}), ranks_of({UP: axes(4, 1, 2)})
    found = subspace_overlap(a, b, 2).by_weight[UP]
    assert (found.similarity, found.chance, found.noise_floor) == (0.5, 0.5, None)
    assert subspace_overlap(a, a, 2).by_weight[UP].similarity == 1.0
    assert subspace_overlap(a, b, 1).by_weight[UP].similarity == 0.0
    tilted = ranks_of({UP: torch.tensor([[0.6], [0.8], [0.0], [0.0]])})
    assert subspace_overlap(ranks_of({UP: axes(4, 0)}), tilted, 1).by_weight[
        UP
    ].similarity == pytest.approx(0.36)
    nothing = subspace_overlap(a, b, 0).by_weight[UP]
    assert (nothing.similarity, nothing.chance) == (None, None)


def test_a_layer_is_the_mean_over_its_directions():
    a = ranks_of({UP: axes(4, 0, 1), DOWN: axes(8, 0, 1, 2, 3)})
    b = ranks_of({UP: axes(4, 0, 1), DOWN: axes(8, 4, 5, 6, 7)})
    found = subspace_overlap(a, b, 0.5)
    assert {layer: part.similarity for layer, part in found.by_layer.items()} == {0: 1.0, 1: 0.0}
    both = subspace_overlap(
        ranks_of({UP: axes(4, 0), UP.replace("up", "gate"): axes(8, 0, 1, 2)}),
        ranks_of({UP: axes(4, 0), UP.replace("up", "gate"): axes(8, 5, 6, 7)}),
        1,
    )
    assert both.by_layer[0].similarity == 0.5
    assert both.by_layer[0].to_json()["most"] == 2


def test_chance_is_what_random_directions_share():
    names = {f"model.layers.{i}.mlp.down_proj.weight": torch.eye(30)[:, :6] for i in range(200)}
    like = ranks_of(names)
    found = subspace_overlap(random_ranks(like, seed=0), random_ranks(like, seed=1), 6)
    values = torch.tensor([part.similarity for part in found.by_weight.values()])
    expected = next(iter(found.by_weight.values())).chance
    assert expected == pytest.approx(0.2)
    # 200 draws, each with a deviation of about 0.04
    assert float(values.mean()) == pytest.approx(expected, abs=0.01)


def test_chance_counts_the_dimensions_that_a_weight_can_reach():
    tall = {UP: torch.eye(24)[:, :4]}
    found = subspace_overlap(ranks_of(tall, {UP: 16}), ranks_of(tall, {UP: 16}), 4)
    assert found.by_weight[UP].chance == 4 / 16


def test_the_noise_floor_is_the_least_repeatable_of_the_halves():
    a = ranks_of({UP: axes(4, 0, 1)})
    halves = {
        "safety": (a, ranks_of({UP: axes(4, 0, 2)})),
        "utility": (a, ranks_of({UP: axes(4, 2, 3)})),
    }
    found = subspace_overlap(a, a, 2, halves=halves).by_layer[0]
    assert found.floors == {"safety": 0.5, "utility": 0.0}
    assert found.noise_floor == 0.0


def test_ranks_of_a_model_share_more_than_chance_between_halves_of_the_prompts():
    model, rows = build("llama"), examples(40)
    halves = (actsvd(model, make_batches(rows[::2])), actsvd(model, make_batches(rows[1::2])))
    found = subspace_overlap(*halves, 3)
    for layer in found.by_layer.values():
        assert layer.chance < layer.similarity <= 1


def test_bad_ranks_and_other_models_are_errors():
    a = ranks_of({UP: axes(4, 0, 1)})
    with pytest.raises(UserError, match="rank 5 is not between 0 and 4"):
        subspace_overlap(a, a, 5)
    with pytest.raises(UserError, match=r"2 ranks of .* were kept, 3 are asked for"):
        subspace_overlap(a, a, 3)
    other = dataclasses.replace(a, model_id="m#2")
    for pair, halves in (((a, other), None), ((a, a), {"safety": (a, other)})):
        with pytest.raises(ArtifactMismatchError, match="the ranks are of two models"):
            subspace_overlap(*pair, 1, halves=halves)


# --- methods against methods


def mask_of(*members, model_id="m#1"):
    bits = torch.zeros(2, 5, dtype=torch.bool)
    bits.view(-1)[list(members)] = True
    return WeightMask(tensors={UP: bits}, model_id=model_id)


def test_methods_are_compared_each_with_each():
    found = method_matrix({"snip": mask_of(0, 1), "wanda": mask_of(1, 2), "none": mask_of()})
    assert found.to_json() == {
        "methods": ["snip", "wanda", "none"],
        "num_selected": [2, 2, 0],
        "jaccard": [[1.0, 1 / 3, 0.0], [1 / 3, 1.0, 0.0], [0.0, 0.0, None]],
        "chance": [
            [pytest.approx(0.4 / 3.6)] * 2 + [0.0],
            [pytest.approx(0.4 / 3.6)] * 2 + [0.0],
            [0.0, 0.0, None],
        ],
        "share_of_smaller": [[1.0, 0.5, None], [0.5, 1.0, None], [None] * 3],
        # two of ten each: 0.4 are shared by chance
        "chance_share_of_smaller": [[0.2, 0.2, None], [0.2, 0.2, None], [None] * 3],
    }


def test_sets_of_two_models_and_no_sets_are_errors():
    with pytest.raises(ArtifactMismatchError, match="of two models"):
        method_matrix({"a": mask_of(0), "b": mask_of(0, model_id="m#2")})
    with pytest.raises(ArtifactMismatchError, match="there are no sets to compare"):
        method_matrix({})
