"""Chosen weights and their values, to be put back bit for bit.

A gradient hook does not freeze: AdamW moves a weight whose gradient is zero, by weight decay and by
the momentum of steps before. So the values themselves are put back after every optimizer step,
which holds under any optimizer, decay, clipping, accumulation and precision.
"""

import abc
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from safetypin.artifacts import UserError

CHUNK = 1 << 22  # entries, or about as many members, whose places are in memory at once
BLOCK = 1 << 16  # places inside a block fit into 16 bits
BITS = 8


class HeldWeights:
    """The values of some weights of a model.

    Takes at most the values and one bit for each entry of a matrix that has a member: places are
    kept as 16-bit numbers where these are fewer bytes than the bits (up to 1 member in 16), which
    also makes putting back several times faster.

    A weight that is sharded over processes (`fully_shard`) is held by each process in its own part:
    make the object after sharding, in every process, from the whole mask.
    """

    def __init__(self, model: nn.Module, members: Mapping[str, Bool[Tensor, "..."]]) -> None:
        """Keep the present values of the members.

        Args:
            model: Holds the weights.
            members: By parameter name, True for a member, shaped as the weight.
        """
        self._model = model
        self._parts: dict[str, _Part] = {}
        for name, mask in members.items():
            parameter = model.get_parameter(name)
            chosen = _local_members(parameter, mask)
            if chosen.any():
                self._parts[name] = _Part(parameter, chosen)

    @property
    def num_bytes(self) -> int:
        """Memory of values and places in this process."""
        return sum(part.values.nbytes + part.places.num_bytes for part in self._parts.values())

    @property
    def num_weights(self) -> int:
        """Number of weights held in this process."""
        return sum(part.values.numel() for part in self._parts.values())

    @torch.no_grad()
    def restore(self) -> None:
        """Put every value back."""
        for part in self._parts.values():
            part.restore()

    @torch.no_grad()
    def are_in_place(self) -> bool:
        """Tell whether every weight has its value, bit for bit."""
        return all(part.is_in_place() for part in self._parts.values())

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Return how many weights are held, after a look at each of them in the model as it is.

        Raises:
            UserError: One is not what it was, or the model has another tensor in its place, which
                nothing was put back into.
        """
        odd = [
            name
            for name, part in self._parts.items()
            if self._model.get_parameter(name) is not part.parameter or not part.is_in_place()
        ]
        if odd:
            raise UserError(
                f"held weights in {len(odd)} matrices are not what they were before the training, "
                f"first in {odd[0]}, although they were put back; do not use this model as a "
                "protected one, and try another --optimizer or --precision"
            )
        return {"held": self.num_weights, "in_place": True}

    def hold(self, optimizer: Optimizer) -> RemovableHandle:
        """Put every value back after each step of an optimizer, until the handle is removed."""

        def put_back(*_: object) -> None:
            self.restore()

        return optimizer.register_step_post_hook(put_back)


def _local_members(parameter: Tensor, mask: Bool[Tensor, "..."]) -> Bool[Tensor, " local"]:
    """Return the members in this process's part of a weight, flat."""
    if isinstance(parameter, DTensor):
        # every process has the whole mask, so nothing needs to be sent
        mask = distribute_tensor(
            mask, parameter.device_mesh, parameter.placements, src_data_rank=None
        ).to_local()
    return mask.flatten()


def _flat(parameter: Tensor) -> Shaped[Tensor, " local"]:
    """Return this process's part of a weight as a flat view."""
    own = parameter.detach()
    return (own.to_local() if isinstance(own, DTensor) else own).view(-1)


class _Part:
    """The held entries of one matrix, or of this process's part of it."""

    def __init__(self, parameter: Tensor, members: Bool[Tensor, " local"]) -> None:
        self.parameter = parameter
        flat = _flat(parameter)
        found = members.nonzero().squeeze(1)
        self.values = flat[found.to(flat.device)]
        short = _ShortPlaces(found, flat.numel(), flat.device)
        few = short.num_bytes <= math.ceil(flat.numel() / BITS)
        self.places: _Places = short if few else _BitPlaces(members, flat.device)

    def restore(self) -> None:
        flat, first = _flat(self.parameter), 0
        for start, places in self.places:
            values = self.values[first : first + places.numel()]
            flat[start:].index_copy_(0, places, values)
            first += places.numel()

    def is_in_place(self) -> bool:
        flat, first = _flat(self.parameter), 0
        for start, places in self.places:
            values = self.values[first : first + places.numel()]
            if not torch.equal(flat[start:][places].view(torch.uint8), values.view(torch.uint8)):
                return False
            first += places.numel()
        return True


class _Places(abc.ABC):
    """Where members are among the entries of a flat tensor, in order."""

    @property
    @abc.abstractmethod
    def num_bytes(self) -> int: ...

    @abc.abstractmethod
    def __iter__(self) -> Iterator[tuple[int, Int[Tensor, " members"]]]:
        """Yield an entry and the next members' places counted from it."""


class _ShortPlaces(_Places):
    """Two bytes a member: its place inside a block of 65,536 entries."""

    def __init__(
        self, found: Int[Tensor, " members"], num_entries: int, device: torch.device
    ) -> None:
        num_blocks = math.ceil(num_entries / BLOCK)
        self._inside = (found % BLOCK - BLOCK // 2).to(device, torch.int16)
        blocks = torch.bincount(found // BLOCK, minlength=num_blocks)
        self._counts = blocks.to(device, torch.int32)
        at_once = max(CHUNK * num_blocks // max(found.numel(), 1), 1)
        self._sizes = [(part.numel(), int(part.sum())) for part in blocks.split(at_once)]

    @property
    def num_bytes(self) -> int:
        return self._inside.nbytes + self._counts.nbytes

    def __iter__(self) -> Iterator[tuple[int, Int[Tensor, " members"]]]:
        block = member = 0
        for num_blocks, num_members in self._sizes:
            if num_members:
                starts = torch.arange(num_blocks, device=self._counts.device) * BLOCK + BLOCK // 2
                counts = self._counts[block : block + num_blocks]
                places = starts.repeat_interleave(counts, output_size=num_members)
                yield block * BLOCK, places.add_(self._inside[member : member + num_members])
            block, member = block + num_blocks, member + num_members


class _BitPlaces(_Places):
    """One bit an entry."""

    def __init__(self, members: Bool[Tensor, " local"], device: torch.device) -> None:
        bits = np.packbits(members.cpu().numpy(), bitorder="little")
        self._bits = torch.from_numpy(bits).to(device)
        self._num_entries = members.numel()

    @property
    def num_bytes(self) -> int:
        return self._bits.nbytes

    def __iter__(self) -> Iterator[tuple[int, Int[Tensor, " members"]]]:
        for start in range(0, self._num_entries, CHUNK):
            bits = self._bits[start // BITS : (start + CHUNK) // BITS]
            yield start, _places_of(bits, min(CHUNK, self._num_entries - start))


def _places_of(bits: UInt8[Tensor, " bytes"], count: int) -> Int[Tensor, " members"]:
    """Return the places of the ones among the first `count` bits."""
    if bits.device.type == "cpu":  # three times as fast there
        ones = np.unpackbits(bits.numpy(), count=count, bitorder="little").view(bool)
        return torch.from_numpy(np.flatnonzero(ones))
    shifts = torch.arange(BITS, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> shifts) & 1).flatten()[:count].nonzero().squeeze(1)
