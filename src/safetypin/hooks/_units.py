"""Hooks that read and replace units: the input of a layer, or the output of a module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from safetypin.hooks._calls import Call, Site, watch

OUTPUT = ""  # in the place of a weight's name: what the module returns is meant


class Patch(NamedTuple):
    """What is put in the place of some units.

    Attributes:
        units: Which ones.
        values: Given the whole activation, the values at `units`, broadcast over the rest.
    """

    units: Int[Tensor, " chosen"]
    values: Callable[[Tensor], Tensor]


class _Enough(BaseException):
    """All that is to be read has been read. No `Exception`: nobody else may catch it."""


@contextmanager
def read_units(sites: Mapping[str, Site], on_call: Callable[[Call], None]) -> Iterator[None]:
    """Show the units of each site at each use, while in the block.

    Args:
        sites: By name, a module and the name of the weight whose input is meant, or `OUTPUT`.
        on_call: Sees the activation as the model uses it, after all other hooks.
    """

    def forward(call: Call) -> None:
        on_call(call)

    inputs = {name: site for name, site in sites.items() if site[1] != OUTPUT}
    with ExitStack() as undo:
        for name, (module, weight) in sites.items():
            if weight == OUTPUT:
                hook = partial(_show_output, name, on_call)
                undo.callback(module.register_forward_hook(hook).remove)
        undo.enter_context(watch(inputs, forward))
        yield


def _show_output(
    name: str, on_call: Callable[[Call], None], module: nn.Module, args: object, output: object
) -> None:
    on_call(Call(name, first_of(output)))


def first_of(output: object) -> Tensor:
    """Return a module's output, the first part of it where it returns several."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


@contextmanager
def stop_after(module: nn.Module) -> Iterator[Callable[..., None]]:
    """Give a function that runs the model up to and with `module`, and no further."""

    def enough(*_: object) -> None:
        raise _Enough

    # last, so that whoever reads this module has read it
    handle = module.register_forward_hook(enough)

    def run(forward: Callable[[], object]) -> None:
        try:
            forward()
        except _Enough:
            return

    try:
        yield run
    finally:
        handle.remove()


@contextmanager
def patch_units(sites: Mapping[str, Site], patches: Mapping[str, Patch]) -> Iterator[None]:
    """Replace units of the sites while in the block, after the hooks of others.

    The activation itself is never written to: what others hold of it stays as it is.
    """
    with ExitStack() as undo:
        for name, patch in patches.items():
            module, weight = sites[name]
            if weight == OUTPUT:
                handle = module.register_forward_hook(partial(_patch_output, patch))
            else:
                handle = module.register_forward_pre_hook(partial(_patch_input, patch))
            undo.callback(handle.remove)
        yield


def _patched(patch: Patch, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    changed = x.clone()
    changed[..., patch.units] = patch.values(x).to(changed)
    return changed


def _patch_input(patch: Patch, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_patched(patch, args[0]), *args[1:])


def _patch_output(patch: Patch, module: nn.Module, args: object, output: object) -> object:
    changed = _patched(patch, first_of(output))
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


@contextmanager
def gradients_masked(
    model: nn.Module, members: Mapping[str, Bool[Tensor, "..."]]
) -> Iterator[None]:
    """Set the gradient of every entry that is no member to zero as soon as it is there.

    What clips the gradients, or logs their norm, then sees those of the members alone.
    """

    def mask(kept: Shaped[Tensor, "..."], parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(kept.to(parameter.grad.device))

    with ExitStack() as undo:
        for name, kept in members.items():
            parameter = model.get_parameter(name)
            hook = partial(mask, kept)
            undo.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
        yield
