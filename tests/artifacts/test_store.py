import dataclasses
import json
import weakref
from collections.abc import Mapping

import pytest
import torch

import safetypin as sp
from full_disk import room_for
from safetypin.artifacts import (
    ArtifactMismatchError,
    Basis,
    DamagedArtifactError,
    RunRecord,
    UserError,
    WandaTensors,
    WeightMask,
    WeightScores,
    inputs_hash,
    load,
    payload_hashes,
    read_mask,
    read_scores,
    save,
    tensor_hash,
    write_mask,
    write_scores,
)

MODEL = "some/model#0123456789ab"
RUN_AGAIN = "delete its folder and run the stage again"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def scores_of(model_id=MODEL):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.rand(5, 3, generator=generator),
        "b": torch.tensor([[1e-45, 0.0, 3e38]]),  # the ends of float32 are kept too
        "experts": torch.rand(2, 3, 4, generator=generator),
    }
    return WeightScores(
        tensors=tensors,
        method="snip",
        model_id=model_id,
        prompts_id="p",
        num_examples=7,
        num_tokens=31,
        coverage=0.978,
        space="weights",
        transposed=frozenset({"b"}),
    )


def mask_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (5, 3), "b": (1, 1), "experts": (2, 3, 5), "whole": (4, 4)}
    tensors = {n: torch.rand(s, generator=generator) < 0.5 for n, s in shapes.items()}
    return WeightMask(tensors=tensors, model_id=MODEL, space="weights")


ARTIFACTS = {"scores": scores_of, "mask": mask_of}


def assert_same(found, expected):
    assert type(found) is type(expected)
    about = [field.name for field in dataclasses.fields(expected) if field.name != "tensors"]
    assert [getattr(found, name) for name in about] == [getattr(expected, name) for name in about]
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name


@pytest.fixture(params=sorted(ARTIFACTS))
def saved(request, tmp_path):
    """A run folder and the name of its payload file."""
    folder = tmp_path / "run"
    save(ARTIFACTS[request.param](), folder)
    return folder, f"{request.param}.safetensors"


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_what_is_saved_is_loaded_bit_for_bit(kind, tmp_path):
    artifact = ARTIFACTS[kind]()
    sp.save(artifact, str(tmp_path / "a" / "run"))
    assert_same(sp.load(str(tmp_path / "a" / "run")), artifact)


def test_scores_that_are_made_when_asked_for_are_saved_as_they_are(tmp_path):
    weight, rms = torch.randn(6, 4).bfloat16(), torch.rand(4)
    lazy = dataclasses.replace(scores_of(), tensors=WandaTensors({"w": weight}, {"w": rms}))
    save(lazy, tmp_path / "run")
    assert torch.equal(load(tmp_path / "run").tensors["w"], weight.float().abs() * rms)


def test_scores_are_written_one_matrix_at_a_time(tmp_path):
    alive, most = 0, 0

    class Lazy(Mapping):
        def __getitem__(self, name):
            nonlocal alive, most
            value = torch.full((3, 4), float(len(name)))
            alive += 1
            most = max(most, alive)
            weakref.finalize(value, died)
            return value

        def __iter__(self):
            return iter("b" * length for length in range(9, 0, -1))

        def __len__(self):
            return 9

    def died():
        nonlocal alive
        alive -= 1

    # the type checker of the tests looks at the first tensor, and lets it go
    write_scores(tmp_path / "scores", dataclasses.replace(scores_of(), tensors=Lazy()))
    assert most <= 2  # the next one is made before its name lets go of the last
    found = read_scores(tmp_path / "scores")
    assert list(found.tensors) == list(Lazy())
    assert all(torch.equal(found.tensors[name], Lazy()[name]) for name in Lazy())


def test_loaded_scores_are_a_mapping_read_on_demand(tmp_path):
    save(scores_of(), tmp_path / "run")
    tensors = load(tmp_path / "run").tensors
    assert len(tensors) == 3
    assert "a" in tensors
    with pytest.raises(KeyError):
        tensors["gone"]


