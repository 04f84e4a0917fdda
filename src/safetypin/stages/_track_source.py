"""What is tracked: a run of `tune`, anyone's checkpoints, or one tuned model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from safetypin.artifacts import UserError, WeightMask, load, model_hash, payload_hashes, read_json
from safetypin.intervene import PROTECTIONS
from safetypin.models import block_weights, load_model, merge_adapter, model_id
from safetypin.stages._subject import Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.track import Checkpoint, changes, checkpoints

# protections under which not a weight of the set differs in the end; warp only in the original
# space, as in a rotated one every weight moves
HOLDING = ("freeze", "rewind", "lora-entry", "warp")
# those under which no other weight differs
TRAINING = ("sn-tune", "rsn-tune")
# those whose set is of coefficients; of weights in the original space alone
ROTATED = tuple(name for name, kind in PROTECTIONS.items() if kind.needs_basis)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoints of one training.

    Attributes:
        folder: As it was given.
        checkpoints: By step; the last one is what the training gave.
        notes: What was left out, and why.
        tune: The metrics.json of the run of `tune`; None where it is of anyone else.
    """

    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]
    tune: Mapping[str, Any] | None

    @property
    def final(self) -> Checkpoint:
        """The last checkpoint."""
        return self.checkpoints[-1]

    @property
    def protection(self) -> str | None:
        """How `tune` protected the set; None where nobody knows."""
        return None if self.tune is None else str(self.tune["protect"]["kind"])

    def is_evaluated(self, reference: str) -> bool:
        """Whether the run of `tune` measured the reference and its own final model."""
        if self.tune is None or model_hash(self.tune["model"]["id"]) != model_hash(reference):
            return False
        return self.is_of_tune

    @property
    def held(self) -> Mapping[str, Any] | None:
        """What the run of `tune` says of its set; None where it has none that can be followed."""
        found: Mapping[str, Any] | None = self.tune["set"] if self.tune else None
        if found is None or found["control"] is not None:
            return None  # a random set was held in its place
        return None if self.why_unfollowed else found

    @property
    def why_unfollowed(self) -> str | None:
        """Why the set of a run under warp cannot be followed; None where it can."""
        if self.protection not in ROTATED:
            return None
        mask = self._set()
        if mask.space != "weights":
            return (
                f"the run held coefficients in a rotated basis (--protect {self.protection}), "
                "which are no weights, so its own set is not followed"
            )
        if not mask.num_selected:
            return "the run held nothing (keep_ratio 0), so there is no set of its own to follow"
        return None

    def _set(self) -> WeightMask:
        mask = load(self.folder / "set")
        assert isinstance(mask, WeightMask)
        return mask

    @property
    def is_of_tune(self) -> bool:
        """Whether this is a run of `tune` with the model that it ended with."""
        return self.tune is not None and self.final.path == self.folder / "training" / "model"

    def frozen(self, checkpoint: Checkpoint) -> WeightMask | None:
        """Return the weights that the training was not to change, as far as a checkpoint shows.

        Of matrices that were not trained at all a checkpoint tells by itself: not one entry
        of theirs differs.
        """
        if self.protection not in (*HOLDING, *TRAINING):
            return None
        if self.protection == "rewind" and checkpoint != self.final:
            return None  # put back at the end only
        mask = self._set()
        if mask.space != "weights":
            return None
        if self.protection in HOLDING:
            return mask
        others = {name: ~members for name, members in mask.tensors.items()}
        return dataclasses.replace(mask, tensors=others)


def open_source(folder: Path) -> Source:
    """Return what a folder holds.

    Raises:
        UserError: It holds no whole checkpoint.
    """
    notes: list[str] = []
    found = checkpoints(folder, tell=notes.append)
    tune = tune_metrics(folder)
    if tune is not None and not found[-1].step:  # without other checkpoints nothing else tells
        found[-1] = dataclasses.replace(found[-1], step=int(tune["training"]["num_steps"]))
    source = Source(folder=folder, checkpoints=tuple(found), notes=tuple(notes), tune=tune)
    if why := source.why_unfollowed:
        return dataclasses.replace(source, notes=(*notes, why))
    return source


def tune_metrics(folder: Path) -> dict[str, Any] | None:
    """Return the metrics.json of a run of `tune`; None where the folder is none."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    found = read_json(path)
    return found if isinstance(found, dict) and found.get("kind") == "tune" else None


def reference_name(config: TrackConfig, source: Source) -> str:
    """Return the name of the model that the training began with.

    Raises:
        UserError: Nothing says.
    """
    if config.reference is not None:
        return config.reference
    if source.tune is not None:
        return str(source.tune["model"]["name"])
    raise UserError(
        f"{source.folder} is no finished run of `safetypin tune`, so nothing says what it began "
        "with; name that model with --reference"
    )


def load_reference(name: str, config: TrackConfig, source: Source) -> Subject:
    """Load the model that the training began with, in the precision of the run of `tune`."""
    dtype = _dtype(config, source)
    model, tokenizer = load_model(name, dtype=dtype, device=config.device)
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))


def _dtype(config: TrackConfig, source: Source) -> str:
    if config.dtype != "auto" or source.tune is None:
        return config.dtype
    return str(source.tune["settings"]["dtype"])


@torch.no_grad()
def load_tuned(
    source: Source,
    reference: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str,
    device: str | None,
) -> Subject:
    """Load the last checkpoint as a whole model, an adapter merged into its base.

    The base of anyone's adapter is the reference and not what the adapter names, which may be a
    folder of another machine.

    Args:
        source: The training.
        reference: The name of the model that it began with.
        tokenizer: The reference's.
        dtype: The precision that the reference is in, as the two are compared: full fine-tuning
            saves float32, whatever it began with.
        device: As in `load_model`.
    """
    checkpoint = source.final
    how: dict[str, Any] = {"dtype": dtype, "device": device, "tokenizer": tokenizer}
    if checkpoint.kind == "peft" and _is_masked(checkpoint.path):
        model, _ = load_model(reference, **how)
        for name, change in changes(checkpoint, model, block_weights(model)):
            weight = model.get_parameter(name)
            weight.copy_(weight.float() + change)
        model.name_or_path = str(checkpoint.path.absolute())
    elif checkpoint.kind == "peft" and source.tune is None:
        model, _ = load_model(reference, **how)
        model = merge_adapter(model, checkpoint.path)
        model.name_or_path = str(checkpoint.path.absolute())
        model.eval()
    else:
        model, _ = load_model(str(checkpoint.path), **how)
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))


def _is_masked(folder: Path) -> bool:
    """Whether an adapter is one of lora-entry, which PEFT does not know."""
    config = read_json(folder / "adapter_config.json")
    return isinstance(config, dict) and config.get("peft_type") == "MASKED_LORA"


def weights_hash(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the SHA-256 of every file that a checkpoint's weights are in."""
    patterns = ("*.safetensors", "*.index.json", "adapter_config.json")
    names = [path.name for pattern in patterns for path in checkpoint.path.glob(pattern)]
    return payload_hashes(checkpoint.path, names)
