"""Save a tuned model: an ordinary Hugging Face folder, or an ordinary PEFT adapter."""

import contextlib
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import WeightMask, write_mask, write_tensors, write_text
from safetypin.intervene._disk import writing
from safetypin.intervene._state import check_bare
from safetypin.intervene.protect._entry import EntryLinear
from safetypin.models import ALIASES, split_revision

MASK_FILE = "mask.safetensors"
WEIGHTS_FILE = "adapter_model.safetensors"
ENTRY_TYPE = "MASKED_LORA"  # which PEFT does not know and so does not load without the mask
# who gets an adapter of an alias without this package cannot tell what its base is
ALIAS_CARD = """# A PEFT adapter on `{alias}`

`adapter_config.json` names the base `{alias}`, an alias that only safetypin knows:
{about}. Every other program loads a whole model, which this makes of the adapter and its base:

```python
from safetypin.models import load_model

model, tokenizer = load_model("this folder")
model.save_pretrained("whole")
tokenizer.save_pretrained("whole")
```
"""


def save_tuned(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Save what `finetune` returned, so that any Hugging Face program can load it.

    A model is saved whole, adapters as a PEFT adapter that names the base as the user did, a
    revision apart as PEFT wants it; where that is an alias, a README.md says what it is. Adapters
    of `MaskedLora` in mode `entry` change the weights in a way that no adapter file can hold, so
    they are merged into a copy of the weights, and the model is saved whole.

    Raises:
        UserError: The disk is full, or the model is one under adapters, without them.
    """
    folder = Path(folder)
    if not isinstance(model, PeftModel):
        check_bare(model, trains_weights=False)
    with writing(folder), _all_or_nothing(folder):
        if not isinstance(model, PeftModel):
            model.save_pretrained(folder)
        elif entry_layers(model):
            base = base_of(model)
            base.save_pretrained(folder, state_dict=merged_state(base))
        else:
            _save_adapter(model, folder)
            alias = str(model.peft_config["default"].base_model_name_or_path)
            if alias in ALIASES:
                card = ALIAS_CARD.format(alias=alias, about=ALIASES[alias])
                write_text(folder / "README.md", card)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what was put into a folder, where that fails."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if made:
            folder.rmdir()
        raise


def save_checkpoint(
    model: PreTrainedModel | PeftModel, folder: Path, state: dict[str, Any] | None = None
) -> None:
    """Save the weights that are trained.

    Adapters of `MaskedLora` in mode `entry` are saved as they are, with their mask beside them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder, state_dict=state)
    elif layers := entry_layers(model):
        masked = {
            f"{name}.weight": layer.masked
            for name, layer in layers.items()
            if layer.masked is not None
        }
        mask = WeightMask(tensors=masked, model_id=str(base_of(model).name_or_path))
        write_mask(folder / MASK_FILE, mask)
        _save_adapter(model, folder, ENTRY_TYPE)
    else:
        _save_adapter(model, folder)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Load the adapters of a checkpoint into the model that they were saved from."""
    state = load_peft_weights(str(folder), device="cpu")
    set_peft_model_state_dict(model, state)


def _save_adapter(model: PeftModel, folder: Path, peft_type: str | None = None) -> None:
    config: Any = copy.copy(model.peft_config["default"])
    config.peft_type = peft_type or config.peft_type
    config.inference_mode = True
    base, revision = split_revision(str(config.base_model_name_or_path or ""))
    config.base_model_name_or_path, config.revision = base or None, revision
    # PEFT would write a set, in another order each time
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    write_tensors(folder / WEIGHTS_FILE, state, {"format": "pt"})


def base_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model under the adapters, with their layers in it, or the model itself."""
    if not isinstance(model, PeftModel):
        return model
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    return base


def entry_layers(model: PeftModel) -> dict[str, EntryLinear]:
    """Return the adapted layers with masked entries, by module name in the base model."""
    return {
        name: layer
        for name, layer in base_of(model).named_modules()
        if isinstance(layer, EntryLinear) and layer.masked is not None
    }


@torch.no_grad()
def merged_state(base: PreTrainedModel) -> dict[str, Float[Tensor, "..."]]:
    """Return the weights of a model that carries adapters, by the names of a plain one.

    Those of adapted layers are new, with the adapters' change added; all others are shared.
    """
    state = {}
    for name, value in base.state_dict().items():
        if ".lora_" in name:
            continue
        module, found, parameter = name.partition(".base_layer.")
        if found and parameter == "weight":
            layer = base.get_submodule(module)
            assert isinstance(layer, EntryLinear)
            (adapter,) = layer.active_adapters
            # float32, as after full fine-tuning: bfloat16 would round most of the change away
            value = value.float() + layer.get_delta_weight(adapter).float()
        state[f"{module}.{parameter}" if found else name] = value
    return state
