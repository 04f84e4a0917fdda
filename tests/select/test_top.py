import dataclasses
import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.selection import top_of_group, top_of_parts
from safetypin.artifacts import UserError, WeightScores
from safetypin.select import GROUPS, layer_index, role, top_fraction, top_fractions

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
NEXT, HEAD = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"


def scores_of(tensors):
    return WeightScores(tensors=tensors, method="wanda", model_id="m#1")


def random_scores(seed=0, *, levels=None):
    """Scores of two layers and a head; with `levels`, of so few values that most are tied."""
    random = torch.Generator().manual_seed(seed)
    shapes = {UP: (6, 8), NEXT: (5, 7), DOWN: (8, 6), HEAD: (3, 4)}
    tensors = {name: torch.rand(shape, generator=random) for name, shape in shapes.items()}
    if levels:
        tensors = {name: (value * levels).floor() / levels for name, value in tensors.items()}
    return scores_of(tensors)


def reference_masks(scores, fraction, group):
    tensors = scores.tensors
    if group == "row":
        return {name: top_of_parts(value, fraction) for name, value in tensors.items()}
    members = {
        "matrix": [[UP], [NEXT], [DOWN], [HEAD]],
        "layer": [[UP, DOWN], [NEXT], [HEAD]],
        "model": [[UP, NEXT, DOWN, HEAD]],
    }[group]
    masks = {}
    for names in members:
        masks |= top_of_group({name: tensors[name] for name in names}, fraction)
    return masks


class Counted(Mapping):
    """Scores made when asked for, and how often each was."""

    def __init__(self, tensors):
        self.tensors, self.calls = tensors, dict.fromkeys(tensors, 0)

    def __getitem__(self, name):
        self.calls[name] += 1
        return self.tensors[name].clone()

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def test_the_highest_scores_of_a_worked_example():
    mask = top_fraction(scores_of({UP: torch.tensor([[1.0, 4.0], [3.0, 2.0]])}), 0.5)
    assert mask.tensors[UP].tolist() == [[False, True], [True, False]]
    assert mask.model_id == "m#1"


# int(0.29 * 100) is 28
@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.03, 3), (0.29, 29), (1.0, 100)])
@pytest.mark.parametrize("group", GROUPS)
def test_the_count_is_exact_and_ties_go_to_the_lower_index(fraction, count, group):
    mask = top_fraction(scores_of({UP: torch.full((1, 100), 0.5)}), fraction, group=group)
    assert mask.tensors[UP].flatten().nonzero().flatten().tolist() == list(range(count))


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("group", GROUPS)
def test_every_group_agrees_with_a_stable_sort(group, levels):
    scores = random_scores(levels=levels)
    for fraction in (0.0, 0.01, 0.1, 0.37, 0.5, 0.99, 1.0):
        mask = top_fraction(scores, fraction, group=group)
        for name, expected in reference_masks(scores, fraction, group).items():
            assert torch.equal(mask.tensors[name], expected), (name, fraction)


@given(
    st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=60),
    st.floats(0, 1),
    st.sampled_from(GROUPS),
)
@settings(deadline=None, max_examples=150)
def test_any_scores_are_ranked_as_a_stable_sort_ranks_them(values, fraction, group):
    tensor = torch.tensor([values])
    mask = top_fraction(scores_of({UP: tensor}), fraction, group=group)
    assert torch.equal(mask.tensors[UP], top_of_group({UP: tensor}, fraction)[UP])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.sampled_from(GROUPS))
@settings(deadline=None, max_examples=30)
def test_a_larger_fraction_keeps_all_members_of_a_smaller_one(fractions, group):
    masks = top_fractions(random_scores(levels=6), sorted(fractions), group=group)
    chain = list(masks.values())
    for smaller, larger in itertools.pairwise(chain):
        assert (smaller - larger).num_selected == 0


@pytest.mark.parametrize("group", GROUPS)
def test_many_fractions_at_once_are_each_as_if_alone(group):
    scores = random_scores(levels=5)
    together = top_fractions(scores, [0.5, 0.02, 0.5, 0], group=group)
    assert list(together) == [0.5, 0.02, 0.0]
    for fraction, mask in together.items():
        assert mask.fingerprint == top_fraction(scores, fraction, group=group).fingerprint


