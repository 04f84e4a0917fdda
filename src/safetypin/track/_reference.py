"""The model before the training, as a model in memory or a folder that is read bit by bit."""

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask, model_hash
from safetypin.models import model_fingerprint
from safetypin.track._checkpoints import as_checkpoint
from safetypin.track._state import NotWholeError, by_parameter, parameter_names, plain, read_state

Matrices = Float[Tensor, "matrices d_out d_in"]
AnyTensor = Shaped[Tensor, "..."]
Index = Int[Tensor, " k"]


class Places(NamedTuple):
    """The members of a set, one a place: index of the matrix, row (output) and column (input)."""

    matrix: Index
    rows: Index
    columns: Index


class Reference:
    """Weights to compare with, one at a time, in float32 and with the outputs as rows.

    Attributes:
        model: The model, or its skeleton without values where it is read from a folder.
        weights: By parameter name.
        name: What the user calls it.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
        self.model, self.weights, self.name = model, weights, name
        self._shapes = {key: value.shape for key, value in Parameters(model).items()}

    def oriented(self, name: str, tensor: AnyTensor) -> Matrices:
        """Return a weight as float32 matrices (matrices, d_out, d_in): one, or one an expert."""
        values = tensor.detach().to("cpu", torch.float32)
        values = values.mT if self.is_transposed(name) else values
        return values.reshape(-1, *values.shape[-2:])

    def oriented_mask(self, name: str, members: Bool[Tensor, "..."]) -> Bool[Tensor, "d_out d_in"]:
        """Return the mask of one matrix with the outputs as rows."""
        return (members.mT if self.is_transposed(name) else members).cpu()

    def original(self, name: str, matrices: Matrices) -> Float[Tensor, "..."]:
        """Undo `oriented`: return the values in the weight's own shape."""
        values = matrices.mT if self.is_transposed(name) else matrices
        return values.reshape(self._shapes[name])

    def matrices(self, name: str) -> Matrices:
        """Return one weight, as `oriented` does.

        Raises:
            UserError: The reference is a folder without it, or holds it quantised.
        """
        try:
            weight = self.weights[name]
        except KeyError as error:
            raise UserError(
                f"the reference {self.name} has no weight {name}, which its config.json promises"
            ) from error
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
            raise UserError(
                f"{name} of the reference {self.name} is quantised or not in memory "
                f"({weight.dtype}, {weight.device}); load it in float32 or bfloat16"
            )
        return self.oriented(name, weight)

    def grid(self, name: str) -> tuple[int, int, int]:
        """Return how many matrices a weight is, and their d_out and d_in."""
        shape = self.shape(name)
        d_out, d_in = shape[-2:][::-1] if self.is_transposed(name) else shape[-2:]
        return math.prod(shape[:-2]), d_out, d_in

    def places(self, name: str, members: Bool[Tensor, "..."]) -> Places:
        """Return where a set's members are in the matrices of a weight, in the mask's order."""
        height, width = members.shape[-2:]
        # ten times as fast as torch's `nonzero`
        flat = torch.from_numpy(np.flatnonzero(members.cpu().numpy()))
        matrix, place = flat // (height * width), flat % (height * width)
        first, second = place // width, place % width
        rows, columns = (second, first) if self.is_transposed(name) else (first, second)
        return Places(matrix, rows, columns)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's own shape."""
        return tuple(self._shapes[name])

    def is_transposed(self, name: str) -> bool:
        """Whether the weight is stored as (d_in, d_out), as GPT-2's are."""
        module = self.model.get_submodule(name.rpartition(".")[0])
        return isinstance(getattr(module, "base_layer", module), Conv1D)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    @functools.cached_property
    def fingerprint(self) -> str:
        """The 12 hex digits of `model_id`."""
        return model_fingerprint(_Values(self))

    def check_mask(self, mask: WeightMask, called: str) -> None:
        """Raise unless a set is of this model's weights.

        Raises:
            ArtifactMismatchError: It is of another model, or of rotated coordinates.
        """
        if mask.space != "weights":
            raise ArtifactMismatchError(
                f"{called} is a set of coordinates in basis {mask.space}, not of weights"
            )
        for name, members in mask.tensors.items():
            if name not in self or self.shape(name) != tuple(members.shape):
                held = self.shape(name) if name in self else "not there"
                raise ArtifactMismatchError(
                    f"{called} has {name} of shape {tuple(members.shape)}, which in the reference "
                    f"{self.name} is {held}: the set is of another model"
                )
        if model_hash(mask.model_id) != self.fingerprint:
            raise ArtifactMismatchError(
                f"{called} is a set of {mask.model_id}, not of the reference {self.name} "
                f"(#{self.fingerprint}); drift is counted from the model that was scored"
            )


Before = Reference | PreTrainedModel | Path | str


def open_reference(reference: Before) -> Reference:
    """Return the reference of a model in memory, or of a folder with a full model.

    Raises:
        UserError: The folder holds no full model, or is not whole.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, nn.Module):
        name = str(getattr(reference, "name_or_path", "") or type(reference).__name__)
        return Reference(reference, Parameters(reference), name)
    folder = Path(reference)
    if as_checkpoint(folder).kind != "full":
        raise UserError(
            f"the reference {folder} is an adapter; give the model that the training began with"
        )
    try:
        model = _skeleton(folder)
        weights = by_parameter(read_state(folder), model)
    except NotWholeError as error:
        raise UserError(f"the reference {folder} is not whole: {error}") from error
    return Reference(model, weights, str(folder))


class Parameters(Mapping[str, Tensor]):
    """A model's parameters by name, also where PEFT put adapters around them."""

    def __init__(self, model: nn.Module) -> None:
        self._found = {
            plain(name): parameter
            for name, parameter in model.named_parameters()
            if ".lora_" not in name
        }

    def __getitem__(self, name: str) -> AnyTensor:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _skeleton(folder: Path) -> PreTrainedModel:
    """Return the model of a folder's config.json without values, which takes no memory."""
    try:
        config = AutoConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError) as error:
        raise NotWholeError(f"its config.json makes no model ({error})") from error


class _Values(nn.Module):
    """What `model_fingerprint` reads of a model, where the values are not in the module."""

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self._reference = [reference]  # a list hides it from nn.Module

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        reference = self._reference[0]
        for name in parameter_names(reference.model):
            yield name, nn.Parameter(reference.weights[name].detach(), requires_grad=False)
