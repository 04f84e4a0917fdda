"""Bad input to the stage commands: a clear error, exit code 2, and nothing half-written."""

import shutil

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--keep", "refused"),
            "--keep 'refused' is unknown; choose one of refusal, complied, all",
        ),
        (
            ("--method", "snap"),
            "method 'snap' is unknown; choose one of magnitude, magnitude-difference, ",
        ),
        (("--counted", "some"), "unknown counted 'some'"),
        (("--reduction", "max"), "unknown reduction 'max'; choose one of mean, sum"),
        (("--judge", "phrase"), "no judge 'phrase'; nearest: phrases"),
        (("--batch-size", "0"), "--batch-size"),
        (("--max-new-tokens", "0"), "--max-new-tokens"),
        (("--num-prompts", "0"), "--num-prompts"),
        (("--num-prompts", "99"), "99 prompts asked of 'attack.jsonl', which has 12"),
        (("--max-new-tokens", "60"), "in the model's window of 64"),
    ],
)
def test_score_refuses_bad_input_before_it_writes(command, place, tmp_path, words, message):
    out = tmp_path / "out"
    sources = ("--prompts", place / "attack.jsonl", "--out", out)
    ended = command("score", place / "model", *sources, *words)
    assert ended.code == 2
    assert message in ended.text
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--q", "3"), "fraction must be in [0, 1], got 3; 3% is 0.03"),
        (("--p", "1.5"), "fraction must be in [0, 1], got 1.5"),
        (("--group", "column"), "group must be one of row, matrix, layer, model, got 'column'"),
    ],
)
def test_select_refuses_bad_input_before_it_writes(command, staged, tmp_path, words, message):
    folders = (staged / "safety", staged / "utility")
    ended = command("select", *folders, *words, "--out", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.text
    assert not (tmp_path / "out").exists()


def test_select_and_evaluate_tell_scores_from_sets(command, staged, evaluated, tmp_path):
    ended = command("select", staged / "set", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "holds a set, not scores; make scores with `safetypin score`" in ended.text
    ended, out = evaluated("--mask", staged / "safety" / "scores")
    assert ended.code == 2
    assert "holds scores, not a set; make one with `safetypin select`" in ended.text
    assert not out.exists()


def test_a_mask_of_another_model_is_refused_by_prune_and_evaluate(
    command, staged, place, evaluated, tmp_path
):
    out = tmp_path / "pruned"
    ended = command("prune", place / "unaligned", "--mask", staged / "set", "--out", out)
    assert ended.code == 2
    assert "is of model#" in ended.text
    assert "the model is unaligned#" in ended.text
    assert "--any-model uses it all the same" in ended.text
    assert not out.exists()
    ended, out = evaluated("--mask", staged / "set", model="unaligned")
    assert ended.code == 2
    assert "is of model#" in ended.text
    assert not out.exists()


def test_prune_never_writes_into_a_folder_with_something_in_it(command, staged, place, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    ended = command("prune", place / "model", "--mask", staged / "set", "--out", tmp_path)
    assert ended.code == 2
    assert "not empty; choose another folder for the pruned model" in ended.text
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_disk_that_fills_up_leaves_no_half_model(command, staged, place, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def full(self, folder, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    out = tmp_path / "pruned"
    ended = command("prune", place / "model", "--mask", staged / "set", "--out", out)
    assert ended.code == 2
    assert "the disk is full" in ended.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "no record", "deleted"])
@pytest.mark.parametrize(
    ("folder", "file"), [("set", "mask.safetensors"), ("safety/scores", "scores.safetensors")]
)
def test_a_damaged_artifact_is_never_used(command, staged, place, tmp_path, folder, file, damage):
    copy = shutil.copytree(staged / folder, tmp_path / "copy")
    path = copy / file
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flipped":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "deleted":
        path.unlink()
    else:
        (copy / "run.json").unlink()
    out = tmp_path / "out"
    if folder == "set":
        ended = command("prune", place / "model", "--mask", copy, "--out", out)
    else:
        ended = command("select", copy, "--out", out)
    assert ended.code == 2, ended
    assert str(copy) in ended.text
    assert "run the stage" in ended.text
    assert not out.exists()


def test_evaluate_needs_responses_to_measure_perplexity_before_it_generates(evaluated, place):
    ended, out = evaluated("--text", place / "attack.jsonl")
    assert ended.code == 2
    assert "has no responses; perplexity is measured on responses" in ended.text
    assert not out.exists()