def test_a_mask_takes_one_bit_a_weight(tmp_path):
    whole = WeightMask(tensors={"w": torch.ones(800, 100, dtype=torch.bool)}, model_id=MODEL)
    write_mask(tmp_path / "mask", whole)
    assert (tmp_path / "mask").stat().st_size < 800 * 100 / 8 + 500


def test_the_record_says_what_was_saved_and_on_what(tmp_path):
    record = save(
        mask_of(), tmp_path / "run", inputs={"q": 0.03}, environment={"torch": "2"}, seconds=1.5
    )
    assert RunRecord.read(tmp_path / "run") == record
    assert record.stage == "mask"
    assert record.inputs == {"model_id": MODEL, "q": 0.03}
    assert record.result == {
        "num_selected": mask_of().num_selected,
        "num_weights": 62,
        "fraction": mask_of().num_selected / 62,
        "fingerprint": mask_of().fingerprint,
    }
    assert record.files == payload_hashes(tmp_path / "run", ["mask.safetensors"])
    assert (record.seconds, record.environment) == (1.5, {"torch": "2"})
    assert save(scores_of(), tmp_path / "scores").result == {
        "num_matrices": 3,
        "num_examples": 7,
        "num_tokens": 31,
        "coverage": 0.978,
    }


def test_saving_again_replaces_an_artifact_of_the_same_kind(tmp_path):
    save(mask_of(0), tmp_path / "run")
    save(mask_of(1), tmp_path / "run")
    assert_same(load(tmp_path / "run"), mask_of(1))


def test_saving_into_a_folder_with_something_else_is_refused(saved):
    folder, name = saved
    other = scores_of() if name.startswith("mask") else mask_of()
    kind = "scores" if name.startswith("mask") else "mask"
    with pytest.raises(UserError) as error:
        save(other, folder)
    assert str(error.value) == (
        f"{folder} is not empty and holds no {kind}.safetensors; choose another folder"
    )
    load(folder)


def test_saving_where_a_file_is_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError) as error:
        save(mask_of(), tmp_path / "run")
    assert str(error.value) == f"{tmp_path / 'run'} is a file; choose a folder"


def test_saving_goes_on_where_a_killed_one_left_a_part_of_a_file(tmp_path):
    (tmp_path / ".mask.safetensors.123.part").write_bytes(b"half")
    save(mask_of(), tmp_path)
    assert_same(load(tmp_path), mask_of())


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_a_full_disk_leaves_nothing_half_written(kind, tmp_path):
    with pytest.raises(UserError, match=r"^the disk is full: .* Nothing half"), room_for(100):
        save(ARTIFACTS[kind](), tmp_path / "run")
    assert names_in(tmp_path / "run") == []
    save(ARTIFACTS[kind](), tmp_path / "run")
    assert_same(load(tmp_path / "run"), ARTIFACTS[kind]())


def test_a_full_disk_keeps_what_was_saved_before(tmp_path):
    save(mask_of(0), tmp_path / "run")
    with pytest.raises(UserError, match="the disk is full"), room_for(100):
        save(mask_of(1), tmp_path / "run")
    assert_same(load(tmp_path / "run"), mask_of(0))


def message_of(folder, read=load):
    with pytest.raises(DamagedArtifactError) as error:
        read(folder)
    return str(error.value)


def test_a_folder_without_record_is_no_finished_run(saved, tmp_path):
    folder, _ = saved
    (folder / "run.json").unlink()
    assert message_of(folder) == (
        f"{folder} is no finished run (it has no run.json); run the stage that makes it"
    )
    assert message_of(tmp_path / "gone").startswith(f"{tmp_path / 'gone'} is no finished run")


def test_every_single_flipped_bit_is_found(saved):
    folder, name = saved
    content = bytearray((folder / name).read_bytes())
    for place in range(0, len(content), 37):
        flipped = content.copy()
        flipped[place] ^= 1 << place % 8
        (folder / name).write_bytes(flipped)
        assert message_of(folder) == (
            f"{folder / name} changed since it was written (its SHA-256 is not the one in "
            f"run.json); delete {folder} and run the stage again"
        )


