import pytest
import torch

import safetypin as sp
from conftest import CONFIGS, build, examples, make_batches
from reference.ranks import left_singular, projector
from reference.warp import inputs_by_brute_force
from safetypin.artifacts import DamagedArtifactError, UserError
from safetypin.models import block_weights, model_id
from safetypin.subspaces import random_ranks
from safetypin.subspaces._actsvd import half_of, left_directions, left_directions_of_tall

DOWN = "model.layers.0.mlp.down_proj.weight"
KEY = "model.layers.0.self_attn.k_proj.weight"


def gap(a, b):
    """Return 1 - similarity of two subspaces of one size."""
    return float(1 - (a.double().T @ b.double()).square().sum() / a.shape[1])


def oriented(ranks, model, name):
    weight = model.get_parameter(name).detach()
    return weight.T if name in ranks.transposed else weight


def test_directions_of_a_worked_example():
    # W C W^T = diag(1, 8): the second output carries most
    weight, gram = torch.eye(2).double(), torch.tensor([[1.0, 0.0], [0.0, 8.0]]).double()
    directions, values = left_directions(weight @ gram @ weight.T, 2)
    assert directions.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert values.tolist() == pytest.approx([8**0.5, 1.0])


def test_directions_of_more_outputs_than_inputs():
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]).double()
    directions, values = left_directions_of_tall(weight @ half_of(torch.eye(2).double()), 2)
    assert torch.allclose(directions[:, 0], torch.tensor([0.6, 0.0, 0.8]))
    assert torch.allclose(directions[:, 1], torch.tensor([0.0, 1.0, 0.0]))
    assert values.tolist() == pytest.approx([5.0, 1.0])


@pytest.mark.parametrize("family", CONFIGS)
def test_the_ranks_are_the_left_singular_vectors_of_the_counted_outputs(family):
    model, batches = build(family), make_batches(examples(12), 4)
    ranks = sp.actsvd(model, batches, prompts_id="p")
    assert set(ranks.directions) | set(ranks.not_covered) == set(block_weights(model))
    assert all(block_weights(model)[name].layout == "experts" for name in ranks.not_covered)
    assert (ranks.model_id, ranks.prompts_id) == (model_id(model), "p")
    inputs = inputs_by_brute_force(model, batches, list(ranks.directions))
    for name, rows in inputs.items():
        directions, values = ranks.directions[name], ranks.singular_values[name]
        count = ranks.full_ranks[name]
        assert directions.shape == (oriented(ranks, model, name).shape[0], count)
        assert (directions.T @ directions - torch.eye(count)).abs().max() < 1e-5
        vectors, exact = left_singular(oriented(ranks, model, name), rows)
        # the Gram matrix is float32: a singular value is exact to the root of its rounding
        assert (values - exact[:count]).abs().max() < 2e-3 * exact[0]
        sizes = exact / exact[0]
        compared = 0
        for kept in range(1, count):
            if sizes[kept - 1] > 0.05 and sizes[kept] < 0.9 * sizes[kept - 1]:
                assert gap(directions[:, :kept], vectors[:, :kept]) < 1e-5, (name, kept)
                compared += 1
        assert compared >= 2, name
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        assert (largest > 0).all()


def test_ranks_do_not_depend_on_batch_size_padding_or_order_nor_on_passes():
    model, rows = build("llama"), examples(12)
    expected = sp.actsvd(model, make_batches(rows, 4))
    others = [
        sp.actsvd(model, make_batches(rows[::-1], 3, side="left")),
        sp.actsvd(model, make_batches(rows, 4), max_bytes=1),
    ]
    for other in others:
        assert other.num_tokens == expected.num_tokens
        for name, directions in expected.directions.items():
            assert gap(directions[:, :3], other.directions[name][:, :3]) < 1e-5, name


