import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.selection import hypergeometric_moments
from safetypin.artifacts import ArtifactMismatchError, WeightMask
from safetypin.select import overlap, overlap_by_layer, overlap_by_matrix, overlap_by_role

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NEXT, HEAD = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"


def mask_of(**members):
    """Sets of 10 weights a matrix, from the members' indices."""
    names = {"up": UP, "down": DOWN, "next": NEXT, "head": HEAD}
    tensors = {}
    for short, name in names.items():
        tensors[name] = torch.zeros(2, 5, dtype=torch.bool)
        tensors[name].view(-1)[list(members.get(short, []))] = True
    return WeightMask(tensors=tensors, model_id="m#1")


def test_the_overlap_of_a_worked_example():
    found = overlap(mask_of(up=[0, 1, 2, 3], next=[5]), mask_of(up=[2, 3, 4], head=[1, 2]))
    assert (found.num_weights, found.num_a, found.num_b, found.num_both) == (40, 5, 5, 2)
    assert found.jaccard == 2 / 8
    assert found.share_of_a == 2 / 5
    # only the first matrix can be shared by chance: 4 * 3 / 10
    assert found.chance_both == pytest.approx(1.2)
    assert found.chance_share == pytest.approx(1.2 / 5)
    assert found.chance_jaccard == pytest.approx(1.2 / 8.8)


def test_a_set_inside_of_another_is_shared_whole_whatever_their_sizes():
    small, large = mask_of(up=[1]), mask_of(up=[0, 1, 2, 3, 4])
    for found in (overlap(small, large), overlap(large, small)):
        assert found.share_of_smaller == 1.0
        assert found.jaccard == 1 / 5
        assert found.chance_share_of_smaller == pytest.approx(0.5)
    assert overlap(mask_of(), large).share_of_smaller is None


def test_the_jaccard_index_is_that_of_the_masks():
    a, b = mask_of(up=[1, 2], down=[0]), mask_of(up=[2], down=[0, 9])
    assert overlap(a, b).jaccard == a.jaccard(b)


@given(st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=60)
def test_chance_has_the_moments_of_the_hypergeometric_distribution(size, data):
    counts = st.integers(0, size)
    a, b = (torch.arange(size) < data.draw(counts) for _ in range(2))
    masks = [WeightMask(tensors={UP: each.view(1, -1)}, model_id="m") for each in (a, b)]
    found = overlap(*masks)
    mean, variance = hypergeometric_moments(size, int(a.sum()), int(b.sum()))
    assert found.chance_both == pytest.approx(mean)
    assert found.chance_sd**2 == pytest.approx(variance, abs=1e-12)


def test_moments_of_matrices_and_experts_add_up():
    random = torch.Generator().manual_seed(0)
    tensors = [
        {
            "h.0.experts": torch.rand(3, 4, 5, generator=random) < 0.4,
            UP: torch.rand(6, 7, generator=random) < 0.2,
        }
        for _ in range(2)
    ]
    found = overlap(*(WeightMask(tensors=each, model_id="m") for each in tensors))
    parts = [(20, *(int(t["h.0.experts"][e].sum()) for t in tensors)) for e in range(3)]
    parts.append((42, *(int(t[UP].sum()) for t in tensors)))
    moments = [hypergeometric_moments(*part) for part in parts]
    assert found.chance_both == pytest.approx(sum(mean for mean, _ in moments))
    assert found.chance_sd**2 == pytest.approx(sum(variance for _, variance in moments))


def test_random_sets_fall_in_the_chance_interval_as_often_as_it_says():
    random = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(400):
        pair = []
        for _ in range(2):
            tensors = {}
            for name, count in ((UP, 60), (NEXT, 100)):
                members = torch.zeros(400, dtype=torch.bool)
                members[torch.randperm(400, generator=random)[:count]] = True
                tensors[name] = members.view(20, 20)
            pair.append(WeightMask(tensors=tensors, model_id="m"))
        found = overlap(*pair)
        low, high = found.chance_jaccard_interval
        inside += low <= found.jaccard <= high
    # 95 % of 400, give or take 4 standard deviations; counts come in steps of about 0.2 of them
    assert 0.90 <= inside / 400 <= 0.985


