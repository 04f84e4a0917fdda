import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reference.selection import top_of_group
from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask, WeightScores
from safetypin.select import (
    MATCHES,
    magnitude_match,
    matched_random,
    top_fraction,
    top_of_same_size,
)
from safetypin.select._draw import draw, stream
from safetypin.select._matched import _borrowed


class Toy(nn.Module):
    """Two matrices and a tensor of three experts, named as a model's are."""

    def __init__(self, shape=(20, 30), seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.up = nn.Linear(shape[1], shape[0], bias=False)
        self.down = nn.Linear(shape[0], shape[1], bias=False)
        self.experts = nn.Parameter(torch.randn(3, *shape))
        nn.init.normal_(self.up.weight)
        nn.init.normal_(self.down.weight)


@pytest.fixture
def toy():
    return Toy()


def set_of(model, fraction, *, seed=1, power=0.0):
    """A set whose members are large for a high `power`."""
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: weight.detach().float().abs() ** power * torch.rand(weight.shape, generator=random)
        for name, weight in model.named_parameters()
    }
    scores = WeightScores(tensors=tensors, method="snip", model_id="m#1")
    return top_fraction(scores, fraction)


def counts(mask):
    return {name: tensor.flatten(-2).sum(dim=-1).tolist() for name, tensor in mask.tensors.items()}


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("power", [0.0, 3.0])
def test_a_control_has_the_size_of_its_set_in_every_matrix_and_no_weight_of_it(
    toy, match, fraction, power
):
    mask = set_of(toy, fraction, power=power)
    control = matched_random(mask, toy, seed=0, match=match)
    assert counts(control) == counts(mask)
    assert (control & mask).num_selected == 0
    control.check_same_weights(mask)


@given(st.integers(0, 2**31), st.floats(0, 0.5), st.sampled_from(MATCHES), st.floats(0, 5))
@settings(deadline=None, max_examples=40)
def test_any_set_up_to_half_of_a_matrix_has_controls(seed, fraction, match, power):
    model = Toy((4, 5))
    mask = set_of(model, fraction, seed=seed, power=power)
    control = matched_random(mask, model, seed=seed, match=match)
    assert counts(control) == counts(mask)
    assert (control & mask).num_selected == 0


@pytest.mark.parametrize("match", MATCHES)
def test_a_seed_names_a_control_and_another_seed_another(match):
    model = Toy((60, 80))
    mask = set_of(model, 0.1)
    first, again, other = (matched_random(mask, model, seed=s, match=match) for s in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    # one in nine is drawn, so two draws share a ninth of each, or a 17th of both together
    assert first.jaccard(other) < 0.2


def test_the_draw_of_a_seed_is_the_same_on_every_machine_and_version():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(3, 4))
    members = torch.zeros(3, 4, dtype=torch.bool)
    members[0] = True
    mask = WeightMask(tensors={"weight": members}, model_id="m#1")
    drawn = matched_random(mask, model, seed=0).tensors["weight"].flatten().nonzero().flatten()
    assert drawn.tolist() == [5, 8, 10, 11]


@pytest.mark.parametrize("match", MATCHES)
def test_the_draw_in_a_matrix_depends_on_no_other_matrix_and_no_order(toy, match):
    mask = set_of(toy, 0.1)
    names = ["down.weight", "experts", "up.weight"]
    moved = dataclasses.replace(mask, tensors={name: mask.tensors[name] for name in names})
    alone = dataclasses.replace(mask, tensors={"experts": mask.tensors["experts"]})
    whole = matched_random(mask, toy, seed=3, match=match)
    assert matched_random(moved, toy, seed=3, match=match).fingerprint == whole.fingerprint
    only = matched_random(alone, toy, seed=3, match=match)
    assert torch.equal(only.tensors["experts"], whole.tensors["experts"])


def test_matrices_of_the_same_shape_get_different_draws():
    model = Toy((20, 20))
    everywhere = {
        name: torch.zeros(w.shape, dtype=torch.bool) for name, w in model.named_parameters()
    }
    for members in everywhere.values():
        members[..., 0] = True
    control = matched_random(WeightMask(tensors=everywhere, model_id="m#1"), model, seed=0)
    draws = [
        *control.tensors["experts"],
        control.tensors["up.weight"],
        control.tensors["down.weight"],
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_every_weight_outside_the_set_is_as_likely():
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(4, 5))
    members = torch.zeros(4, 5, dtype=torch.bool)
    members[0, :4] = True
    mask = WeightMask(tensors={"weight": members}, model_id="m#1")
    hits = sum(
        matched_random(mask, model, seed=seed).tensors["weight"].long() for seed in range(1000)
    )
    assert (hits[members] == 0).all()
    # 4 of 16, 1,000 times: 250 expected, standard deviation 13.7
    assert ((hits[~members] - 250).abs() < 5 * 13.7).all()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_all_subsets_of_a_stratum_are_as_likely(count):
    strata = np.array([0, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1], dtype=np.uint8)
    wanted = np.array([0, count, 1])
    source = stream(0, "any")
    seen = Counter(tuple(np.flatnonzero(draw(strata, wanted, source))) for _ in range(4000))
    inside = [1, 2, 4, 5, 6, 8, 9, 10]
    assert all(7 in drawn and set(drawn) <= {*inside, 7} for drawn in seen)
    subsets = {1: 8, 3: 56, 7: 8}[count]
    assert len(seen) == subsets
    expected = 4000 / subsets
    chi_square = sum((number - expected) ** 2 / expected for number in seen.values())
    # the mean is the degrees of freedom; 5 standard deviations above is one in a million
    assert chi_square < subsets - 1 + 5 * (2 * (subsets - 1)) ** 0.5