@pytest.mark.parametrize(("group", "most"), [("row", 1), ("matrix", 1), ("layer", 3), ("model", 3)])
def test_scores_made_on_demand_are_asked_for_as_rarely_as_promised(group, most):
    lazy = Counted(dict(random_scores().tensors))
    masks = top_fractions(scores_of(lazy), [0.01, 0.05, 0.1], group=group)
    # the type checker of the tests looks at the first tensor of a mapping
    assert {lazy.calls[name] for name in list(lazy)[1:]} == {most}
    eager = top_fractions(random_scores(), [0.05], group=group)
    assert masks[0.05].fingerprint == eager[0.05].fingerprint


@pytest.mark.parametrize("group", ["row", "matrix", "layer"])
def test_the_order_of_matrices_of_other_groups_does_not_matter(group):
    scores = random_scores(levels=5)
    names = [HEAD, NEXT, UP, DOWN]
    moved = dataclasses.replace(scores, tensors={name: scores.tensors[name] for name in names})
    first, second = (top_fraction(each, 0.3, group=group) for each in (scores, moved))
    assert list(second.tensors) == names
    assert first.fingerprint == second.fingerprint


def test_ties_across_matrices_go_to_the_one_that_comes_first():
    tensors = {name: torch.ones(2, 2) for name in (DOWN, UP, NEXT)}
    mask = top_fraction(scores_of(tensors), 0.5, group="model")
    assert [int(mask.tensors[name].sum()) for name in (DOWN, UP, NEXT)] == [4, 2, 0]
    assert mask.tensors[UP].tolist() == [[True, True], [False, False]]


def test_a_model_group_takes_all_from_the_matrix_with_all_the_high_scores():
    tensors = {UP: torch.zeros(2, 5), NEXT: torch.ones(2, 5)}
    mask = top_fraction(scores_of(tensors), 0.5, group="model")
    assert [mask.tensors[name].sum().item() for name in (UP, NEXT)] == [0, 10]


@pytest.mark.parametrize("group", ["matrix", "row"])
def test_each_expert_is_a_matrix_of_its_own(group):
    random = torch.Generator().manual_seed(0)
    # the second expert's scores are all above the first's
    experts = torch.rand(2, 4, 5, generator=random) + torch.tensor([0.0, 9.0]).view(2, 1, 1)
    name = "model.layers.0.mlp.experts.down_proj"
    mask = top_fraction(scores_of({name: experts}), 0.4, group=group).tensors[name]
    assert mask.sum(dim=(1, 2)).tolist() == [8, 8]
    if group == "row":
        assert (mask.sum(dim=2) == 2).all()


def test_rows_of_a_transposed_weight_are_its_columns():
    stored = random_scores(levels=4).tensors[UP]
    name = "transformer.h.0.attn.c_attn.weight"
    scores = dataclasses.replace(scores_of({name: stored}), transposed=frozenset({name}))
    mask = top_fraction(scores, 0.5, group="row")
    expected = top_of_parts(stored.T, 0.5).T
    assert torch.equal(mask.tensors[name], expected)
    assert mask.tensors[name].is_contiguous()
    plain = top_fraction(scores_of({name: stored}), 0.5, group="row")
    assert not torch.equal(plain.tensors[name], expected)


def test_many_rows_and_many_chunks_agree_with_a_stable_sort():
    random = torch.Generator().manual_seed(1)
    # above the chunk of 2**18, with many ties on both sides of the boundary
    scores = (torch.rand(700, 600, generator=random) * 50).floor() / 50
    wide = scores_of({UP: scores})
    expected = top_of_group({UP: scores}, 0.31)[UP]
    assert torch.equal(top_fraction(wide, 0.31).tensors[UP], expected)
    assert torch.equal(top_fraction(wide, 0.31, group="model").tensors[UP], expected)
    by_row = top_fraction(wide, 0.31, group="row").tensors[UP]
    assert torch.equal(by_row, top_of_parts(scores, 0.31))


def test_a_score_of_zero_is_never_selected_whatever_its_sign():
    scores = scores_of({UP: torch.tensor([[-0.0, 0.0, -0.0, 1.0]])})
    for group in GROUPS:
        for fraction in (0.5, 1.0):
            mask = top_fraction(scores, fraction, group=group)
            assert mask.tensors[UP].tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("group", GROUPS)
