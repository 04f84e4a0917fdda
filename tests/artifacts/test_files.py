import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from full_disk import room_for
from safetypin.artifacts import (
    DamagedArtifactError,
    UserError,
    append_line,
    disk_errors,
    read_json,
    read_lines,
    replacing,
    write_json,
    write_text,
)
from safetypin.artifacts._files import read_tensors, write_tensors


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk_message(path):
    return (
        f"the disk is full: {path} could not be written. Nothing half-written was left; "
        "free some space or choose another --out, then run the same command again"
    )


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "some.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names_in(tmp_path) == ["some.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "some.txt"
    write_text(path, "old")

    def fail_half_way():
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["some.txt"]


def test_folders_are_made_as_needed(tmp_path):
    write_json(tmp_path / "a" / "b" / "some.json", {"x": 1})
    assert read_json(tmp_path / "a" / "b" / "some.json") == {"x": 1}


def test_json_keeps_every_letter_and_has_no_nan(tmp_path):
    path = tmp_path / "some.json"
    value = {"text": "Grüße, 東京\n", "numbers": [1, 2.5, None, True]}
    write_json(path, value)
    assert read_json(path) == value
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == value


def test_a_missing_json_file_says_what_may_be_the_reason(tmp_path):
    path = tmp_path / "some.json"
    with pytest.raises(DamagedArtifactError) as error:
        read_json(path)
    assert str(error.value) == f"{path} is missing; was the run that makes it ended?"


@pytest.mark.parametrize("content", [b'{"x": ', b"", b'{"x": "\xff"}'])
def test_a_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(DamagedArtifactError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path} is damaged (")
    assert str(error.value).endswith("); delete its folder and run the stage again")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: I/O error: Quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_put_into_words(error):
    path = Path("some/file")
    with pytest.raises(UserError) as raised, disk_errors(path):
        raise error
    assert str(raised.value) == full_disk_message(path)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        SafetensorError("I/O error: Permission denied (os error 13)"),
    ],
)
def test_other_errors_of_the_disk_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, disk_errors(Path("some/file")):
        raise error
    assert raised.value is error


def test_text_on_a_really_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "some.txt"
    write_text(path, "old")
    with pytest.raises(UserError) as error, room_for(1000):
        write_text(path, "x" * 5000)
    assert str(error.value) == full_disk_message(path)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["some.txt"]


def test_tensors_on_a_really_full_disk_leave_nothing(tmp_path):
    path = tmp_path / "some.safetensors"
    with pytest.raises(UserError) as error, room_for(1000):
        write_tensors(path, {"x": torch.zeros(5000)}, {})
    assert str(error.value) == full_disk_message(path)
    assert names_in(tmp_path) == []


def test_a_line_on_a_really_full_disk_leaves_the_lines_before_whole(tmp_path):
    path = tmp_path / "some.jsonl"
    append_line(path, "first")
    with pytest.raises(UserError) as error, room_for(1000):
        append_line(path, "x" * 20000)
    assert str(error.value) == full_disk_message(path)
    assert path.read_text() == '"first"\n'
    append_line(path, "second")
    assert read_lines(path) == ["first", "second"]


def test_a_first_line_on_a_really_full_disk_leaves_no_half_line(tmp_path):
    path = tmp_path / "some.jsonl"
    with pytest.raises(UserError), room_for(10):
        append_line(path, "x" * 20000)
    assert read_lines(path) == []


def test_a_value_that_is_no_json_is_refused_before_the_file_is_touched(tmp_path):
    path = tmp_path / "some.jsonl"
    with pytest.raises(TypeError):
        append_line(path, object())
    assert not path.exists()


def test_tensors_come_back_bit_for_bit_with_their_metadata(tmp_path):
    path = tmp_path / "some.safetensors"
    tensors = {
        "view": torch.arange(6.0).view(2, 3).T,
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "empty": torch.zeros(0, 3, dtype=torch.bool),
        "gradient": torch.ones(2, requires_grad=True),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        'half "quoted" Grüße': torch.randn(3).bfloat16(),
        "numbers": torch.arange(3),
    }
    write_tensors(path, tensors, {"about": "Grüße"})
    found, metadata = read_tensors(path)
    assert metadata == {"about": "Grüße"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach().contiguous()
        assert found[name].shape == expected.shape
        bits = [value.reshape(-1).view(torch.uint8) for value in (found[name], expected)]
        assert torch.equal(*bits), name


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_tensor_file_cut_short_is_an_error(tmp_path, keep):
    path = tmp_path / "some.safetensors"
    write_tensors(path, {"x": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedArtifactError) as error:
        read_tensors(path)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert str(error.value).endswith("); delete its folder and run the stage again")


def test_a_missing_tensor_file_is_an_error(tmp_path):
    with pytest.raises(DamagedArtifactError, match=r"gone.safetensors cannot be read \("):
        read_tensors(tmp_path / "gone.safetensors")


VALUES = [{"index": 0, "text": "one\u2028line\r\n"}, {"index": 1, "text": "東京"}]


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "some.jsonl"
    assert read_lines(path) == []
    for value in VALUES:
        append_line(path, value)
    assert read_lines(path) == VALUES
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == VALUES


@pytest.mark.parametrize(
    "end", [b'{"index": 2, "te', '{"text": "東'.encode()[:-1], b'{"a": 1}', b"{}x\n"]
)
def test_a_last_line_that_a_crash_cut_short_is_dropped_from_the_file(tmp_path, end):
    path = tmp_path / "some.jsonl"
    for value in VALUES:
        append_line(path, value)
    with path.open("ab") as file:
        file.write(end)
    assert read_lines(path) == VALUES
    append_line(path, "next")
    assert read_lines(path) == [*VALUES, "next"]