def test_a_payload_cut_short_is_found(saved):
    folder, name = saved
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert "changed since it was written" in message_of(folder)


def test_a_missing_payload_is_found(saved):
    folder, name = saved
    (folder / name).unlink()
    assert message_of(folder) == f"{folder / name} is missing; {RUN_AGAIN}"


def test_a_record_cut_short_anywhere_is_found(saved):
    folder, _ = saved
    text = (folder / "run.json").read_text()
    for length in range(0, len(text) - 2, 29):
        (folder / "run.json").write_text(text[:length])
        assert message_of(folder).startswith(f"{folder / 'run.json'} is damaged (")


def edited(folder, **changes):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **changes}))


def record_or_message(folder):
    try:
        return RunRecord.read(folder)
    except DamagedArtifactError as error:
        return str(error)


def test_every_single_flipped_bit_of_a_record_is_found(saved):
    folder, _ = saved
    before, content = RunRecord.read(folder), (folder / "run.json").read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (folder / "run.json").write_bytes(flipped)
        # what is between the values, such as the last line end, is free
        found = record_or_message(folder)
        assert found == before or str(folder) in found


def test_a_record_with_another_result_is_found(saved):
    folder, _ = saved
    edited(folder, result={"num_selected": 1})
    assert message_of(folder) == (
        f"{folder / 'run.json'} changed since it was written (its own SHA-256 is another); "
        f"delete {folder} and run the stage again"
    )


def test_a_record_of_another_form_is_refused(saved):
    folder, _ = saved
    edited(folder, schema=1)
    assert message_of(folder) == (
        f"{folder} was written by another version of safetypin, in another form; "
        "delete it and run the stage again"
    )


@pytest.mark.parametrize("record", ["[]", '"text"', "{}", '{"schema": 2}', "3", "null"])
def test_a_record_that_is_none_is_damaged(saved, record):
    folder, _ = saved
    (folder / "run.json").write_text(record)
    assert message_of(folder).startswith(f"{folder / 'run.json'} is damaged: ")


def test_a_record_with_unknown_or_wrong_fields_is_damaged(saved):
    folder, _ = saved
    edited(folder, surprise=1)
    assert message_of(folder).startswith(f"{folder / 'run.json'} is damaged: ")


def test_a_run_of_another_stage_is_no_artifact(tmp_path):
    (tmp_path / "answers.jsonl").write_text("")
    files = payload_hashes(tmp_path, ["answers.jsonl"])
    RunRecord(
        stage="evaluation", inputs={}, result={}, files=files, seconds=0.0, environment={}
    ).write(tmp_path)
    assert message_of(tmp_path) == (
        f"{tmp_path} holds neither scores nor a mask, basis or ranks but a evaluation run"
    )


def test_a_file_of_the_other_kind_is_named_for_what_it_holds(tmp_path):
    write_scores(tmp_path / "scores", scores_of())
    write_mask(tmp_path / "mask", mask_of())
    path = tmp_path / "scores"
    assert message_of(path, read_mask) == f"{path} holds no mask but scores"
    path = tmp_path / "mask"
    assert message_of(path, read_scores) == f"{path} holds no scores but mask"


def test_a_foreign_tensor_file_is_named_as_such(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign"
    save_file({"x": torch.ones(1)}, path)
    assert message_of(path, read_mask) == (f"{path} holds no mask but nothing that safetypin wrote")


@pytest.mark.parametrize("read", [read_scores, read_mask])
def test_a_payload_cut_short_is_an_error_without_its_record_too(read, tmp_path):
    path = tmp_path / "payload"
    (write_scores if read is read_scores else write_mask)(
        path, scores_of() if read is read_scores else mask_of()
    )
    content = path.read_bytes()
    for length in (0, 7, 8, 100, len(content) - 1):
        path.write_bytes(content[:length])
        message = message_of(path, read)
        assert message.startswith(f"{path} cannot be read (")
        assert message.endswith(RUN_AGAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[5, 3]", "[5, 9]"),  # more entries than bits
        ("model_id", "model_ie"),
        ("shapes", "shapez"),
        ('{\\"model', '[\\"model'),
        ('\\"b\\"', '\\"c\\"'),
    ],
)
def test_a_damaged_header_of_a_mask_is_an_error(tmp_path, old, new):
    path = tmp_path / "mask"
    write_mask(path, mask_of())
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    path.write_bytes(content.replace(old.encode(), new.encode()))
    message = message_of(path, read_mask)
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith(RUN_AGAIN)