def test_the_chance_interval_stays_where_sets_can_be():
    full = mask_of(up=range(10))
    found = overlap(full, full)
    assert found.chance_jaccard_interval == (1.0, 1.0)
    apart = overlap(mask_of(up=[0]), mask_of(up=[1]))
    low, high = apart.chance_jaccard_interval
    assert low == 0.0
    assert high <= 1.0
    assert apart.chance_share_interval[0] == 0.0
    crowded = overlap(mask_of(up=range(8)), mask_of(up=range(2, 10)))
    assert crowded.chance_jaccard_interval[0] <= crowded.jaccard <= 1.0


def test_the_overlap_of_empty_sets_is_none_and_not_zero():
    found = overlap(mask_of(), mask_of())
    assert found.jaccard is None
    assert found.share_of_a is None
    assert found.chance_jaccard is None
    assert found.chance_jaccard_interval is None
    assert overlap(mask_of(up=[1]), mask_of()).share_of_a == 0.0


def test_an_overlap_by_layer_has_every_block_and_the_rest_last():
    a, b = mask_of(up=[0, 1], down=[3], head=[2]), mask_of(up=[1], down=[3], next=[4], head=[2])
    rows = overlap_by_layer(a, b)
    assert [(row.layer, row.role, row.overlap.num_both) for row in rows] == [
        (0, None, 2),
        (1, None, 0),
        (None, None, 1),
    ]
    assert [row.overlap.num_weights for row in rows] == [20, 10, 10]


def test_an_overlap_by_role_joins_the_blocks():
    rows = overlap_by_role(mask_of(up=[0], next=[1]), mask_of(up=[0], next=[1, 2]))
    assert [(row.role, row.overlap.num_both, row.overlap.num_b) for row in rows] == [
        ("mlp.up_proj", 2, 3),
        ("mlp.down_proj", 0, 0),
        ("lm_head", 0, 0),
    ]


def test_an_overlap_by_matrix_of_a_set_with_itself_tells_where_it_lies():
    mask = mask_of(up=[0], next=[1, 2])
    cells = {(row.layer, row.role): row.overlap.num_a for row in overlap_by_matrix(mask, mask)}
    assert cells == {
        (0, "mlp.up_proj"): 1,
        (0, "mlp.down_proj"): 0,
        (1, "mlp.up_proj"): 2,
        (None, "lm_head"): 0,
    }


@pytest.mark.parametrize("split", [overlap_by_layer, overlap_by_role, overlap_by_matrix])
def test_parts_add_up_to_the_whole(split):
    a, b = mask_of(up=[0, 1, 5], down=[3], head=[2, 3]), mask_of(up=[1, 5], down=[3, 4], head=[3])
    whole, parts = overlap(a, b), [row.overlap for row in split(a, b)]
    assert sum(part.num_both for part in parts) == whole.num_both
    assert sum(part.chance_both for part in parts) == pytest.approx(whole.chance_both)
    assert math.hypot(*(part.chance_sd for part in parts)) == pytest.approx(whole.chance_sd)


def test_an_overlap_is_written_as_json_with_its_chance_level():
    row = overlap_by_layer(mask_of(up=[0, 1]), mask_of(up=[1, 2]))[0]
    values = json.loads(json.dumps(row.to_json()))
    assert values["layer"] == 0
    assert values["jaccard"] == pytest.approx(1 / 3)
    assert values["share_of_a"] == 0.5
    assert len(values["chance_jaccard_interval"]) == len(values["chance_share_interval"]) == 2
    assert values["chance_share"] == pytest.approx(0.2)


@pytest.mark.parametrize("measure", [overlap, overlap_by_layer])
def test_sets_of_different_weights_are_refused(measure):
    other = WeightMask(tensors={UP: torch.ones(2, 5, dtype=torch.bool)}, model_id="m#1")
    with pytest.raises(ArtifactMismatchError, match="3 weights are in only one of the two masks"):
        measure(mask_of(), other)
