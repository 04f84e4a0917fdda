"""PEFT adapters: beside the weights of a model, or merged into them."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from safetypin.artifacts import UserError

# what torch says of a weight that does not fit
OTHER_SHAPE = re.compile(
    r"size mismatch for (?P<name>\S+): copying a param with shape torch\.Size\(\[(?P<given>.*?)\]\)"
    r" from checkpoint, the shape in current model is torch\.Size\(\[(?P<wanted>.*?)\]\)"
)


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def attach_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return the model with a PEFT adapter beside its weights.

    Raises:
        UserError: There is no adapter, or it is of a model with other layers or of another width.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    if not is_adapter(folder):
        raise UserError(f"no adapter in {folder}; it is made by scripts/train_refusal_adapter.py")
    with _shapes_told(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT only warns of what is an error below
        adapted = PeftModel.from_pretrained(model, str(folder))
    given = load_peft_weights(str(folder), device="cpu").keys()
    taken = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if odd := sorted(key for key in given ^ taken if "lora_" in key):
        raise UserError(
            f"the adapter in {folder} is of another model than its base: {len(odd)} of its "
            f"matrices are in one of the two only, first {odd[0]!r}"
        )
    return adapted


@contextlib.contextmanager
def _shapes_told(folder: Path) -> Iterator[None]:
    """Turn what torch raises for weights of other shapes into words."""
    try:
        yield
    except RuntimeError as error:
        odd = OTHER_SHAPE.search(str(error))
        if odd is None:
            raise
        raise UserError(
            f"the adapter in {folder} is of another model than its base: {odd['name']} is "
            f"({odd['given']}) in the adapter, and for this base it would be ({odd['wanted']}); "
            "name the model that it was trained on in its adapter_config.json "
            "(base_model_name_or_path)"
        ) from error


def _copy_from_file(adapted: PeftModel) -> None:
    """Take the weights that get an adapter out of their file's pages.

    The first change of a page that is mapped from a file costs ten times the copy of it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            if weight.device.type == "cpu":
                weight.data = weight.data.clone()


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the model with a PEFT adapter merged into its weights, all of which can be trained.

    Raises:
        UserError: There is no adapter, or it is of a model with other layers or of another width.
    """
    adapted = attach_adapter(model, folder)
    _copy_from_file(adapted)
    merged: PreTrainedModel = adapted.merge_and_unload()
    for parameter in merged.parameters():  # PEFT leaves them off, as if they could not be trained
        parameter.requires_grad_(parameter.is_floating_point())
    return merged
