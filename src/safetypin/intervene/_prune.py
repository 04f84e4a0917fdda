"""Prune a set of weights: hold them at zero, or at a reference model's values.

The published code prunes a model for good and saves it; here the change lasts as long as a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from safetypin.artifacts import ArtifactMismatchError, WeightMask


def check_mask(model: PreTrainedModel, mask: WeightMask) -> None:
    """Raise unless every weight of the mask is in the model, in the same shape.

    Raises:
        ArtifactMismatchError: A name or shape differs, or the mask is in rotated coordinates.
    """
    if mask.space != "weights":
        raise ArtifactMismatchError(
            f"the mask is in the basis {mask.space}, not over weights; only Warp(basis, mask) "
            "(--protect warp) can use it"
        )
    check_shapes(model, mask)


def check_shapes(model: PreTrainedModel, mask: WeightMask) -> None:
    """Raise unless every matrix of the mask is in the model, in the same shape.

    Raises:
        ArtifactMismatchError: A name or shape differs.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, members in mask.tensors.items():
        if name not in shapes:
            raise ArtifactMismatchError(
                f"the mask is of another model: {type(model).__name__} has no weight {name!r}"
            )
        if shapes[name] != members.shape:
            raise ArtifactMismatchError(
                f"the mask is of another model: {name} is {tuple(members.shape)} in the mask and "
                f"{tuple(shapes[name])} in the model"
            )


@contextmanager
def pruned(
    model: PreTrainedModel, mask: WeightMask, *, reference: PreTrainedModel | None = None
) -> Iterator[PreTrainedModel]:
    """Hold the masked weights at zero while in the block, then put them back bit for bit.

    Args:
        model: Changed in place; only the removed values are kept aside.
        mask: The weights to remove.
        reference: Take this model's values instead of zero.

    Raises:
        ArtifactMismatchError: The mask or the reference is of another model.
    """
    check_mask(model, mask)
    if reference is not None:
        check_mask(reference, mask)
    weights = {name: model.get_parameter(name) for name in mask.tensors}
    removed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                index = mask.tensors[name].flatten().nonzero().squeeze(1).to(weight.device)
                flat = weight.detach().view(-1)
                removed[name] = (index, flat[index])
                if reference is None:
                    flat[index] = 0
                else:
                    other = reference.get_parameter(name).detach().flatten().to(weight.device)
                    flat[index] = other[index].to(weight.dtype)
        yield model
    finally:
        with torch.no_grad():
            for name, (index, values) in removed.items():
                weights[name].detach().view(-1)[index] = values
