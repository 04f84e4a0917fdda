import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import safetypin as sp
from conftest import CONFIGS, build, examples, make_batches
from reference.ranks import projector, without_ranks
from safetypin.artifacts import ArtifactMismatchError, RankBasis, UserError, tensor_hash
from safetypin.intervene import projected, removed_ranks
from safetypin.subspaces import random_ranks

UP = "model.layers.0.mlp.up_proj.weight"
KEY = "model.layers.0.self_attn.k_proj.weight"
SMALL = build("llama")
TOKENS = torch.tensor([[3, 4, 5, 6]])


def ranks_of(model, seed=0, **options):
    return sp.actsvd(model, make_batches(examples(12, seed), 4), **options)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value.view(torch.uint8), before[name].view(torch.uint8)), name


def oriented(ranks, weight, name):
    return weight.T if name in ranks.transposed else weight


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_ranks_are_gone_inside_and_back_bit_for_bit_after(family, dtype):
    model = build(family, dtype)
    before, safety = state_of(model), ranks_of(build(family))
    with projected(model, safety, rank=3) as inside:
        assert inside is model
        for name, value in model.state_dict().items():
            if name not in safety.directions:
                assert torch.equal(value, before[name]), name
                continue
            expected = without_ranks(oriented(safety, before[name], name), safety.top(name, 3))
            made = oriented(safety, value, name)
            assert torch.equal(made, expected.to(dtype)) or torch.allclose(
                made.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
            )
    assert_unchanged(model, before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_utility_ranks_are_left_alone(family):
    model = build(family)
    before, safety, utility = state_of(model), ranks_of(model), ranks_of(model, seed=1)
    with projected(model, safety, rank=4, utility=utility, keep_utility=3):
        for name in safety.directions:
            old, new = (
                oriented(safety, x, name).double()
                for x in (before[name], model.get_parameter(name).detach())
            )
            kept = utility.top(name, 3)
            assert torch.allclose(
                new, without_ranks(old, safety.top(name, 4), kept), rtol=0, atol=1e-6
            )
            # what the utility directions read out of W is what it was
            assert torch.allclose(kept.double().T @ new, kept.double().T @ old, rtol=0, atol=1e-5)
    assert_unchanged(model, before)


@pytest.mark.parametrize("keep", [0, 3, 6, 8])
def test_the_change_has_the_rank_that_is_said(keep):
    model = build("llama")
    before, safety, utility = state_of(model), ranks_of(model), ranks_of(model, seed=1)
    how = {"rank": 4, "utility": utility, "keep_utility": keep}
    said = removed_ranks(safety, **how)
    with projected(model, safety, **how):
        for name, count in said.by_weight.items():
            change = (before[name] - model.get_parameter(name)).double()
            assert count == min(4, safety.full_ranks[name] - keep)
            assert torch.linalg.matrix_rank(change, rtol=1e-5) == count, name
    assert said.num_removed == sum(said.by_weight.values())
    assert said.num_ranks == safety.num_ranks == 2 * (5 * 16 + 2 * 8)
    assert said.share == said.num_removed / said.num_ranks


def test_keeping_no_utility_rank_is_removing_the_top_ranks():
    model = build("llama")
    safety, utility = ranks_of(model), ranks_of(model, seed=1)
    with projected(model, safety, rank=3):
        expected = state_of(model)
    with projected(model, safety, rank=3, utility=utility, keep_utility=0):
        assert_unchanged(model, expected)


def test_bottom_ranks_leave_the_top_ones_alone():
    model = build("llama")
    before, safety = state_of(model), ranks_of(model)
    with projected(model, safety, rank=2, which="bottom"):
        for name, directions in safety.directions.items():
            kept = directions[:, :-2]
            expected = projector(kept) @ before[name].double()
            found = model.get_parameter(name).double()
            assert torch.allclose(found, expected, rtol=0, atol=1e-6)
            assert torch.linalg.matrix_rank(found, rtol=1e-5) == safety.full_ranks[name] - 2
    assert_unchanged(model, before)
    with projected(model, safety, rank=0, which="bottom"):
        assert_unchanged(model, before)


def test_bottom_ranks_change_the_outputs_less_than_top_ranks_and_random_ones():
    model = build("llama")
    safety, batches = ranks_of(model), make_batches(examples(12), 4)
    plain = model(batches[0].input_ids).logits.detach()

    def moved(basis, **options):
        with projected(model, basis, rank=2, **options), torch.no_grad():
            return float((model(batches[0].input_ids).logits - plain).square().mean())

    control = moved(random_ranks(safety, seed=0))
    assert moved(safety, which="bottom") < control < moved(safety)


def test_a_share_of_ranks_fits_matrices_of_every_size():
    model = build("llama")
    ranks = removed_ranks(ranks_of(model), rank=0.25)
    assert (ranks.by_weight[UP], ranks.by_weight[KEY]) == (4, 2)
    assert ranks.share == 0.25


def test_the_model_is_restored_after_an_exception_and_in_a_failed_entry(tiny_llama):
    before, safety = state_of(tiny_llama), ranks_of(tiny_llama)
    with pytest.raises(ZeroDivisionError), projected(tiny_llama, safety, rank=3):
        raise ZeroDivisionError
    assert_unchanged(tiny_llama, before)
    last = list(safety.directions)[-1]
    broken = dict(safety.directions) | {last: torch.full_like(safety.directions[last], torch.nan)}
    lost = dataclasses.replace(safety, directions=_Failing(broken, last))
    with pytest.raises(OSError, match="gone"), projected(tiny_llama, lost, rank=3):
        pass
    assert_unchanged(tiny_llama, before)


class _Failing(dict):
    """Directions of a file that is lost once the sizes have been looked at."""

    def __init__(self, values, last):
        super().__init__(values)
        self.last, self.reads = last, 0

    def __getitem__(self, name):
        if name == self.last:
            self.reads += 1
            if self.reads > 2:
                raise OSError("gone")
        return super().__getitem__(name)


def test_removing_again_changes_next_to_nothing():
    model = build("llama")
    safety = ranks_of(model)
    with projected(model, safety, rank=3):
        once = state_of(model)
        with projected(model, safety, rank=3):
            for name in safety.directions:
                left = model.get_parameter(name) - once[name]
                assert left.abs().max() < 1e-6


@given(seed=st.integers(0, 99), rank=st.integers(0, 16), keep=st.integers(0, 16))
def test_energy_never_grows_and_utility_outputs_are_kept(seed, rank, keep):
    generator = torch.Generator().manual_seed(seed)

    def drawn():
        return torch.linalg.qr(torch.randn(24, 16, generator=generator)).Q

    model = SMALL
    before = model.get_parameter(UP).detach().clone()
    safety, utility = (
        RankBasis(
            directions={UP: directions},
            singular_values={},
            full_ranks={UP: 16},
            hashes={UP: tensor_hash(directions)},
            model_id="m",
        )
        for directions in (drawn(), drawn())
    )
    with projected(model, safety, rank=rank, utility=utility, keep_utility=keep):
        after = model.get_parameter(UP).detach().clone()
    assert torch.equal(model.get_parameter(UP), before)
    kept = utility.top(UP, keep)
    assert torch.allclose(kept.T @ after, kept.T @ before, atol=1e-5)
    with projected(model, safety, rank=rank):
        assert model.get_parameter(UP).norm() <= before.norm() * (1 + 1e-6)


def test_a_pruned_model_is_no_reason_to_mind(tiny_llama):
    safety = ranks_of(tiny_llama)
    with torch.no_grad():
        tiny_llama.get_parameter(UP)[0] = 0
    before = state_of(tiny_llama)
    with projected(tiny_llama, safety, rank=1), torch.no_grad():
        assert tiny_llama(TOKENS).logits.isfinite().all()
    assert_unchanged(tiny_llama, before)


def test_settings_that_do_not_go_together_are_errors():
    model = build("llama")
    safety = ranks_of(model)
    bad = [
        ({"rank": 3, "which": "middle"}, "which must be top or bottom, got 'middle'"),
        ({"rank": 3, "utility": safety}, "utility and keep_utility go together"),
        ({"rank": 3, "keep_utility": 3}, "utility and keep_utility go together"),
        (
            {"rank": 3, "utility": safety, "keep_utility": 3, "which": "bottom"},
            "left alone by which='top' only",
        ),
        ({"rank": 17}, "rank 17 is not between 0 and"),
        ({"rank": -1}, "rank -1 is not between 0 and"),
        ({"rank": 1.5}, r"share of ranks must be in \[0, 1\], got 1.5"),
        ({"rank": 2, "utility": safety, "keep_utility": 9}, "rank 9 is not between 0 and 8"),
    ]
    for options, message in bad:
        with pytest.raises(UserError, match=message), projected(model, safety, **options):
            pass


def test_too_few_tokens_for_the_bottom_ranks_are_an_error():
    model = build("llama")
    safety = sp.actsvd(model, make_batches([([3, 4], [5, 6, 7])]))
    with (
        pytest.raises(UserError, match="fewer counted tokens than ranks: 3 tokens"),
        projected(model, safety, rank=1, which="bottom"),
    ):
        pass


def test_ranks_of_another_model_are_errors():
    llama, gpt2 = build("llama"), build("gpt2")
    safety = ranks_of(llama)
    with pytest.raises(ArtifactMismatchError, match="GPT2LMHeadModel has no weight"):
        projected(gpt2, safety, rank=1).__enter__()
    other = dataclasses.replace(safety, full_ranks=dict(safety.full_ranks) | {UP: 7})
    with pytest.raises(ArtifactMismatchError, match=r"up_proj.* is \(24, 16\) in the model"):
        projected(llama, other, rank=1).__enter__()
    other = build("llama")
    with torch.no_grad():
        other.get_parameter(UP).mul_(2)
    with pytest.raises(ArtifactMismatchError, match="the ranks are of two models"):
        removed_ranks(safety, rank=1, utility=ranks_of(other), keep_utility=1)
    some = ranks_of(llama, targets=("ffn_up",))
    with pytest.raises(ArtifactMismatchError, match="12 weights have ranks in only one"):
        removed_ranks(safety, rank=1, utility=some, keep_utility=1)