def test_a_damaged_header_of_scores_is_an_error(tmp_path):
    path = tmp_path / "scores"
    write_scores(path, scores_of())
    content = path.read_bytes()
    for old, new in ((b"num_tokens", b"num_tokenz"), (b'{\\"method', b'[\\"method')):
        path.write_bytes(content.replace(old, new))
        assert message_of(path, read_scores).startswith(f"{path} is damaged (")


def test_a_loaded_mask_of_another_model_does_not_combine(tmp_path):
    save(mask_of(), tmp_path / "run")
    other = dataclasses.replace(mask_of(), model_id="other#ffff")
    with pytest.raises(ArtifactMismatchError, match="the masks are of two models"):
        load(tmp_path / "run") - other


def test_the_hash_of_inputs_depends_on_every_value_and_not_on_their_order():
    assert inputs_hash({"a": 1, "b": [2]}) == inputs_hash({"b": [2], "a": 1})
    values = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": None}, {}]
    assert len({inputs_hash(value) for value in values}) == len(values)
    with pytest.raises(ValueError, match="Out of range float values"):
        inputs_hash({"a": float("nan")})


# --- bases


def basis_of(size=6, sites=("a.qkv", "a.o")):
    made = {s: torch.linalg.qr(torch.randn(size, size))[0].contiguous() for s in sites}
    return Basis(
        directions=made,
        spectra={site: torch.arange(size, 0, -1).float() for site in sites},
        sites={"a.q": "a.qkv", "a.k": "a.qkv", "a.o": "a.o"},
        hashes={site: tensor_hash(tensor) for site, tensor in made.items()},
        ranks=dict.fromkeys(sites, size),
        model_id="m#1",
        transposed=frozenset({"a.o"}),
        num_tokens=7,
    )


def test_a_basis_comes_back_as_it_was_and_is_read_site_by_site(tmp_path):
    basis = basis_of()
    record = save(basis, tmp_path)
    found = load(tmp_path)
    assert isinstance(found, Basis)
    assert found.fingerprint == basis.fingerprint == record.result["fingerprint"]
    assert (found.num_tokens, found.ranks, found.transposed) == (7, basis.ranks, {"a.o"})
    for name in basis.sites:
        assert torch.equal(found.of(name), basis.of(name))
    site = record.result["sites"][0]
    assert (site["rank"], site["num_for_90"]) == (6, 5)
    assert site["first_share"] == pytest.approx(6 / 21)


def test_the_identity_needs_no_directions_on_disk(tmp_path):
    basis = dataclasses.replace(
        basis_of(), directions={}, spectra={}, hashes={}, ranks={}, kind="identity"
    )
    save(basis, tmp_path)
    found = load(tmp_path)
    assert found.space == "weights"
    assert found.of("a.q") is None
    assert {path.name for path in tmp_path.iterdir()} == {"basis.json", "run.json"}


@pytest.mark.parametrize("change", ["deleted", "flipped"])
def test_a_basis_file_that_is_gone_or_changed_is_an_error(tmp_path, change):
    save(basis_of(), tmp_path)
    path = tmp_path / "directions.safetensors"
    if change == "deleted":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match=r"directions\.safetensors"):
        load(tmp_path)


def test_another_direction_gives_another_fingerprint():
    basis = basis_of()
    other = dict(basis.hashes) | {"a.o": "0"}
    assert dataclasses.replace(basis, hashes=other).fingerprint != basis.fingerprint
    assert dataclasses.replace(basis, model_id="m#2").fingerprint != basis.fingerprint
