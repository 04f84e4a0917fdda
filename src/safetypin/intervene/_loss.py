"""The loss of a training step, from the logits of the tokens to learn alone.

Only responses are learnt, and in a chat the template and the request are often longer. The output
layer has a weight for every entry of the vocabulary, so that the logits of all tokens are the
largest tensors of a step, and of a small model a fifth of its work.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.hooks import at_rest
from safetypin.intervene._data import IGNORED
from safetypin.passes import head_cut_to, input_device

SAME = 1e-3  # losses that differ by less are the same one, in half precision too


def learnt(
    labels: Int[Tensor, "batch seq"],
) -> tuple[Bool[Tensor, "batch seq"], Int[Tensor, " chosen"]]:
    """Return which tokens predict one that is learnt, and what they must predict, row by row."""
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    where = following != IGNORED
    return where, following[where]


def loss_of(
    outputs: Mapping[str, Any],
    labels: Int[Tensor, "batch seq"],
    num_items_in_batch: Tensor | int | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the learnt tokens in nats: its sum over `num_items_in_batch`.

    Without a number it is the mean. The logits may be those of all tokens, or of the chosen ones.
    """
    where, wanted = learnt(labels)
    logits = outputs["logits"]
    # the last token of a row predicts nothing, so that chosen ones never have the shape of all
    is_cut = logits.shape[:2] != labels.shape
    logits = logits[0] if is_cut else logits[where.to(logits.device)]
    total = torch.nn.functional.cross_entropy(
        logits.float(), wanted.to(logits.device), reduction="sum"
    )
    number = len(wanted) if num_items_in_batch is None else num_items_in_batch
    return total / (number.to(total.device) if isinstance(number, Tensor) else number)


def is_own_loss(model: PreTrainedModel, row: Mapping[str, Tensor]) -> bool:
    """Whether this is the loss that the model itself computes, measured on a batch.

    Some have other terms, such as the balance of experts or the size of the logits.
    """
    row = {name: part.to(input_device(model)) for name, part in row.items()}
    where, _ = learnt(row["labels"])
    asked = {name: part for name, part in row.items() if name != "labels"}
    with torch.no_grad(), at_rest(model):
        own = float(model(**row).loss)
        with head_cut_to(model, where):
            ours = float(loss_of(model(**asked), row["labels"]))
    return abs(ours - own) <= SAME * abs(own)
