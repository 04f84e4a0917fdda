"""Whether a cell put the model back: checked after every cell, so it has to be cheap."""

import torch
from torch import nn

WORD = 8  # bytes that are summed as one number


class ChangedModelError(RuntimeError):
    """A cell left the model other than it was."""


@torch.no_grad()
def weight_sums(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the sum of the bits of every parameter, which a change of any one value changes.

    A fingerprint of the model takes six times as long, and rounds to bfloat16.
    """
    found = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().contiguous().flatten().view(torch.uint8)
        whole = values.numel() // WORD * WORD
        # the sum of the words wraps around, which does it no harm
        words, rest = values[:whole].view(torch.int64), values[whole:]
        found[name] = (int(words.sum()), int(rest.sum()))
    return found


def check_restored(model: nn.Module, before: dict[str, tuple[int, int]], cell: str) -> None:
    """Raise unless the parameters are what they were.

    Raises:
        ChangedModelError: Some are not.
    """
    found = weight_sums(model)
    if odd := [name for name, sums in before.items() if found.get(name) != sums]:
        raise ChangedModelError(
            f"the cell {cell} left {odd[0]} other than it was, so nothing of the cell is kept: a "
            "fault of safetypin, please report it; a new run goes on with the cells that are done"
        )
