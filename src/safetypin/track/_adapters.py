"""Read LoRA adapters, from PEFT's files and from models in memory. Hu et al. 2021 (2106.09685).

Only A, B and the settings are read; nothing is merged and no base model is loaded. What is not
plain LoRA (DoRA, PiSSA, aLoRA, ...) changes weights in other ways than s B A and is refused.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safetypin.artifacts import DamagedArtifactError, UserError, read_mask
from safetypin.models import ALIASES
from safetypin.track._reference import Parameters, Reference
from safetypin.track._sources import Change, Dense, LoraSource, LowRank, Masked
from safetypin.track._state import (
    ADAPTER_CONFIG,
    NotWholeError,
    by_parameter,
    plain,
    read_adapter,
    read_settings,
    read_state,
    spellings,
)

PREFIX = "base_model.model."  # of every name in an adapter's file
LEFT, RIGHT = ".lora_B.weight", ".lora_A.weight"
# what `safetypin tune --protect lora-entry` writes: LoRA, and a mask of entries left as they are
MASKED, MASK_FILE = "MASKED_LORA", "mask.safetensors"
# settings under which the change is not s B A, or not in the matrix that the name says
NOT_PLAIN = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config",
    "kasa_config", "velora_config", "monteclora_config", "target_parameters", "layer_replication",
)  # fmt: skip
# beginnings after which the base that goes with the adapter is no longer the one on the disk
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
MERGE = "merge it in float32 (model.merge_and_unload()), save the model, and track the full model"


def read_lora(folder: Path, reference: Reference) -> LoraSource:
    """Read an adapter folder as the changes that it makes to the reference.

    Raises:
        UserError: The adapter is for another base, not whole, or not plain LoRA.
    """
    try:
        settings = read_settings(folder / ADAPTER_CONFIG)
        state = read_adapter(folder)
    except NotWholeError as error:
        raise UserError(f"the adapter {folder} is not whole: {error}") from error
    _check_plain(settings, str(folder))
    found: dict[str, Change] = {}
    for key in sorted(state):
        if key.endswith(LEFT):
            module = key.removeprefix(PREFIX).removesuffix(LEFT)
            right = state[key.removesuffix(LEFT) + RIGHT].float()
            change = LowRank(_scale(settings, module) * state[key].float(), right)
            found[_fitting(module, change, reference, folder)] = change
    notes = _check_base(settings, folder, reference, next(iter(found), None))
    found |= _masked(found, _mask(settings, folder), reference)
    for key in sorted(state):
        name = key.removeprefix(PREFIX)
        if ".lora_" not in key and name in reference and state[key].ndim > 1:
            found[name] = Dense(reference.oriented(name, state[key]) - reference.matrices(name))
    if not found:
        raise UserError(f"the adapter {folder} holds no LoRA matrices")
    return LoraSource(str(folder), found, notes)


def lora_of(model: nn.Module, reference: Reference) -> LoraSource:
    """Return the changes that the active adapters of a model in memory make.

    Raises:
        UserError: The adapters are merged, not plain LoRA, or around another base.
    """
    get_base: Any = getattr(model, "get_base_model", lambda: model)
    base: nn.Module = get_base()
    called = str(getattr(base, "name_or_path", "")) or type(base).__name__
    found: dict[str, Change] = {}
    masks: dict[str, Tensor] = {}
    for name, module, adapter in _active(base):
        _refuse_merged(module, name)
        _check_plain(_settings_of(model, adapter), called)
        if hasattr(module, "parameter_name"):  # the experts of a mixture, in one parameter
            found[name] = Dense(reference.oriented(name, module.get_delta_weight(adapter)))
            continue
        left, right = module.lora_B[adapter].weight, module.lora_A[adapter].weight
        scaled = float(module.scaling[adapter]) * left.detach().cpu().float()
        change, other = LowRank(scaled, right.detach().cpu().float()), found.get(name)
        found[name] = other.joined(change) if isinstance(other, LowRank) else change
        if getattr(module, "masked", None) is not None:
            masks[name] = module.masked
    _check_same_base(base, reference, found)
    return LoraSource(called, found | _masked(found, masks, reference))


def carries_adapters(model: nn.Module) -> bool:
    """Whether a model in memory has LoRA matrices beside its weights."""
    return any(hasattr(module, "lora_A") for module in model.modules())


def _scale(settings: Mapping[str, Any], module: str) -> float:
    """Return s: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
    rank = _pattern(settings.get("rank_pattern"), module, settings["r"])
    alpha = _pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)