def test_the_model_is_left_as_it_is_and_two_calls_agree():
    model, batches = build("llama"), make_batches(examples(12), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = sp.actsvd(model, batches), sp.actsvd(model, batches)
    assert first.fingerprint == second.fingerprint
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_cut_is_what_a_lower_rank_gives():
    model, batches = build("llama"), make_batches(examples(12), 4)
    for rank in (3, 0.25):
        cut = sp.actsvd(model, batches).cut(rank)
        again = sp.actsvd(model, batches, rank=rank)
        assert cut.fingerprint == again.fingerprint
        assert cut.directions[DOWN].shape == (16, 3 if rank == 3 else 4)
        assert cut.directions[KEY].shape == (8, 3 if rank == 3 else 2)


def test_ranks_above_the_matrix_are_an_error_before_the_pass():
    model = build("llama")
    with pytest.raises(UserError, match=r"rank 9 is not between 0 and 8.*k_proj.*share such as"):
        sp.actsvd(model, make_batches(examples(12), 4), rank=9)
    with pytest.raises(UserError, match=r"share of ranks must be in \[0, 1\], got 3; .*: 3$"):
        sp.actsvd(model, make_batches(examples(12), 4), rank=3.0)


def test_fewer_counted_tokens_than_ranks_is_an_error():
    model, batches = build("llama"), make_batches([([3, 4], [5, 6, 7])])
    with pytest.raises(UserError, match="fewer counted tokens than ranks: 3 tokens"):
        sp.actsvd(model, batches, rank=4)
    few = sp.actsvd(model, batches)
    assert few.directions[DOWN].shape == (16, 3)
    with pytest.raises(UserError, match="fewer counted tokens than ranks: 3 tokens"):
        few.cut(4)
    with pytest.raises(UserError, match=r"2 ranks of .* were kept, 3 are asked for"):
        few.cut(2).cut(3)


def test_experts_are_named_and_refused_as_targets():
    model, batches = build("mixtral"), make_batches(examples(12), 4)
    ranks = sp.actsvd(model, batches, layers="0")
    assert {name.rpartition(".")[2] for name in ranks.not_covered} == {"gate_up_proj", "down_proj"}
    assert all(".0." in name for name in ranks.not_covered)
    with pytest.raises(UserError, match="holds the experts of a mixture"):
        sp.actsvd(model, batches, targets=("expert_ffn_down",))


def test_no_counted_token_is_an_error(batch):
    silent = batch._replace(counted=torch.zeros_like(batch.counted))
    with pytest.raises(UserError, match="no token is counted"):
        sp.actsvd(build("llama"), [silent])


def test_progress_counts_examples_over_all_passes():
    seen = []
    batches = make_batches(examples(5), 2)
    sp.actsvd(build("llama"), batches, max_bytes=1, progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 10


def test_random_ranks_are_orthonormal_repeatable_and_of_the_same_sizes():
    ranks = sp.actsvd(build("llama"), make_batches(examples(12), 4), rank=5)
    first, second = random_ranks(ranks, seed=0), random_ranks(ranks, seed=0)
    assert first.fingerprint == second.fingerprint != random_ranks(ranks, seed=1).fingerprint
    assert (first.kind, first.singular_values, first.prompts_id) == ("random", {}, "")
    for name, directions in first.directions.items():
        assert directions.shape == ranks.directions[name].shape
        assert (directions.T @ directions - torch.eye(5)).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 keeps its matrices transposed
def test_random_ranks_of_a_tall_matrix_lie_where_it_can_write(family):
    model = build(family)
    ranks = sp.actsvd(model, make_batches(examples(12), 4), rank=5)
    tall = 0
    for name, drawn in random_ranks(ranks, seed=0, model=model).directions.items():
        weight = model.get_parameter(name).detach().double()
        weight = weight.T if name in ranks.transposed else weight
        inside = torch.linalg.qr(weight).Q if weight.shape[0] > weight.shape[1] else None
        assert (drawn.T @ drawn - torch.eye(5)).abs().max() < 1e-5
        if inside is not None:
            tall += 1
            assert (inside.T @ drawn.double()).norm() ** 2 == pytest.approx(5, abs=1e-4)
            anywhere = random_ranks(ranks, seed=0).directions[name].double()
            assert (inside.T @ anywhere).norm() ** 2 < 4.9
    assert tall


@pytest.mark.parametrize("make", [lambda ranks: ranks, lambda ranks: random_ranks(ranks, seed=0)])
def test_saved_ranks_come_back(tmp_path, make):
    ranks = make(sp.actsvd(build("gpt2"), make_batches(examples(12), 4), prompts_id="p"))
    record = sp.save(ranks, tmp_path)
    assert (record.stage, record.result["num_tokens"]) == ("ranks", ranks.num_tokens)
    again = sp.load(tmp_path)
    assert again.fingerprint == ranks.fingerprint
    assert list(again.directions) == list(ranks.directions)
    assert again.singular_values.keys() == ranks.singular_values.keys()
    for name, directions in ranks.directions.items():
        assert torch.equal(again.directions[name], directions)
    for field in ("full_ranks", "kind", "prompts_id", "num_tokens", "transposed", "not_covered"):
        assert getattr(again, field) == getattr(ranks, field), field


def test_a_damaged_file_of_ranks_is_an_error(tmp_path):
    ranks = sp.actsvd(build("llama"), make_batches(examples(12), 4), rank=2)
    sp.save(ranks, tmp_path)
    path = tmp_path / "ranks.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedArtifactError, match=r"ranks\.safetensors"):
        sp.load(tmp_path)


def test_projector_of_the_reference_is_idempotent():
    ranks = sp.actsvd(build("llama"), make_batches(examples(12), 4), rank=3)
    once = projector(ranks.directions[DOWN])
    assert torch.allclose(once @ once, once, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 2, 0.5])
def test_as_many_random_ranks_as_are_asked_for_are_drawn(rank):
    model = build("llama")
    ranks = sp.actsvd(model, make_batches(examples(12), 4))
    drawn = random_ranks(ranks, seed=0, model=model, rank=rank)
    for name, directions in drawn.directions.items():
        count = ranks.count(name, rank)
        assert directions.shape == (ranks.directions[name].shape[0], count)
        assert torch.allclose(directions.T @ directions, torch.eye(count), atol=1e-5)
