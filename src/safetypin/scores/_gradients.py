"""Sums of per-example absolute gradients of weights, from their inputs and output gradients."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safetypin.artifacts import Basis, UserError
from safetypin.hooks import Call, Gradient
from safetypin.models import BlockWeight
from safetypin.passes import check_rows

BLOCK = {"cpu": 1 << 18, "mps": 1 << 22, "cuda": 1 << 22}  # entries that stay in the cache

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """A layer's input, kept for the backward pass: itself, or the product that it is.

    A normalised state or a gated hidden state is the product of tensors that autograd keeps in any
    case. Multiplying them again gives the same bits and saves a quarter of the activations.
    """

    tensor: Tensor | None
    version: int
    node: Any

    @classmethod
    def of(cls, x: Float[Tensor, "..."]) -> "Input":
        """Keep `x`, which must not be changed in place."""
        if _is_product(x.grad_fn):
            return cls(None, 0, x.grad_fn)
        return cls(x.detach(), x._version, None)

    def value(self) -> Float[Tensor, "..."]:
        """Return the input, as long as autograd holds what it is made of."""
        if self.tensor is None:
            return _product(self.node)
        assert self.tensor._version == self.version, "a layer's input was changed after its use"
        return self.tensor


def _is_product(node: Any) -> bool:  # noqa: ANN401
    """Return whether autograd holds both factors, or one and the factors of the other."""
    if node is None or node.name() != "MulBackward0":
        return False
    left, right = (edge[0] for edge in node.next_functions)
    # a factor is held where the other one has a gradient
    return (right is not None or _is_product(left)) and (left is not None or _is_product(right))


def _product(node: Any) -> Tensor:  # noqa: ANN401
    saved = node._saved_self, node._saved_other
    left, right = (
        _product(edge[0]) if factor is None else factor.detach()
        for factor, edge in zip(saved, node.next_functions, strict=True)
    )
    return left * right


class GradientSums:
    """Sums over examples of the absolute gradient of every weight, in float32.

    With a basis, of every coefficient C = W U. The gradient by C is `delta^T (X U)`: a layer's
    input is rotated, once for all layers that read it, and not the gradient of each example.
    """

    def __init__(self, weights: Mapping[str, BlockWeight], basis: Basis | None = None) -> None:
        self._weights = weights
        self._basis = basis
        self._turned: tuple[str, Tensor] | None = None
        self._sums = {
            name: torch.zeros_like(weight.weight, dtype=torch.float32, requires_grad=False)
            for name, weight in weights.items()
        }
        self._inputs: dict[tuple[str, int | None], Input] = {}
        self._seen: set[str] = set()
        self._scratch: dict[torch.device, Tensor] = {}
        self._product: tuple[object, Tensor] | None = None

    def start(self, attention_mask: Int[Tensor, "batch seq"]) -> None:
        """Begin a pass over a batch."""
        self._num_examples, self._length = attention_mask.shape
        self._product = self._turned = None
        self._spans = []
        for index, mask in enumerate(attention_mask.tolist()):
            last = self._length - 1 - mask[::-1].index(1)
            offset = index * self._length
            self._spans.append((offset + mask.index(1), offset + last + 1))

    def see(self, call: Call) -> Gradient | None:
        """Keep one input until the gradient of its output comes."""
        if not torch.is_grad_enabled():  # this block will be recomputed
            return None
        if call.expert is None:
            check_rows(call, self._num_examples * self._length)
        key, tokens = (call.name, call.expert), call.tokens
        self._inputs[key] = Input.of(call.x)
        self._seen.add(call.name)

        def on_gradient(gradient: Tensor) -> None:
            left = gradient.flatten(0, -2).float()
            right = self._rows(key[0], self._inputs.pop(key))
            total = self._sums[key[0]]
            if key[1] is not None:
                total = total[key[1]]
            if self._weights[key[0]].layout == "conv1d":
                left, right = right, left
            self._add(total, [(left[rows], right[rows]) for rows in self._examples(tokens)])

        return on_gradient

    def _value(self, kept: Input) -> Float[Tensor, "..."]:
        """Return an input; q, k and v read the same product one after the other, so keep it."""
        if kept.node is None:
            return kept.value()
        if self._product is None or self._product[0] is not kept.node:
            self._product = kept.node, kept.value()
        return self._product[1]

    def _rows(self, name: str, kept: Input) -> Float[Tensor, "tokens d_in"]:
        """Return the rows of an input, in the coordinates of the basis."""
        if self._basis is None:
            return self._value(kept).flatten(0, -2).float()
        site = self._basis.sites[name]
        if self._turned is None or self._turned[0] != site:
            rows, directions = self._value(kept).flatten(0, -2).float(), self._basis.of(name)
            turned = rows if directions is None else rows @ directions.to(rows.device)
            self._turned = site, turned
        return self._turned[1]

    def _examples(self, tokens: Tensor | None) -> Iterator[slice | Tensor]:
        """Yield, for each example in the pass, its rows."""
        if tokens is None:
            for start, stop in self._spans:
                yield slice(start, stop)
        elif self._num_examples == 1:
            yield slice(None)
        else:
            owners = tokens // self._length
            for index in owners.unique().tolist():
                yield (owners == index).nonzero()[:, 0]

    def _add(
        self, total: Float[Tensor, "rows columns"], examples: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        """Add every example's `|left^T right|`.

        Done some rows at a time, all examples of them together: those rows stay in the cache, and
        the sums, which do not, are read and written once for the pass.
        """
        height, width = total.shape
        block = max(1, BLOCK.get(total.device.type, 1 << 22) // width)
        scratch = self._buffer(total.device, 2 * block * width).view(2, -1)
        for first in range(0, height, block):
            rows = slice(first, min(first + block, height))
            whole, part = scratch[:, : (rows.stop - first) * width].view(2, -1, width)
            for index, (left, right) in enumerate(examples):
                torch.mm(left[:, rows].T, right, out=part if index else whole)
                if index:
                    whole.add_(part.abs_())
                else:
                    whole.abs_()
            total[rows].add_(whole)

    def _buffer(self, device: torch.device, size: int) -> Tensor:
        buffer = self._scratch.get(device)
        if buffer is None or len(buffer) < size:
            buffer = torch.empty(size, dtype=torch.float32, device=device)
            self._scratch[device] = buffer
        return buffer[:size]

    def scores(self, num_examples: int) -> dict[str, Float[Tensor, "..."]]:
        """Return the mean absolute gradients, made from the sums in place; SNIP's are times |W|.

        Raises:
            UserError: A weight was not used, or its gradient is not finite.
        """
        idle = 0
        for name, total in self._sums.items():
            if name not in self._seen:
                raise UserError(f"{name} was used by no example; leave it out with targets")
            if self._basis is None:
                total.mul_(self._weights[name].weight.detach()).abs_()
            total.div_(num_examples)
            if not total.max().isfinite():
                raise UserError(
                    f"the gradient of {name} is not finite; load the model in bfloat16 or float32"
                )
            if self._weights[name].layout == "experts":
                idle += int((total.flatten(1).amax(dim=1) == 0).sum())
        if idle:
            log.warning("%d expert matrices received no token that the loss depends on", idle)
        return self._sums
