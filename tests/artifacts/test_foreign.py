"""Files of torch.save: sets and scores of other programs, and nothing else."""

import pickle

import pytest
import torch

from safetypin.artifacts import UserError, read_foreign


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.fixture
def saved(tmp_path):
    def make(content):
        path = tmp_path / "some.pt"
        torch.save(content, path)
        return path

    return make


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_foreign(path)
    return str(refused.value)


def test_a_set_comes_back_as_it_was(saved):
    mask = torch.tensor([[True, False], [False, False]])
    found = read_foreign(saved({"model.layers.0.mlp.up_proj": mask}))
    assert list(found) == ["model.layers.0.mlp.up_proj"]
    assert torch.equal(found["model.layers.0.mlp.up_proj"], mask)


def test_scores_come_back_as_float32(saved):
    found = read_foreign(saved({"w": torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16)}))
    assert found["w"].dtype == torch.float32
    assert found["w"].tolist() == [[0.5, 0.25]]


def test_of_the_highest_scores_the_set_is_made(saved):
    kept = {
        "indices": torch.tensor([1, 5], dtype=torch.int32),
        "scores": torch.tensor([3.0, 2.0]),
        "shape": torch.Size([2, 3]),
    }
    found = read_foreign(saved({"w": kept}))
    assert found["w"].tolist() == [[False, True, False], [False, False, True]]


def test_an_empty_selection_is_an_empty_set(saved):
    kept = {"indices": torch.tensor([], dtype=torch.long), "scores": torch.tensor([])}
    found = read_foreign(saved({"w": kept | {"shape": torch.Size([2, 3])}}))
    assert found["w"].shape == (2, 3)
    assert not found["w"].any()


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"w": trap}])
def test_a_file_that_would_run_code_is_not_loaded(saved, wrap, capsys):
    said = refusal(saved(wrap(Trap())))
    assert "holds more than tensors" in said
    assert "could run anything, so it is not loaded" in said
    assert capsys.readouterr().out == ""


def test_a_bare_pickle_is_not_loaded_either(tmp_path, capsys):
    path = tmp_path / "scores.pkl"
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    assert "is no file of torch.save" in refusal(path)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_cut_short_is_said(saved):
    path = saved({"w": torch.ones(100, 100)})
    path.write_bytes(path.read_bytes()[:2000])
    assert str(path) in refusal(path)


def test_a_missing_file_is_said(tmp_path):
    assert refusal(tmp_path / "none.pt") == f"no file {tmp_path / 'none.pt'}"


ODD = {
    "a list": ([torch.ones(2)], "holds a list; a dictionary of tensors by module is needed"),
    "numbers for names": ({0: torch.ones(2)}, "holds a dict; a dictionary of tensors by module"),
    "nothing": ({}, "holds no tensor"),
    "a number": ({"w": 3}, "'w' is a int; a tensor is needed, or indices, scores and shape"),
    "counts": ({"w": torch.ones(2, dtype=torch.int64)}, "'w' is of int64; a set is of bool"),
    "negative scores": ({"w": torch.tensor([-1.0])}, "'w' has scores that are negative or no"),
    "no numbers": ({"w": torch.tensor([float("nan")])}, "'w' has scores that are negative or no"),
    "both kinds": (
        {"v": torch.ones(2), "w": torch.ones(2, dtype=torch.bool)},
        "holds a set for some modules and scores for others",
    ),
    "an index too far": (
        {"w": {"indices": torch.tensor([4]), "scores": torch.ones(1), "shape": (2, 2)}},
        "'w' has an index outside of its shape (2, 2)",
    ),
}


@pytest.mark.parametrize(("content", "said"), ODD.values(), ids=ODD)
def test_what_is_of_another_form_is_said(saved, content, said):
    assert said in refusal(saved(content))
