"""Hooks on weights: their inputs, their gradients, and what autograd keeps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from safetypin.artifacts import UserError

EXPERTS = "_experts_implementation"  # of a transformers config
Gradient = Callable[[Tensor], None]
Site = tuple[nn.Module, str]  # a module and the name of its weight


class Call(NamedTuple):
    """One application of one weight matrix.

    Attributes:
        name: The weight's parameter name.
        x: The input: `(batch, seq, d_in)`, for an expert `(tokens, d_in)`.
        expert: Which expert of a three-dimensional weight was applied, else None.
        tokens: For an expert, the place of each row of `x` among the batch * seq tokens.
    """

    name: str
    x: Float[Tensor, "..."]
    expert: int | None = None
    tokens: Int[Tensor, " tokens"] | None = None


# what makes the output of an activation function from its node in the graph of autograd
ACTIVATIONS: dict[str, Callable[[Any], Tensor]] = {
    "SiluBackward0": lambda node: functional.silu(node._saved_self.detach()),
    "GeluBackward0": lambda node: functional.gelu(
        node._saved_self.detach(), approximate=node._saved_approximate
    ),
}
OnCall = Callable[[Call], Gradient | None]


@contextmanager
def watch(sites: Mapping[str, Site], on_call: OnCall) -> Iterator[None]:
    """Call `on_call` at each use of each weight, while in the block.

    What `on_call` returns, if anything, is called in the backward pass with the gradient of the
    weight's output: `(batch, seq, d_out)`, for an expert `(tokens, d_out)`.

    Args:
        sites: By parameter name, the module and the weight's name in it. A weight of three
            dimensions is a mixture of experts: its module must be called with the hidden states
            and the chosen experts, and is run expert by expert while in the block.
        on_call: Sees the input just as the weight does, after all other hooks.
    """
    experts = {name: site for name, site in sites.items() if _weight(site).ndim == 3}
    with ExitStack() as undo:
        for name, (module, _) in sites.items():
            if name not in experts:
                hook = _layer_hook(name, on_call)
                undo.callback(module.register_forward_hook(hook, prepend=True).remove)
        if experts:
            undo.enter_context(_watch_experts(experts, on_call))
        yield


@contextmanager
def embeddings_with_gradient(model: nn.Module) -> Iterator[None]:
    """Let gradients flow from the embeddings on, with no parameter requiring one."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)

    handle = embeddings.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Keep of each block only its input, and run it again when the backward pass needs the rest.

    Layers inside are then called twice: first without gradients (`torch.is_grad_enabled()` is
    false), then with them. A block that reads anything else with a gradient, or
    a cache, is left as it is.
    """
    with ExitStack() as undo:
        for block in blocks:
            own = block.__dict__.get("forward")  # accelerate puts one there
            restore = partial(block.__dict__.pop, "forward")
            undo.callback(partial(setattr, block, "forward", own) if own else restore)
            block.forward = partial(_forward_twice, block.forward)
        yield


def _forward_twice(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    if not args or any(_forbids_recomputing(leaf) for leaf in tree_leaves((args[1:], kwargs))):
        return forward(*args, **kwargs)

    def run(hidden: Tensor) -> object:
        return forward(hidden, *args[1:], **kwargs)

    return checkpoint(run, args[0], use_reentrant=True, preserve_rng_state=False)


@contextmanager
def activations_remade() -> Iterator[None]:
    """Of an activation function, let autograd hold the input alone, and make the output again.

    The backward pass needs both where the output is a factor of something, as in a gated MLP: a
    sixth of what a block of Llama keeps. Made again, the output has the same bits.
    """

    def pack(tensor: Tensor) -> object:
        node = tensor.grad_fn
        return node if node is not None and node.name() in ACTIVATIONS else tensor

    def unpack(held: Any) -> Tensor:  # noqa: ANN401
        return held if isinstance(held, Tensor) else ACTIVATIONS[held.name()](held)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _forbids_recomputing(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, Cache)  # it would be filled twice


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode with no parameter requiring a gradient, then back.

    Each module's mode, each parameter's flag and every stored gradient are as before at the end.
    Evaluation mode also turns gradient checkpointing off.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def _weight(site: Site) -> Tensor:
    return site[0].get_parameter(site[1])


def _follow(call: Call, output: Tensor, on_call: OnCall) -> None:
    on_gradient = on_call(call)
    if on_gradient is not None:
        output.register_hook(on_gradient)


def _layer_hook(name: str, on_call: OnCall) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        _follow(Call(name, args[0]), output, on_call)

    return hook


@contextmanager
def _watch_experts(experts: Mapping[str, Site], on_call: OnCall) -> Iterator[None]:
    modules = {module for module, _ in experts.values()}
    configs = {id(module.config): module.config for module in modules}.values()
    calls = _ExpertCalls(experts, on_call)
    with ExitStack() as undo:
        for config in configs:
            # the fused implementations apply all experts in one call that shows no rows
            undo.callback(setattr, config, EXPERTS, getattr(config, EXPERTS))
            setattr(config, EXPERTS, "eager")
        for module in modules:
            for handle in (
                module.register_forward_pre_hook(calls.begin, with_kwargs=True),
                module.register_forward_hook(calls.end, always_call=True),
            ):
                undo.callback(handle.remove)
        yield


class _ExpertCalls(TorchFunctionMode):
    """Sees each `linear(rows, weight[expert])` and finds out which tokens the rows are."""

    def __init__(self, experts: Mapping[str, Site], on_call: OnCall) -> None:
        super().__init__()
        self._on_call = on_call
        self._names = {id(_weight(site)): name for name, site in experts.items()}
        self._by_storage: dict[int, list[Tensor]] = {}
        for module in {module for module, _ in experts.values()}:
            for weight in module.parameters(recurse=False):
                same = self._by_storage.setdefault(weight.untyped_storage().data_ptr(), [])
                same.append(weight)
        self._active = ExitStack()

    # On only while the experts run, in whichever thread that is: a mode around everything would
    # be off in the backward pass, where recomputed blocks run.
    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the hidden states and each token's experts: the module's first two arguments."""
        self._hidden, self._chosen, *_ = [*args, *kwargs.values()]
        self._visit: tuple[int, Tensor] | None = None  # the expert at work and its tokens
        self._active.enter_context(self)

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Tensor | None) -> None:
        """Stop watching, also after an error."""
        self._active.close()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if func is functional.linear:
            for weight in self._by_storage.get(args[1].untyped_storage().data_ptr(), ()):
                offset = args[1].storage_offset() - weight.storage_offset()
                if args[1].shape == weight.shape[1:] and 0 <= offset < weight.numel():
                    assert isinstance(output, Tensor)
                    self._see(weight, offset // weight.stride(0), args[0], output)
        return output

    def _see(self, weight: Tensor, expert: int, x: Tensor, output: Tensor) -> None:
        if self._visit is None or self._visit[0] != expert:
            tokens = (self._chosen == expert).T.nonzero()[:, 1]
            if len(tokens) != len(x) or not _identical(self._hidden[tokens], x):
                raise UserError(
                    "the experts of this model read their tokens in an order that is not known; "
                    "leave them out with targets=('attn_*', 'ffn_*')"
                )
            self._visit = expert, tokens
        name = self._names.get(id(weight))
        if name is not None:
            _follow(Call(name, x, *self._visit), output, self._on_call)


def _identical(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
