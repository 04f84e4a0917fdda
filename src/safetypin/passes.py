"""Cut batches into passes of bounded size, and run the model on one."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from safetypin.artifacts import Batch, UserError
from safetypin.hooks import Call, Site
from safetypin.models import BlockWeight

Progress = Callable[[int], None]


def passes(batches: Iterable[Batch], device: torch.device, max_tokens: int) -> Iterator[Batch]:
    """Yield the examples in order, as many at a time as fit in `max_tokens`, at least one.

    Memory is bounded so whatever the batch size. In a pass the real tokens come first, in order:
    behind a causal model they need no attention mask, which saves time and memory, and little or
    no time is spent on padding.

    Raises:
        UserError: There is no example, or one without a token.
    """
    num_examples = 0
    for batch in batches:
        lengths = batch.attention_mask.sum(dim=1).tolist()
        if 0 in lengths:
            index = num_examples + lengths.index(0)
            raise UserError(f"example {index} has no token: its attention mask is all zero")
        num_examples += len(lengths)
        first = 0
        while first < len(lengths):
            last = first + 1
            while (
                last < len(lengths)
                and (last + 1 - first) * max(lengths[first : last + 1]) <= max_tokens
            ):
                last += 1
            yield _compact(batch, slice(first, last), max(lengths[first:last])).to(device)
            first = last
    if not num_examples:
        raise UserError("there is no example to score on: the batches are empty")


def _compact(batch: Batch, rows: slice, length: int) -> Batch:
    """Return some rows, of each the real tokens and then padding up to `length`."""
    order = (batch.attention_mask[rows] == 0).int().argsort(dim=1, stable=True)[:, :length]

    def take(part: Tensor) -> Tensor:
        return part[rows].gather(1, order)

    response = None if batch.response is None else take(batch.response)
    return Batch(take(batch.input_ids), take(batch.attention_mask), take(batch.counted), response)


def input_device(model: nn.Module) -> torch.device:
    """Return where the model wants its token ids."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight.device


def forward(
    model: nn.Module, batch: Batch, logits_to_keep: int
) -> Float[Tensor, "batch kept vocabulary"]:
    """Return the logits at the last so many positions, at all where the model cannot choose.

    The rows are those of `passes`: with no padding before a token, a causal model needs neither
    attention mask nor positions. No cache is made.
    """
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": logits_to_keep, "use_cache": False}
    known = {name: value for name, value in options.items() if name in accepted}
    logits: Tensor = model(batch.input_ids, **known).logits
    return logits


def logits_at(
    model: nn.Module, batch: Batch, where: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "chosen vocabulary"]:
    """Return the logits of some tokens, row by row; those of others are not even computed."""
    with head_cut_to(model, where):
        logits = forward(model, batch, logits_to_keep=0)
    is_cut = logits.shape[:2] != where.shape
    return logits[0] if is_cut else logits[where.to(logits.device)]


@contextlib.contextmanager
def head_cut_to(model: nn.Module, where: Bool[Tensor, "batch seq"]) -> Iterator[None]:
    """Apply the output layer to some tokens alone: logits become those of one row, of these tokens.

    `logits_to_keep` of transformers takes the same positions of all rows, and responses of
    different rows stand at different ones: their union has up to twice the logits, which are the
    largest tensors of a small model's pass. So the output layer's input is cut to the tokens. A
    model that applies it to anything else than the states of all tokens is left as it is.
    """

    def cut(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != where.shape:
            return None
        return (hidden[where.to(hidden.device)][None], *args[1:])

    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(cut) if isinstance(head, nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def sites_of(weights: Mapping[str, BlockWeight]) -> dict[str, Site]:
    """Return what `hooks.watch` needs to know of the weights."""
    return {name: (weight.module, weight.parameter) for name, weight in weights.items()}


def check_rows(call: Call, num_tokens: int) -> None:
    """Raise unless the layer is applied to each token of the pass once.

    Raises:
        UserError: It is not.
    """
    num_rows = call.x.numel() // call.x.shape[-1]
    if num_rows != num_tokens:
        raise UserError(
            f"{call.name} is applied to {num_rows} rows where the batch has {num_tokens} tokens, "
            "so it cannot be told which token each row is; leave it out with targets"
        )