def _pattern(
    patterns: Mapping[str, int | float] | None, module: str, default: int | float
) -> int | float:
    """Return the value of the first pattern that is the end of a module's name, as PEFT does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _masked(
    found: Mapping[str, Change], masks: Mapping[str, Tensor], reference: Reference
) -> dict[str, Change]:
    """Return the changes that have a mask, under it."""
    return {
        name: Masked(change, reference.oriented_mask(name, masks[name]))
        for name, change in found.items()
        if name in masks and isinstance(change, LowRank)
    }


def _mask(settings: Mapping[str, Any], folder: Path) -> Mapping[str, Tensor]:
    """Return the entries that a `lora-entry` checkpoint does not change, by parameter name."""
    if settings["peft_type"] != MASKED:
        return {}
    try:
        return read_mask(folder / MASK_FILE).tensors
    except DamagedArtifactError as error:
        raise UserError(f"the adapter {folder} is not whole: {error}") from error


def _check_plain(settings: Mapping[str, Any], called: str) -> None:
    kind = settings.get("peft_type")
    if kind not in ("LORA", MASKED):
        raise UserError(f"the adapter {called} is of type {kind}, not LORA; {MERGE}")
    if odd := [name for name in NOT_PLAIN if settings.get(name)]:
        raise UserError(f"the adapter {called} is no plain LoRA: it has {odd[0]}; {MERGE}")
    begun = str(settings.get("init_lora_weights")).lower()
    if begun.startswith(MOVES_BASE):
        raise UserError(
            f"the adapter {called} began as {begun}, which also changes the base's weights, so "
            f"s B A is not the change; {MERGE}"
        )


def _fitting(module: str, change: LowRank, reference: Reference, folder: Path) -> str:
    """Return the parameter that an adapter's product is added to."""
    made = (change.left.shape[0], change.right.shape[1])
    for name in spellings(f"{module}.weight", reference.model):
        if name in reference:
            shape = reference.shape(name)
            held = shape[::-1] if reference.is_transposed(name) else shape
            if held == made:
                return name
            raise UserError(
                f"the adapter {folder} is for another base: its change of {name} is {made}, the "
                f"weight of the reference {reference.name} is {held}"
            )
    raise UserError(
        f"the adapter {folder} is for another base: the reference {reference.name} has no "
        f"{module}, which it changes"
    )


def _check_base(
    settings: Mapping[str, Any], folder: Path, reference: Reference, name: str | None
) -> list[str]:
    """Raise if the adapter says that it is for another base; return what cannot be told."""
    base, ours = str(settings.get("base_model_name_or_path") or ""), reference.name
    public = _is_public(base) and _is_public(ours)
    # folders of one name are many: every run of `tune` leaves one called model
    if not base or base == ours or (public and _last(base) == _last(ours)):
        return []
    if Path(base).is_dir() and name is not None:
        try:
            weight = by_parameter(read_state(Path(base)), reference.model)[name]
        except (NotWholeError, KeyError):
            return [_unsure(folder, base, ours)]
        if torch.equal(weight.bfloat16(), reference.weights[name].detach().cpu().bfloat16()):
            return []
    elif not public:
        return [_unsure(folder, base, ours)]
    raise UserError(
        f"the adapter {folder} is for another base: it says {base}, the reference is {ours}; "
        f"give --reference {base}"
    )


def _unsure(folder: Path, base: str, ours: str) -> str:
    return (
        f"the adapter {folder} says that its base is {base}; it fits the shapes of {ours}, but "
        "whether the two are the same model could not be checked"
    )


def _last(name: str) -> str:
    """Return a model's name without its owner, its folders and its revision."""
    return name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()


def _is_public(name: str) -> bool:
    """Whether a name is that of one model everywhere: an alias, or owner/name on the Hub."""
    return name in ALIASES or (re.fullmatch(r"[\w-]+/[\w.@-]+", name) is not None)


def _active(base: nn.Module) -> Iterator[tuple[str, Any, str]]:
    """Yield parameter name, module and adapter of everything that is added in the forward pass."""
    module: Any  # a layer of PEFT, which has no types
    for path, module in base.named_modules():
        if not hasattr(module, "lora_A") or getattr(module, "disable_adapters", False):
            continue
        parameter = getattr(module, "parameter_name", "weight")
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                yield f"{plain(path)}.{parameter}", module, adapter


def _refuse_merged(module: object, name: str) -> None:
    if getattr(module, "merged", False):
        raise UserError(
            f"the adapter at {name} is merged into its base for now; call "
            "model.unmerge_adapter() first"
        )


def _settings_of(model: nn.Module, adapter: str) -> Mapping[str, Any]:
    configs: Any = model.peft_config
    settings = dict(configs[adapter].to_dict())
    kind = settings.get("peft_type")
    # experts in memory say which parameter they change
    return settings | {"peft_type": getattr(kind, "value", kind), "target_parameters": None}


def _check_same_base(base: nn.Module, reference: Reference, names: Iterable[str]) -> None:
    """Raise unless the weights under the adapters are those of the reference."""
    own: Mapping[str, Tensor] = Parameters(base)
    for name in names:
        weight = reference.weights[name] if name in reference else None
        if weight is None or not _same(own[name], weight):
            raise UserError(
                f"the adapters are around another base: {name} is not that of the reference "
                f"{reference.name}"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    return torch.equal(one.detach().cpu().bfloat16(), other.detach().cpu().bfloat16())
