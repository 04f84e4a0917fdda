"""Activations at a prompt's last token, or their mean over its tokens: read once, kept on disk.

Chen et al. 2024 take the last prompt token. The request is templated as for an answer, so that is
the place where the model is about to begin one. Prompts are read in passes without padding before
a token, and no further than the last layer that is asked for.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import (
    ArtifactMismatchError,
    Batch,
    DamagedArtifactError,
    FileTensors,
    Prompt,
    TensorFile,
    UserError,
)
from safetypin.hooks import Call, at_rest, read_units, stop_after
from safetypin.models import UnitSite, blocks, check_activations, unit_sites
from safetypin.passes import forward, input_device, passes
from safetypin.prompts import encode, is_start, window

POOLINGS = ("last", "mean")
MAX_TOKENS = {"cpu": 512, "mps": 2048, "cuda": 16384}  # in one pass
FEATURES_FILE = "features.safetensors"

Matrix = NDArray[np.float32]


class Reading(NamedTuple):
    """How a prompt becomes features.

    Attributes:
        site: `neuron` or `residual`.
        pooling: `last`, the last token of the templated request; or `mean` over its tokens, of
            which the first (BOS, or whichever it is where there is none) counts only where
            `count_bos` says so.
        plain: Use no chat template.
        system: System prompt.
        count_bos: Let the mean run over it too, whose activations are often huge; as guards did
            that were fitted before it was left out.
    """

    site: str = "neuron"
    pooling: str = "last"
    plain: bool = False
    system: str | None = None
    count_bos: bool = False


def encode_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    how: Reading,
) -> list[list[int]]:
    """Return the token ids of each templated request.

    Raises:
        UserError: One does not fit into the model's window.
    """
    limit, rows = window(model, tokenizer), []
    for index, prompt in enumerate(prompts):
        request = Prompt(text=prompt.text)  # a guard reads no response
        ids = encode(tokenizer, request, plain=how.plain, system=how.system)[0]
        if len(ids) > limit:
            raise UserError(
                f"{prompt.named(index)} has {len(ids):,} tokens, the model's window has "
                f"{limit:,}: {prompt.text[:60]!r}; judge its parts"
            )
        rows.append(ids)
    return rows


def read_features(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    how: Reading,
    on_rows: Callable[[list[int], Mapping[str, Tensor]], None],
    *,
    bos: int | None,
    places: Sequence[str] | None = None,
) -> None:
    """Read the prompts, and give the units of a few at a time.

    Args:
        model: The model.
        rows: Token ids of each prompt.
        how: Which activations.
        on_rows: Called with the indices of some prompts, and by place `(prompts, units)` float32.
        bos: Id of the token that begins every text, which `mean` leaves out; where None, whichever
            is first.
        places: Names of the places that are wanted; all where None. The model is run up to the
            last of their layers alone.

    Raises:
        UserError: The units are of experts or no activations, or those are not finite.
    """
    sites = chosen_sites(model, how.site, places)
    where = {name: (site.module, site.parameter) for name, site in sites.items()}
    last = blocks(model)[max(site.layer for site in sites.values())]
    found: dict[str, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
    given = _batches(rows, order, None if how.count_bos else is_start(bos))
    device = input_device(model)
    start, now = 0, _Now()

    def pool(call: Call) -> None:
        found[call.name] = _pooled(call, now.batch, now.lengths, how.pooling)

    # hooked once for all batches: finding the places walks over all modules
    with (
        torch.inference_mode(),
        at_rest(model),
        stop_after(last) as run,
        read_units(where, pool),
    ):
        for batch in passes(given, device, MAX_TOKENS.get(device.type, 512)):
            now.batch, now.lengths = batch, batch.attention_mask.sum(dim=1)
            run(lambda batch=batch: forward(model, batch, logits_to_keep=1))
            indices = order[start : start + len(now.lengths)]
            start += len(now.lengths)
            on_rows(indices, found)


class _Now:
    """The batch that is being read."""

    batch: Batch
    lengths: Tensor


def chosen_sites(
    model: PreTrainedModel, site: str, places: Sequence[str] | None
) -> dict[str, UnitSite]:
    """Return the places that are read.

    Raises:
        UserError: They are of experts, or no activations.
        ArtifactMismatchError: The model has no such place.
    """
    check_activations(site)
    sites = unit_sites(model, site)
    if places is not None:
        for name in places:
            if name not in sites:
                raise ArtifactMismatchError(
                    f"the guard is of another model: {type(model).__name__} has no units at "
                    f"{name!r}"
                )
        sites = {name: sites[name] for name in places}
    for name, place in sites.items():
        if len(place.shape) > 1:
            raise UserError(
                f"the units at {name} are of experts, which read other tokens for every prompt; "
                "use site residual"
            )
    return sites


def _batches(
    rows: Sequence[Sequence[int]],
    order: Sequence[int],
    starts: Callable[[Sequence[int]], bool] | None = None,
) -> Iterator[Batch]:
    for start in range(0, len(order), 64):
        chosen = [rows[index] for index in order[start : start + 64]]
        width = max(map(len, chosen))
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(chosen):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            # a text of this token alone has nothing else to take the mean of
            first = int(starts is not None and len(row) > 1 and starts(row))
            counted[place, first : len(row)] = True
        yield Batch(ids, mask, counted)


def _pooled(call: Call, batch: Batch, lengths: Tensor, pooling: str) -> Tensor:
    x = call.x.view(*batch.input_ids.shape, -1)
    if pooling == "last":
        rows = torch.arange(len(lengths), device=x.device)
        return x[rows, lengths.to(x.device) - 1].float()
    counted = batch.counted.to(x.device)[..., None]
    # not times 0: what does not count may be infinite
    return x.float().masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)


class Features:
    """Features of prompts, memory-mapped: a place is read when it is asked for.

    Attributes:
        names: Places in model order.
        num_prompts: Rows.
        about: Model, reading and prompts they are of.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = FileTensors(path)
        try:
            self.about: dict[str, Any] = json.loads(self._tensors.metadata["features"])
            self.names: list[str] = self.about["names"]
            self.num_prompts: int = self.about["num_prompts"]
        except (KeyError, json.JSONDecodeError) as error:
            raise DamagedArtifactError(f"{path} holds no features ({error})") from error

    def __getitem__(self, name: str) -> Matrix:
        """Return the units of one place: `(prompts, units)`, mapped, not copied."""
        rows: Matrix = self._tensors[name].numpy()
        return rows

    def rows(self, places: Sequence[int], units: Mapping[str, NDArray[np.int64]]) -> Matrix:
        """Return some units of some prompts, side by side in the order of the model."""
        chosen = [name for name in self.names if name in units and len(units[name])]
        index = np.asarray(places)
        return np.concatenate([self[name][index][:, units[name]] for name in chosen], axis=1)


def texts_hash(rows: Sequence[Sequence[int]]) -> str:
    """Return 16 hex digits of token ids."""
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()[:16]


def write_features(
    path: Path,
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    how: Reading,
    *,
    model_id: str,
    bos: int | None,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Read all units of all prompts into a safetensors file, and open it.

    Rows are written in place as they are read; nothing grows with the number of prompts but the
    file, of 4 bytes a unit and prompt.

    Raises:
        UserError: As `read_features` says, or the disk is full.
    """
    sites = chosen_sites(model, how.site, None)
    shapes = {name: (len(rows), site.num_units) for name, site in sites.items()}
    about = {
        "names": list(sites),
        "num_prompts": len(rows),
        "model_id": model_id,
        "reading": how._asdict(),
        "prompts": texts_hash(rows),
    }
    with TensorFile(path, shapes, {"features": json.dumps(about)}) as file:

        def keep(indices: list[int], found: Mapping[str, Tensor]) -> None:
            for name, values in found.items():
                file[name][indices] = values.cpu().numpy()
            if progress is not None:
                progress(len(indices))

        read_features(model, rows, how, keep, bos=bos)
    return Features(path)
