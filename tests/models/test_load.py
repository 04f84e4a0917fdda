import json
import warnings

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from safetypin.artifacts import UserError
from safetypin.models import _adapter, _load, load_model
from toys import save_llama

COMPLETE = "is the folder complete?"
NETWORK = (
    "check the spelling and the network; a gated model needs `hf auth login`; "
    "a model that is already downloaded works offline with HF_HUB_OFFLINE=1"
)
TOKENS = torch.tensor([[1, 7, 8, 9, 10]])


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny model and its tokenizer."""
    save_llama(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def message_of(name, **options):
    with pytest.raises(UserError) as error:
        load_model(str(name), **options)
    return str(error.value)


def save_adapter(model, folder, base):
    """Save a random adapter for `model` that says its base is `base`; return the merged model."""
    config = LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers calls deprecated
        adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    edit(folder / "adapter_config.json", base_model_name_or_path=base)
    return adapted.merge_and_unload()


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same_weights(found, expected):
    weights = found.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}])
def test_a_folder_is_loaded_as_it_is(tmp_path, options):
    saved = save_llama(tmp_path / "model", **options)
    model, tokenizer = load_model(str(tmp_path / "model"), device="cpu")
    assert_same_weights(model, saved)
    assert not model.training
    assert model.name_or_path == str(tmp_path / "model")
    assert tokenizer("paint it")["input_ids"][0] == tokenizer.bos_token_id


def test_a_model_on_a_cpu_is_float32_unless_asked_otherwise(tmp_path):
    save_llama(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    assert load_model(name, device="cpu")[0].dtype == torch.float32
    for dtype in ("float32", "bfloat16", "float16"):
        assert load_model(name, dtype=dtype, device="cpu")[0].dtype == getattr(torch, dtype)
    assert load_model(name, dtype="checkpoint", device="cpu")[0].dtype == torch.bfloat16


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(folder):
    edit(folder / "tokenizer_config.json", pad_token=None)
    assert load_model(str(folder))[1].pad_token == "</s>"


def test_transformers_may_speak_again_after_a_load(folder):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(str(folder))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_adapter_folder_is_merged_into_its_base(tmp_path, folder):
    base = AutoModelForCausalLM.from_pretrained(folder)
    merged = save_adapter(base, tmp_path / "adapter", str(folder))
    model, tokenizer = load_model(str(tmp_path / "adapter"), device="cpu")
    assert_same_weights(model, merged)
    assert model.name_or_path == str(tmp_path / "adapter")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.chat_template
    plain = load_model(str(folder), device="cpu")[0]
    assert not torch.equal(model(TOKENS).logits, plain(TOKENS).logits)


def test_an_adapter_on_an_adapter_is_merged_into_both(tmp_path, folder):
    first = save_adapter(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "first", str(folder)
    )
    second = save_adapter(first, tmp_path / "second", str(tmp_path / "first"))
    assert_same_weights(load_model(str(tmp_path / "second"), device="cpu")[0], second)


def test_an_adapter_on_the_aligned_model_keeps_the_refusal_adapter(tmp_path, folder, monkeypatch):
    base = AutoModelForCausalLM.from_pretrained(folder)
    aligned = save_adapter(base, tmp_path / "refusal", "smollm2")
    monkeypatch.setattr(_load, "adapter_folder", lambda: tmp_path / "refusal")
    monkeypatch.setattr(_load, "wheel_file", lambda: folder)
    monkeypatch.setattr(_load, "base_folder", lambda: folder)
    assert_same_weights(load_model("smollm2-aligned", device="cpu")[0], aligned)
    tuned = save_adapter(aligned, tmp_path / "tuned", "smollm2-aligned")
    assert_same_weights(load_model(str(tmp_path / "tuned"), device="cpu")[0], tuned)


@pytest.mark.parametrize(
    ("base", "revision", "asked"),
    [
        ("owner/base", "v1.0", ("owner/base", "v1.0")),
        ("owner/base@v1.0", None, ("owner/base", "v1.0")),  # as older versions wrote it
        ("owner/base@v1.0", "v2.0", ("owner/base", "v1.0")),
        ("owner/base", None, ("owner/base", None)),
    ],
)
def test_an_adapter_is_merged_into_the_revision_that_it_names(
    base, revision, asked, tmp_path, folder, monkeypatch
):
    whole = AutoModelForCausalLM.from_pretrained(folder)
    merged = save_adapter(whole, tmp_path / "adapter", base)
    edit(tmp_path / "adapter" / "adapter_config.json", revision=revision)
    found = set()
    for auto in (_load.AutoConfig, _load.AutoTokenizer, _load.AutoModelForCausalLM):

        def local(name, revision=None, load=auto.from_pretrained, **options):
            if str(name) != str(folder):  # transformers asks for parts of the folder itself
                found.add((name, revision))
            return load(folder, **options)

        monkeypatch.setattr(auto, "from_pretrained", local)
    model, _ = load_model(str(tmp_path / "adapter"), device="cpu")
    assert found == {asked}
    assert_same_weights(model, merged)


def test_an_adapter_of_a_model_with_other_layers_is_refused(tmp_path, folder):
    for num_layers in (1, 3):
        other = save_llama(tmp_path / f"{num_layers} layers", num_layers=num_layers)
        adapter = tmp_path / f"of {num_layers}"
        save_adapter(other, adapter, str(folder))
        assert message_of(adapter).startswith(
            f"the adapter in {adapter} is of another model than its base: 4 of its matrices "
            "are in one of the two only, first 'base_model.model.model.layers."
        )


def test_an_adapter_of_a_model_of_another_width_is_refused(tmp_path, folder):
    config = AutoConfig.from_pretrained(folder, hidden_size=32)
    adapter = tmp_path / "adapter"
    save_adapter(AutoModelForCausalLM.from_config(config), adapter, str(folder))
    assert message_of(adapter) == (
        f"the adapter in {adapter} is of another model than its base: "
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight is (2, 32) in the "
        "adapter, and for this base it would be (2, 16); name the model that it was trained on in "
        "its adapter_config.json (base_model_name_or_path)"
    )


def test_an_adapter_that_names_no_base_is_refused(tmp_path, folder):
    save_adapter(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter", None)
    assert message_of(tmp_path / "adapter") == (
        f"the adapter in {tmp_path / 'adapter'} does not say what base model it is for"
    )


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_damaged_adapter_is_refused(tmp_path, folder, content):
    adapter = tmp_path / "adapter"
    save_adapter(AutoModelForCausalLM.from_pretrained(folder), adapter, str(folder))
    (adapter / "adapter_model.safetensors").write_bytes(content)
    message = message_of(adapter)
    assert message.startswith(f"the model {str(adapter)!r} could not be loaded: ")
    assert message.endswith(COMPLETE)
    (adapter / "adapter_config.json").write_text("{")
    assert message_of(adapter).endswith(COMPLETE)


def test_a_package_without_its_adapter_says_how_it_is_made(tmp_path, folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(UserError) as error:
        _adapter.merge_adapter(model, tmp_path)
    assert str(error.value) == (
        f"no adapter in {tmp_path}; it is made by scripts/train_refusal_adapter.py"
    )


def test_a_folder_without_tokenizer_says_what_to_copy(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert message_of(folder) == (
        f"the folder {str(folder)!r} has no tokenizer (no tokenizer.json or "
        "tokenizer_config.json); copy the tokenizer files of its base model there"
    )


def test_a_folder_without_config_holds_no_model(folder):
    (folder / "config.json").unlink()
    assert message_of(folder) == (
        f"the folder {str(folder)!r} holds no model: it has no config.json; give a folder that "
        "save_pretrained wrote"
    )


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_weights(folder):
    (folder / "model.safetensors").unlink()


def break_config(folder):
    (folder / "config.json").write_text("{")


def break_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


def change_kind(folder):
    edit(folder / "config.json", model_type="nonsense")


@pytest.mark.parametrize(
    "damage", [cut_weights, lose_weights, break_config, break_tokenizer, change_kind]
)
def test_a_damaged_folder_is_refused_with_the_reason(folder, damage):
    damage(folder)
    message = message_of(folder)
    assert message.startswith(f"the model {str(folder)!r} could not be loaded: ")
    assert message.endswith(f" - {COMPLETE}")
    assert "\n" not in message


def test_weights_of_other_shapes_than_the_config_says_are_refused(folder):
    edit(folder / "config.json", intermediate_size=32)
    assert message_of(folder) == (
        f"the model {str(folder)!r} could not be loaded: its weights have other shapes than its "
        f"config.json says - {COMPLETE}"
    )


def test_a_checkpoint_that_lacks_weights_is_not_filled_with_random_numbers(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"], weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    assert message_of(folder) == (
        f"the checkpoint of {str(folder)!r} lacks 2 weights of LlamaForCausalLM, first "
        "'lm_head.weight'; give a complete causal language model"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2", "did you mean smollm2 or smollm2-aligned? "),
        ("SMOLLM2", "did you mean smollm2 or smollm2-aligned? "),
        ("smollm2-alligned", "did you mean smollm2-aligned or smollm2? "),
        ("gpt2", ""),
        ("./gone", ""),
        ("a/b/c", ""),
    ],
)
def test_an_unknown_name_gets_the_nearest_aliases(name, hint):
    assert message_of(name) == (
        f"no model {name!r}: it is no folder here and no alias; {hint}aliases are smollm2, "
        "smollm2-aligned, and a Hub id has the form owner/name[@revision]"
    )


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["owner/no-such-model", "owner/no-such-model@v1"])
def test_a_hub_model_without_network_says_what_to_check(name):
    message = message_of(name)
    assert message.startswith(f"the model {name!r} could not be loaded: ")
    assert message.endswith(
        f" - there is no folder {name!r} here; for a model of the Hub, {NETWORK}"
    )


def test_a_revision_is_passed_to_the_hub(monkeypatch):
    asked = []

    def from_pretrained(source, revision):
        asked.append((source, revision))
        raise OSError("no network")

    monkeypatch.setattr(_load.AutoTokenizer, "from_pretrained", from_pretrained)
    message_of("owner/name@refs/pr/1")
    message_of("owner/name")
    assert asked == [("owner/name", "refs/pr/1"), ("owner/name", None)]


def test_a_missing_library_is_named(folder, monkeypatch):
    def from_pretrained(*_, **__):
        raise ImportError("this tokenizer needs sentencepiece\nsee there")

    monkeypatch.setattr(_load.AutoTokenizer, "from_pretrained", from_pretrained)
    assert "could not be loaded: this tokenizer needs sentencepiece - " in message_of(folder)


def test_what_torch_says_below_its_first_line_is_told_too(folder, monkeypatch):
    def from_pretrained(*_, **__):
        raise RuntimeError("Error(s) in loading state_dict for Some:\n\tMissing key: 'w'.\n\tmore")

    monkeypatch.setattr(_load.AutoTokenizer, "from_pretrained", from_pretrained)
    assert message_of(folder) == (
        f"the model {str(folder)!r} could not be loaded: Error(s) in loading state_dict for Some: "
        f"Missing key: 'w'. - {COMPLETE}"
    )


def test_an_unknown_dtype_names_the_known():
    assert message_of("smollm2", dtype="fp16") == (
        "unknown dtype 'fp16'; choose one of auto, checkpoint, float32, bfloat16, float16"
    )


@pytest.mark.parametrize("device", ["nonsense", "", "meta", "cuda:99"])
def test_a_device_that_cannot_be_used_is_an_error(folder, device):
    message = message_of(folder, device=device)
    assert message.startswith(f"device {device!r} cannot be used here (")
    assert message.endswith(f"); leave --device out to get {_load.default_device()}")


def too_large_for_an_accelerator(monkeypatch):
    def to(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.PreTrainedModel.to", to)


def too_large_for_a_cpu(monkeypatch):
    def from_pretrained(*_, **__):
        torch.empty(1 << 60, dtype=torch.uint8)  # torch's own words

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)


@pytest.mark.parametrize("fill", [too_large_for_an_accelerator, too_large_for_a_cpu])
def test_a_model_too_large_for_its_device_says_what_to_do(folder, monkeypatch, fill):
    fill(monkeypatch)
    assert message_of(folder, device="cpu") == (
        f"the model {str(folder)!r} does not fit into the memory of cpu; use --dtype bfloat16, "
        "a smaller model or --device cpu"
    )


@pytest.mark.usefixtures("offline")
def test_without_the_wheel_the_embedded_model_comes_from_the_hub(monkeypatch):
    monkeypatch.setattr("safetypin.models._embedded.WHEEL", "no_such_package")
    assert _load.wheel_file() is None
    assert "'smollm2' could not be loaded: " in message_of("smollm2")
