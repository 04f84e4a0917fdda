"""Which units a decoder's blocks have, and where they can be read and replaced.

As with weights, a place is known by its role: what projects the MLP's hidden vector down, the
module of the block that it sits in, the attention. A model with a PEFT adapter is read through it.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from safetypin.artifacts import SITES, ArtifactMismatchError, NeuronSet, UserError
from safetypin.models._identity import parameter_digest
from safetypin.models._layers import _blocks, _layout, _role

ACTIVATIONS = ("neuron", "residual")  # sites whose units a module reads or puts out
WRAPPED, PEFT_PREFIX = "base_layer", "base_model.model."
ADAPTER_PARTS = ("lora_", "ia3_", "modules_to_save")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UnitSite:
    """One place with units.

    Attributes:
        name: Of the module or parameter, as without an adapter.
        layer: Index of the block.
        module: Where the units are read.
        parameter: The weight whose input they are; "" where they are the module's output.
        shape: `(units,)`, or `(experts, units)`.
    """

    name: str
    layer: int
    module: nn.Module
    parameter: str
    shape: tuple[int, ...]

    @property
    def num_units(self) -> int:
        """Number of units."""
        return math.prod(self.shape)


def unit_sites(model: nn.Module, site: str = "neuron") -> dict[str, UnitSite]:
    """Return the places of a model's units by name, in model order.

    Args:
        model: A decoder of transformers, or a PEFT model over one.
        site: `neuron`, the inputs of the MLPs' down projections; `residual`, the outputs of the
            MLP blocks; `query`, the attention layers' rotated queries.

    Raises:
        UserError: An unknown site, or a model that has none.
    """
    if site not in SITES:
        raise UserError(f"unknown site {site!r}; choose one of {', '.join(SITES)}")
    find = {"neuron": _neurons, "residual": _residuals, "query": _queries}[site]
    found = {place.name: place for place in find(model)}
    if not found:
        raise UserError(
            f"no {site} of {type(model).__name__} is known: its blocks have no such part"
        )
    return found


def _down_projections(
    model: nn.Module,
) -> Iterator[tuple[int, nn.Module, str, nn.Module, str]]:
    """Yield block index, block, path in the block, module and weight's name of each."""
    width = model.config.get_text_config().hidden_size  # type: ignore[operator, union-attr]
    for layer, block in enumerate(_blocks(model)[1]):
        for path, module in block.named_modules():
            if WRAPPED in path or any(part in path for part in ADAPTER_PARTS):
                continue
            inner = getattr(module, WRAPPED, module)
            own = [name for name, _ in inner.named_parameters(recurse=False)]
            names = own if inner is module else ["weight"]
            for name in names:
                weight = inner.get_parameter(name)
                role = _role(block, path, name) if weight.ndim >= 2 else None
                layout = _layout(inner, weight)
                if role not in {"ffn_down", "expert_ffn_down"} or layout is None:
                    continue
                if width == weight.shape[-1 if layout == "conv1d" else -2]:
                    yield layer, block, path, inner, name


def _prefix(model: nn.Module) -> str:
    return _blocks(model)[0].removeprefix(PEFT_PREFIX)


def _neurons(model: nn.Module) -> Iterator[UnitSite]:
    for layer, _, path, module, name in _down_projections(model):
        weight = module.get_parameter(name)
        layout = _layout(module, weight)
        shape = {
            "linear": (weight.shape[-1],),
            "conv1d": (weight.shape[0],),
            "experts": (weight.shape[0], weight.shape[-1]),
        }[str(layout)]
        full = f"{_prefix(model)}.{layer}.{path}"
        yield UnitSite(
            name=full if name == "weight" else f"{full}.{name}",
            layer=layer,
            module=module,
            parameter=name,
            shape=shape,
        )


def _residuals(model: nn.Module) -> Iterator[UnitSite]:
    width = model.config.get_text_config().hidden_size  # type: ignore[operator, union-attr]
    seen = set()
    for layer, block, path, _, _ in _down_projections(model):
        outer = path.partition(".")[0]
        if (layer, outer) not in seen:
            seen.add((layer, outer))
            yield UnitSite(
                name=f"{_prefix(model)}.{layer}.{outer}",
                layer=layer,
                module=block.get_submodule(outer),
                parameter="",
                shape=(width,),
            )