def test_a_draw_larger_than_one_chunk_is_exact_in_every_stratum():
    random = np.random.default_rng(0)
    strata = random.integers(0, 5, 700_001).astype(np.uint8)
    sizes = np.bincount(strata, minlength=5)
    wanted = sizes // np.array([1, 2, 3, 1000, 10**9])
    drawn = draw(strata, wanted, stream(1, "many"))
    assert np.array_equal(np.bincount(strata[drawn], minlength=5), wanted)
    halves = drawn[strata == 1].nonzero()[0]
    # uniform places: their mean is in the middle
    assert abs(halves.mean() / sizes[1] - 0.5) < 5 * 0.29 / len(halves) ** 0.5


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_magnitude_matching_gives_weights_as_large_as_the_sets(power):
    model = Toy((300, 400))
    mask = set_of(model, 0.02, power=power)
    plain = magnitude_match(mask, matched_random(mask, model, seed=0), model)
    close = magnitude_match(mask, matched_random(mask, model, seed=0, match="magnitude"), model)
    assert close.mean_control == pytest.approx(close.mean_set, rel=0.005)
    assert close.rms_control == pytest.approx(close.rms_set, rel=0.005)
    if power:
        assert plain.mean_control < 0.7 * plain.mean_set


def test_where_the_set_has_all_of_the_largest_weights_the_next_largest_are_drawn():
    model = nn.Module()
    model.weight = nn.Parameter(torch.arange(100.0).view(10, 10) - 50)
    largest = model.weight.detach().abs() > 40  # 9 on one side, 10 on the other
    mask = WeightMask(tensors={"weight": largest}, model_id="m#1")
    control = matched_random(mask, model, seed=0, match="magnitude").tensors["weight"]
    assert control.sum() == largest.sum() == 19
    # bits of |w| tell 1 part in 128 apart, so 20 values of 31..40 are the nearest left
    assert model.weight[control].abs().min() >= 30


def test_borrowing_goes_to_the_nearest_stratum_and_keeps_the_total():
    wanted, free = np.zeros(20, dtype=np.int64), np.zeros(20, dtype=np.int64)
    wanted[[10, 12]], free[[9, 10, 11, 12, 13]] = [5, 2], [9, 1, 2, 3, 9]
    moved = _borrowed(wanted, free)
    assert moved[[9, 10, 11, 12, 13]].tolist() == [2, 1, 2, 2, 0]
    assert np.array_equal(_borrowed(moved, free), moved)


@pytest.mark.parametrize("match", MATCHES)
def test_excluded_weights_are_never_drawn(toy, match):
    mask, barred = set_of(toy, 0.1, power=2.0), set_of(toy, 0.6, seed=2)
    control = matched_random(mask, toy, seed=0, match=match, exclude=barred)
    assert counts(control) == counts(mask)
    assert (control & (mask | barred)).num_selected == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_have_magnitude_matched_controls(dtype):
    model = Toy((100, 100)).to(dtype)
    mask = set_of(model, 0.02, power=1.0)
    control = matched_random(mask, model, seed=0, match="magnitude")
    report = magnitude_match(mask, control, model)
    assert counts(control) == counts(mask)
    assert report.mean_control == pytest.approx(report.mean_set, rel=0.01)


def test_the_model_is_read_and_not_changed(toy):
    before = {name: weight.detach().clone() for name, weight in toy.named_parameters()}
    matched_random(set_of(toy, 0.1), toy, seed=0, match="magnitude")
    assert all(torch.equal(weight, before[name]) for name, weight in toy.named_parameters())


def test_the_match_of_an_empty_set_is_none_and_not_zero(toy):
    empty = set_of(toy, 0.0)
    values = magnitude_match(empty, empty, toy).to_json()
    assert set(values.values()) == {None}


def test_the_match_of_a_worked_example():
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    first = WeightMask(
        tensors={"weight": torch.tensor([[True, True], [False, False]])}, model_id="m"
    )
    second = WeightMask(tensors={"weight": ~first.tensors["weight"]}, model_id="m")
    assert magnitude_match(first, second, model).to_json() == {
        "mean_set": 3.5,
        "mean_control": 0.5,
        "rms_set": pytest.approx(12.5**0.5),
        "rms_control": pytest.approx(0.5**0.5),
    }


