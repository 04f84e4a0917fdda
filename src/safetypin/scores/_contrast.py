"""Contrast: how differently a unit acts in an aligned and in an unaligned model.

Chen et al. 2024 (arXiv:2406.14144), eq. 1: the root mean square, over tokens, of the difference of
a neuron's activation in the two models on identical token ids. Departures: the statistic is
streamed, so that all layers come from one forward pass of each model; a reference model that does
not fit beside the other is read first and kept on disk; `scale="free"` divides by the reference
model's own root mean square, without which the growth of activations with depth decides.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, NeuronScores, UserError
from safetypin.hooks import Site, at_rest, read_units
from safetypin.models import (
    UnitSite,
    base_fingerprint,
    check_same_units,
    model_id,
    unit_sites,
)
from safetypin.passes import Progress, forward, input_device, passes
from safetypin.scores._differences import DifferenceSums, Recorded, Rows, rows_of, write_pass

Model = PreTrainedModel | PeftModel

SCALES = ("plain", "free")
WEIGHTINGS = ("token", "example")
MAX_TOKENS = {"cpu": 256, "mps": 1024, "cuda": 4096}  # in one pass


@torch.no_grad()
def contrast(
    model: Model,
    reference: Model | Recorded | None,
    batches: Iterable[Batch],
    *,
    site: str = "neuron",
    scale: str = "plain",
    weighting: str = "token",
    prompts_id: str = "",
    progress: Progress | None = None,
) -> NeuronScores:
    """Score every unit by the RMS difference of its activation in two models.

    One forward pass of each model gives the scores of all layers. Differences are taken in float32
    and summed in float64, whatever the dtype of the models.

    Args:
        model: The aligned model.
        reference: The unaligned model: of the same architecture, and with the same tokenizer, or
            the batches mean nothing to it; what `record` kept of it; or None, where `model` is a
            PEFT model: the same weights with the adapter turned off.
        batches: Read by both; their `counted` tokens count.
        site: `neuron` (input of the MLP's down projection) or `residual` (output of the MLP).
        scale: `plain`, or `free`: divided by the reference model's RMS of that unit (at least a
            thousandth of its layer's), so that no layer wins by its size.
        weighting: `token`, as in the paper: long examples count for more; or `example`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        progress: Called with the number of examples done.

    Raises:
        ArtifactMismatchError: The models are of other shapes; says what differs.
        UserError: An unknown option, no token is counted, activations are not finite, a layer of
            the reference is dead, or there is no adapter to turn off.
    """
    _check(site, scale, weighting)
    other = _Reference(model, reference, site)
    sums = _differences(model, other, batches, site, weighting, progress)
    return NeuronScores(
        tensors=sums.scores(free=scale == "free"),
        site=site,
        method=f"contrast-{scale}",
        model_id=model_id(model),
        reference_id=other.identity,
        prompts_id=prompts_id,
        num_examples=sums.num_examples,
        num_tokens=sums.num_tokens,
    )


@torch.no_grad()
def contrast_parts(
    model: Model,
    references: Mapping[str, Model | Recorded | None],
    parts: Mapping[str, Iterable[Batch]],
    *,
    site: str = "neuron",
    scale: str = "plain",
    weighting: str = "token",
    progress: Progress | None = None,
) -> dict[str, NeuronScores]:
    """Score every unit on each of some parts of the prompts, and on all of them together.

    Every part is read once by each model: the sums of all prompts are those of their parts.

    Args:
        model: As in `contrast`.
        references: For each part the reference model, or what was recorded of it on the part.
        parts: Batches by the name of the part; `whole` is taken.
        site: As in `contrast`.
        scale: As in `contrast`.
        weighting: As in `contrast`.
        progress: Called with the number of examples done, of all parts.

    Returns:
        `whole`, and each part under its name.

    Raises:
        ArtifactMismatchError: As in `contrast`.
        UserError: As in `contrast`.
    """
    _check(site, scale, weighting)
    read = dict[str, DifferenceSums]()
    num_examples, identity = 0, ""
    for name, batches in parts.items():
        other = _Reference(model, references[name], site)
        told = None if progress is None else _after(num_examples, progress)
        read[name] = _differences(model, other, batches, site, weighting, told)
        num_examples += read[name].num_examples
        identity = other.identity
    read = {"whole": functools.reduce(operator.add, read.values()), **read}
    about = {"model_id": model_id(model), "reference_id": identity, "site": site}
    return {
        name: NeuronScores(
            tensors=sums.scores(free=scale == "free"),
            method=f"contrast-{scale}",
            num_examples=sums.num_examples,
            num_tokens=sums.num_tokens,
            **about,
        )
        for name, sums in read.items()
    }


@torch.no_grad()
def record(
    model: Model, batches: Iterable[Batch], folder: Path, *, site: str = "neuron"
) -> Recorded:
    """Keep a model's activations at the counted tokens on disk, for `contrast` with another.

    So two models are contrasted that do not fit into memory together. float32: 4 bytes a unit and
    counted token.

    Raises:
        UserError: No example, an unknown site, or a full disk.
    """
    _check_site(site)
    sites = unit_sites(model, site)
    num_passes = 0
    shapes = {name: place.shape for name, place in sites.items()}
    with at_rest(model):
        device = input_device(model)
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            places = batch.counted.flatten().nonzero()[:, 0]
            rows = read_rows(model, sites, batch, places)
            write_pass(folder, num_passes, rows, batch)
            num_passes += 1
    return Recorded(folder, model_id(model), site, shapes, num_passes)


def _differences(
    model: Model,
    other: "_Reference",
    batches: Iterable[Batch],
    site: str,
    weighting: str,
    progress: Progress | None,
) -> DifferenceSums:
    """Return the sums over all tokens, from one forward pass of each model."""
    sites = unit_sites(model, site)
    sums = DifferenceSums(sites, by_example=weighting == "example")
    with at_rest(model), other.resting():
        device = input_device(model)
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            places = sums.start(batch)
            theirs = other.read(batch, places)
            sums.add(read_rows(model, sites, batch, places), theirs)
            if progress is not None:
                progress(sums.num_examples)
    return sums


def read_rows(
    model: Model,
    sites: dict[str, UnitSite],
    batch: Batch,
    places: torch.Tensor,
) -> Rows:
    """Return the activations of every site at some places among the tokens of one pass."""
    found: Rows = {}
    with read_units(sites_of_units(sites), lambda call: rows_of(call, places, found)):
        forward(model, batch, logits_to_keep=1)
    return found


def sites_of_units(sites: dict[str, UnitSite]) -> dict[str, Site]:
    """Return what the hooks need to know of places with units."""
    return {name: (place.module, place.parameter) for name, place in sites.items()}


def _after(num_examples: int, progress: Progress) -> Progress:
    return lambda count: progress(num_examples + count)


def _check(site: str, scale: str, weighting: str) -> None:
    for name, value, known in (("scale", scale, SCALES), ("weighting", weighting, WEIGHTINGS)):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    _check_site(site)


def _check_site(site: str) -> None:
    if site not in {"neuron", "residual"}:
        raise UserError(f"unknown site {site!r}; activations are contrasted at neuron or residual")


class _Reference:
    """The other model of a contrast, wherever its activations come from."""

    def __init__(self, model: Model, reference: Model | Recorded | None, site: str) -> None:
        self._model: Any = model
        self._recorded = reference if isinstance(reference, Recorded) else None
        self._own = None if isinstance(reference, Recorded) else reference
        if self._recorded is not None:
            self._recorded.check(unit_sites(model, site), site)
            self.identity = self._recorded.model_id
        elif self._own is not None:
            check_same_units(model, self._own, site)
            self.identity = model_id(self._own)
            self._sites = unit_sites(self._own, site)
        else:
            name = model_id(model).rpartition("#")[0]
            self.identity = f"{name} without adapter#{base_fingerprint(model)}"
            self._sites = unit_sites(model, site)
        self._num_passes = 0

    def resting(self) -> AbstractContextManager[object]:
        """Keep the reference model in evaluation mode, while in the block."""
        return nullcontext() if self._own is None else at_rest(self._own)

    def read(self, batch: Batch, places: torch.Tensor) -> Rows:
        """Return the reference's activations at the counted tokens of the next pass."""
        self._num_passes += 1
        if self._recorded is not None:
            return self._recorded.read(self._num_passes - 1, batch)
        with ExitStack() as undo:
            if self._own is None:
                undo.enter_context(self._model.disable_adapter())
                return read_rows(self._model, self._sites, batch, places)
            there = batch.to(input_device(self._own))
            return read_rows(self._own, self._sites, there, places)