def _queries(model: nn.Module) -> Iterator[UnitSite]:
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    heads = config.num_attention_heads
    for layer, block in enumerate(_blocks(model)[1]):
        for path, module in block.named_children():
            if "attention" in type(module).__name__.lower():
                size = getattr(module, "head_dim", None) or config.hidden_size // heads
                yield UnitSite(
                    name=f"{_prefix(model)}.{layer}.{path}",
                    layer=layer,
                    module=module,
                    parameter="",
                    shape=(heads * size,),
                )


def check_activations(site: str) -> None:
    """Raise unless the units of a site are activations, which can be read and replaced.

    A query coordinate is made inside the attention, after norms and rotation: no module puts it
    out, and what the attention puts out is something else.

    Raises:
        UserError: They are not.
    """
    if site not in ACTIVATIONS:
        raise UserError(
            f"units at site {site!r} are no activations that can be read or replaced; use a set at "
            f"site {' or '.join(ACTIVATIONS)} (safetypin contrast --site). Such a set can be "
            "trained alone: safetypin tune --protect sn-tune"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitShapes:
    """What two models must have in common to be compared unit by unit.

    Attributes:
        num_layers: Blocks with units.
        hidden_size: Width of the residual stream.
        shapes: Of the units of each place, by name.
    """

    num_layers: int
    hidden_size: int
    shapes: dict[str, tuple[int, ...]]

    def check(self, other: "UnitShapes") -> None:
        """Raise unless these are another model's too.

        Raises:
            ArtifactMismatchError: They are not; says what differs.
        """
        facts = {
            "layers": (self.num_layers, other.num_layers),
            "hidden size": (self.hidden_size, other.hidden_size),
        }
        for what, (mine, theirs) in facts.items():
            if mine != theirs:
                raise ArtifactMismatchError(
                    f"the two models differ in their {what}: {mine} and {theirs}; only models of "
                    "equal architecture, such as a base model and its fine-tune, can be compared "
                    "unit by unit"
                )
        for name, shape in self.shapes.items():
            found = other.shapes.get(name)
            if found != shape:
                raise ArtifactMismatchError(
                    f"the two models differ at {name}: {shape} units and {found}; only models of "
                    "equal architecture can be compared unit by unit"
                )


def unit_shapes(model: nn.Module, site: str = "neuron") -> UnitShapes:
    """Return the shapes of a model's units, which stay when the model is gone."""
    sites = unit_sites(model, site)
    return UnitShapes(
        num_layers=len({place.layer for place in sites.values()}),
        hidden_size=_width(model),
        shapes={name: place.shape for name, place in sites.items()},
    )


def check_same_units(first: nn.Module, second: nn.Module, site: str = "neuron") -> None:
    """Raise unless two models have the same units.

    Raises:
        ArtifactMismatchError: They do not; says what differs.
    """
    unit_shapes(first, site).check(unit_shapes(second, site))


def _width(model: nn.Module) -> int:
    return int(model.config.get_text_config().hidden_size)  # type: ignore[operator, union-attr]


def check_neurons(model: nn.Module, neurons: NeuronSet) -> dict[str, UnitSite]:
    """Return the places of a set's units in a model.

    Raises:
        ArtifactMismatchError: The model has no such units.
    """
    sites = unit_sites(model, neurons.site)
    for name, members in neurons.tensors.items():
        if name not in sites:
            raise ArtifactMismatchError(
                f"the set is of another model: {type(model).__name__} has no units at {name!r}"
            )
        if sites[name].shape != tuple(members.shape):
            raise ArtifactMismatchError(
                f"the set is of another model: {name} has {tuple(members.shape)} units in the set "
                f"and {sites[name].shape} in the model"
            )
    return sites


@torch.no_grad()
def base_fingerprint(model: nn.Module) -> str:
    """Return the fingerprint of a PEFT model's base, as it would be without the adapter.

    Raises:
        UserError: The model carries no adapter.
    """
    own = {}
    for name, parameter in model.named_parameters():
        if not any(f".{part}" in name for part in ADAPTER_PARTS):
            plain = name.removeprefix(PEFT_PREFIX).replace(f".{WRAPPED}", "")
            own[plain.replace(".original_module", "")] = parameter
    if len(own) == len(list(model.named_parameters())):
        raise UserError(
            f"{type(model).__name__} carries no adapter that could be turned off; give a second "
            "model as the reference"
        )
    digest = hashlib.sha256()
    for name in sorted(own):
        digest.update(parameter_digest(name, own[name]))
    return digest.hexdigest()[:12]
