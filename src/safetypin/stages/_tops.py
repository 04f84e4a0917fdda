"""Tops of a score at many shares, one bit a weight: whole, they are a byte a weight each."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from safetypin.artifacts import WeightMask, WeightScores
from safetypin.select import layer_index, top_fractions


class Bits(Mapping[str, Tensor]):
    """The tensors of a mask, eight entries to a byte; each is unpacked when it is asked for."""

    def __init__(self) -> None:
        self._packed: dict[str, tuple[NDArray[np.uint8], torch.Size]] = {}

    def add(self, name: str, mask: Bool[Tensor, "..."]) -> None:
        """Pack one more tensor behind the others."""
        self._packed[name] = np.packbits(mask.flatten().cpu().numpy()), mask.shape

    def __getitem__(self, name: str) -> Bool[Tensor, "..."]:
        bits, shape = self._packed[name]
        # 0 and 1 are the bytes of a bool already, so nothing is copied
        members = np.unpackbits(bits, count=shape.numel()).view(bool)
        return torch.from_numpy(members).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def packed_mask(mask: WeightMask) -> WeightMask:
    """Return the same set in an eighth of its memory."""
    bits = Bits()
    for name, members in mask.tensors.items():
        bits.add(name, members)
    return dataclasses.replace(mask, tensors=bits)


def packed_tops(
    scores: WeightScores, fractions: Iterable[float], *, group: str
) -> dict[float, WeightMask]:
    """Return what `top_fractions` does, in bits, with whole masks of one group at a time.

    All masks of the model are whole at once only where the model is the group.
    """
    wanted = sorted(set(fractions))
    bits = {fraction: Bits() for fraction in wanted}
    for names in _ranked_together(list(scores.tensors), group):
        part = dataclasses.replace(scores, tensors=_Some(scores.tensors, names))
        for fraction, mask in top_fractions(part, wanted, group=group).items():
            for name, members in mask.tensors.items():
                bits[fraction].add(name, members)
    return {
        fraction: WeightMask(
            tensors=_Some(found, list(scores.tensors)),
            model_id=scores.model_id,
            space=scores.space,
        )
        for fraction, found in bits.items()
    }


class _Some(Mapping[str, Tensor]):
    """Some tensors of a mapping, each asked for when it is needed, in the order of the names."""

    def __init__(self, tensors: Mapping[str, Tensor], names: list[str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _ranked_together(names: list[str], group: str) -> list[list[str]]:
    """Return the names that a rank must see at once, in their order."""
    if group in ("row", "matrix"):
        return [[name] for name in names]
    if group != "layer":
        return [names]
    layers: dict[int | str, list[str]] = {}
    for name in names:
        layer = layer_index(name)
        layers.setdefault(name if layer is None else layer, []).append(name)
    return list(layers.values())