def test_an_expert_without_a_token_has_no_weight_in_any_set(group):
    experts = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    experts[1] = 0
    name = "model.layers.0.mlp.experts.down_proj"
    for fraction in (0.4, 1.0):
        mask = top_fraction(scores_of({name: experts}), fraction, group=group).tensors[name]
        assert not mask[1].any()
        assert mask[0].any()
        assert mask[2].any()


def test_scores_that_differ_in_the_last_bit_are_told_apart():
    low = torch.tensor(0.7)
    high = torch.nextafter(low, torch.tensor(1.0))
    tiny = torch.tensor(1e-45)
    scores = scores_of({UP: torch.stack([low, high, low, torch.tensor(0.0), tiny]).view(1, 5)})
    one, four = top_fractions(scores, [0.2, 0.8]).values()
    assert one.tensors[UP].tolist() == [[False, True, False, False, False]]
    assert four.tensors[UP].tolist() == [[True, True, True, False, True]]


def test_scores_are_read_and_not_changed():
    scores = random_scores()
    before = {name: value.clone() for name, value in scores.tensors.items()}
    for group in GROUPS:
        top_fraction(scores, 0.2, group=group)
    assert all(torch.equal(scores.tensors[name], before[name]) for name in before)


@pytest.mark.parametrize(("fraction", "shown"), [(3, "3"), (-0.1, "-0.1"), (float("nan"), "nan")])
def test_a_percentage_is_refused_with_what_to_write(fraction, shown):
    with pytest.raises(UserError) as error:
        top_fraction(random_scores(), fraction)
    assert str(error.value) == f"fraction must be in [0, 1], got {shown}; 3% is 0.03"


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (float("nan"), "1 NaN of 48 wanda scores"),
        (float("inf"), "1 infinite of 48 wanda scores"),
        (-float("inf"), "1 infinite of 48 wanda scores"),
        (-1e-30, "1 negative of 48 wanda scores"),
    ],
)
def test_scores_that_are_no_scores_are_refused_by_name_and_count(bad, message, group):
    scores = random_scores()
    scores.tensors[DOWN][3, 2] = bad
    with pytest.raises(UserError) as error:
        top_fraction(scores, 0.1, group=group)
    assert str(error.value) == (
        f"{DOWN}: {message}; scores must be finite and >= 0. "
        "Score again in float32, and look for NaN in the weights of this layer"
    )


def test_bad_scores_of_several_kinds_are_all_counted():
    values = torch.tensor([[float("nan"), float("nan"), float("inf"), -1.0, 1.0]])
    with pytest.raises(UserError, match="2 NaN, 1 infinite, 1 negative of 5"):
        top_fraction(scores_of({UP: values}), 0.2)


def test_half_precision_scores_are_refused():
    with pytest.raises(UserError, match=r"up_proj.weight: scores must be float32, got .*bfloat16"):
        top_fraction(scores_of({UP: torch.rand(2, 3).bfloat16()}), 0.5)


def test_an_unknown_group_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="one of row, matrix, layer, model, got 'column'"):
        top_fraction(random_scores(), 0.5, group="column")


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3, "mlp.up_proj"),
        ("model.layers.3.block_sparse_moe.experts.5.w1.weight", 3, "block_sparse_moe.experts.w1"),
        ("model.layers.0.mlp.experts.gate_up_proj", 0, "mlp.experts.gate_up_proj"),
        ("transformer.h.11.attn.c_proj.weight", 11, "attn.c_proj"),
        ("transformer.h.11.mlp.c_proj.weight", 11, "mlp.c_proj"),
        ("lm_head.weight", None, "lm_head"),
    ],
)
def test_a_name_tells_the_layer_and_the_role(name, layer, part):
    assert (layer_index(name), role(name)) == (layer, part)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("group", GROUPS)
def test_scores_on_a_gpu_give_the_set_of_the_same_scores_on_the_cpu(group):
    here = random_scores(levels=6)
    there = scores_of({name: tensor.cuda() for name, tensor in here.tensors.items()})
    on_cpu, on_gpu = (top_fraction(each, 0.3, group=group) for each in (here, there))
    assert all(mask.device.type == "cpu" for mask in on_gpu.tensors.values())
    assert on_cpu.fingerprint == on_gpu.fingerprint