def test_a_set_of_more_than_half_a_matrix_has_no_control(toy):
    with pytest.raises(UserError) as error:
        matched_random(set_of(toy, 0.6), toy, seed=0)
    assert str(error.value) == (
        "experts: 360 weights to draw from only 240 that are left; a control that shares no "
        "weight with its set needs a smaller set or fewer exclusions"
    )


def test_an_unknown_match_is_refused_with_the_known_ones(toy):
    with pytest.raises(UserError, match="one of count, magnitude, got 'size'"):
        matched_random(set_of(toy, 0.1), toy, seed=0, match="size")


def test_coordinates_in_a_basis_have_no_magnitude_to_match(toy):
    rotated = dataclasses.replace(set_of(toy, 0.1), space="warp")
    with pytest.raises(UserError, match="coordinates in basis warp, not of weights"):
        matched_random(rotated, toy, seed=0, match="magnitude")
    assert matched_random(rotated, toy, seed=0).space == "warp"


def test_a_set_of_another_model_is_refused_by_name(toy):
    mask = set_of(toy, 0.1)
    with pytest.raises(ArtifactMismatchError, match="Linear has no weight 'experts'"):
        matched_random(mask, nn.Linear(2, 2), seed=0)
    with pytest.raises(ArtifactMismatchError, match=r"\(3, 4, 5\) in the model and \(3, 20, 30\)"):
        matched_random(mask, Toy((4, 5)), seed=0)


def scores_like(mask, seed=5, **changes):
    random = torch.Generator().manual_seed(seed)
    tensors = {
        # ties in plenty
        name: (torch.rand(tensor.shape, generator=random) * 40).ceil()
        for name, tensor in mask.tensors.items()
    }
    scores = WeightScores(tensors=tensors, method="snip", model_id="m#1")
    return dataclasses.replace(scores, **changes)


def test_the_top_of_the_same_size_is_the_top_by_count_of_every_matrix(toy):
    mask = set_of(toy, 0.1) - set_of(toy, 0.5, seed=9)
    scores = scores_like(mask)
    top = top_of_same_size(scores, mask)
    assert counts(top) == counts(mask)
    for name, sizes in counts(mask).items():
        parts = scores.tensors[name].view(-1, 600)
        got = top.tensors[name].view(-1, 600)
        sizes = (
            sizes if isinstance(sizes, list) and name == "experts" else [mask.tensors[name].sum()]
        )
        for part, chosen, size in zip(parts, got, sizes, strict=True):
            expected = top_of_group({"": part}, int(size) / 600)[""]
            assert torch.equal(chosen, expected)


def test_the_top_of_the_same_size_leaves_out_what_is_excluded(toy):
    mask, barred = set_of(toy, 0.1), set_of(toy, 0.85, seed=4)
    scores = scores_like(mask, tensors={n: torch.zeros(m.shape) for n, m in mask.tensors.items()})
    top = top_of_same_size(scores, mask, exclude=barred)
    assert counts(top) == counts(mask)
    assert (top & barred).num_selected == 0
    free = (~barred.tensors["up.weight"]).flatten().nonzero().flatten()
    chosen = top.tensors["up.weight"].flatten().nonzero().flatten()
    assert torch.equal(chosen, free[: len(chosen)])


def test_the_top_of_the_same_size_needs_enough_weights(toy):
    mask, barred = set_of(toy, 0.5), set_of(toy, 0.9)
    with pytest.raises(UserError, match="experts: 300 weights to draw from only 60 that are left"):
        top_of_same_size(scores_like(mask), mask, exclude=barred)


def test_scores_and_set_of_different_weights_are_refused(toy):
    mask = set_of(toy, 0.1)
    one = {"experts": torch.rand(3, 20, 30)}
    with pytest.raises(ArtifactMismatchError, match="2 weights are in only one of scores and set"):
        top_of_same_size(scores_like(mask, tensors=one), mask)
    with pytest.raises(ArtifactMismatchError, match="two models: x#2 and m#1"):
        top_of_same_size(scores_like(mask, model_id="x#2"), mask)
    with pytest.raises(ArtifactMismatchError, match="coordinates differ: warp against weights"):
        top_of_same_size(scores_like(mask, space="warp"), mask)
    turned = {name: tensor.mT for name, tensor in scores_like(mask).tensors.items()}
    with pytest.raises(ArtifactMismatchError, match=r"\(3, 30, 20\) in the scores and \(3, 20"):
        top_of_same_size(scores_like(mask, tensors=turned), mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("match", MATCHES)
def test_a_model_on_a_gpu_gets_the_controls_it_gets_on_the_cpu(toy, match):
    mask, barred = set_of(toy, 0.1), set_of(toy, 0.2, seed=2)
    scores = scores_like(mask)
    top = top_of_same_size(scores, mask, exclude=barred)
    control = matched_random(mask, toy, seed=0, match=match)
    moved = dataclasses.replace(scores, tensors={n: t.cuda() for n, t in scores.tensors.items()})
    assert top_of_same_size(moved, mask, exclude=barred).fingerprint == top.fingerprint
    on_gpu = matched_random(mask, toy.cuda(), seed=0, match=match)
    assert on_gpu.fingerprint == control.fingerprint
