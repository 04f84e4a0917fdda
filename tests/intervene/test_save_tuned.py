"""What the user takes away: ordinary folders that others can load."""

import dataclasses
import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import build
from full_disk import room_for
from intervene.finetuning import DATA, SMALL, columns_of, mask_of, state_of, tokenizer
from safetypin.artifacts import UserError
from safetypin.intervene import Freeze, Full, Lora, MaskedLora, finetune, save_tuned
from safetypin.intervene._disk import writing
from safetypin.models import ALIASES, load_model

# PEFT asks transformers for gradient checkpointing by a name that is on its way out
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
TOKENS = torch.tensor([[3, 4, 5, 6]])
ALL = ("attn_*", "ffn_*")


def tuned(protect, model=None):
    return finetune(model or build("llama"), tokenizer(), DATA, protect=protect, training=SMALL)


def test_a_full_model_is_saved_as_an_ordinary_folder(tmp_path):
    model = tuned(Freeze(mask_of(build("llama"))))
    save_tuned(model, tokenizer(), tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "</s>"


@pytest.mark.parametrize("mode", ["plain", "column", "base"])
def test_adapters_are_saved_as_a_plain_peft_adapter_that_others_can_load(tmp_path, mode):
    base = build("llama")
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = "owner/base"
    protect = Lora() if mode == "plain" else MaskedLora(columns_of(base), mode)
    model = tuned(protect, base)
    save_tuned(model, tokenizer(), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/base"
    assert config["peft_type"] == "LORA"
    assert config["inference_mode"] is True
    assert str(tmp_path) not in "".join(
        path.read_text() for path in (tmp_path / "adapter").glob("*.json")
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


def test_a_revision_of_the_base_stands_apart_and_others_ask_the_hub_for_both(tmp_path, monkeypatch):
    base = build("llama")
    base.name_or_path = "owner/base@v1.0"
    model = tuned(Lora(), base)
    save_tuned(model, tokenizer(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "v1.0")
    assert model.peft_config["default"].base_model_name_or_path == "owner/base@v1.0"
    assert not (tmp_path / "README.md").exists()
    asked = []

    def hub(name, **options):
        asked.append((name, options["revision"]))
        return build("llama")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", hub)
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path))
    assert asked == [("owner/base", "v1.0")]
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_adapter_of_an_alias_says_what_others_can_do(tmp_path, alias):
    base = build("llama")
    base.name_or_path = alias
    save_tuned(tuned(Lora(), base), tokenizer(), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"`{alias}`, an alias that only safetypin knows" in card
    assert ALIASES[alias] in card
    assert "load_model" in card


def test_a_saved_adapter_loads_by_the_name_of_its_base(tmp_path):
    base = build("llama")
    base.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = tuned(Lora(targets=ALL), base)
    save_tuned(model, tokenizer(), tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(loaded(TOKENS).logits, model(input_ids=TOKENS).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_entry_is_saved_merged_with_its_masked_weights_as_they_were(tmp_path, family):
    base = build(family)
    before, mask = state_of(base), mask_of(base)
    targets = ("q_proj", "v_proj") if family == "mixtral" else ALL
    model = tuned(MaskedLora(mask, targets=targets), base)
    answer = model(input_ids=TOKENS).logits
    save_tuned(model, tokenizer(), tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == before.keys()
    for name, members in mask.tensors.items():
        assert torch.equal(loaded.get_parameter(name)[members], before[name][members])
    torch.testing.assert_close(loaded(TOKENS).logits, answer)
    assert torch.equal(model(input_ids=TOKENS).logits, answer), "saving changes nothing"
    merged = model.merge_and_unload()
    for name, value in merged.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_what_entry_changed_is_saved_in_float32_on_a_half_precision_base(tmp_path):
    base = build("llama", torch.bfloat16)
    before, mask = state_of(base), mask_of(base)
    save_tuned(tuned(MaskedLora(mask, targets=ALL), base), tokenizer(), tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for name, members in mask.tensors.items():
        assert saved[name].dtype == torch.float32
        change = saved[name] - before[name].float()
        assert not change[members].any()
        rounded = saved[name].bfloat16().float()
        assert (rounded != saved[name])[~members].float().mean() > 0.5  # bfloat16 would lose these
    loaded, _ = load_model(str(tmp_path), device="cpu")
    for name, members in mask.tensors.items():
        assert torch.equal(loaded.get_parameter(name)[members].bfloat16(), before[name][members])


def test_a_checkpoint_of_entry_is_not_taken_for_a_plain_adapter(tmp_path):
    base = build("llama")
    training = dataclasses.replace(SMALL, save_steps=4)
    protect = MaskedLora(mask_of(base))
    finetune(base, tokenizer(), DATA, protect=protect, training=training, out=tmp_path)
    folder = str(tmp_path / "checkpoints" / "checkpoint-4")
    with pytest.raises(KeyError, match="MASKED_LORA"):
        PeftModel.from_pretrained(build("llama"), folder)


@pytest.mark.parametrize("room", [500, 2_000, 10_000])
@pytest.mark.parametrize("protect", [Full(), Lora(targets=ALL)], ids=["full", "lora"])
def test_a_full_disk_is_told_and_nothing_half_written_is_left(tmp_path, protect, room):
    model, folder = tuned(protect), tmp_path / "model"
    with room_for(room), pytest.raises(UserError, match="the disk is full"):
        save_tuned(model, tokenizer(), folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with room_for(room), pytest.raises(UserError, match="the disk is full"):
        save_tuned(model, tokenizer(), folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_other_errors_of_a_library_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing"), writing(tmp_path):
        raise RuntimeError("no such thing")
    with pytest.raises(UserError, match="the disk is full"), writing(tmp_path):
        raise Exception("No space left on device (os error 28)")  # as tokenizers does


def test_two_saves_of_one_adapter_are_equal_byte_for_byte(tmp_path):
    model = tuned(Lora(targets=ALL))
    for name in ("one", "two"):
        save_tuned(model, tokenizer(), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_model_under_adapters_is_not_saved_without_them(tmp_path):
    model = tuned(Lora())
    with pytest.raises(UserError, match="or save the PEFT model around it"):
        save_tuned(model.get_base_model(), tokenizer(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
