"""What training puts on a model beside its weights, and takes away again."""

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from safetypin.artifacts import UserError


def check_bare(model: PreTrainedModel, *, trains_weights: bool) -> None:
    """Raise unless the model has all weights in memory and no adapter.

    Raises:
        UserError: It carries adapters, is offloaded, or is quantised and would be trained.
    """
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") or hasattr(module, "lora_A"):
            raise UserError(
                f"{type(model).__name__} carries an unmerged adapter at {name}; merge it (model = "
                "model.merge_and_unload()), or save the PEFT model around it"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UserError(f"{name} is not in memory; load the model without disk offload")
        is_number = parameter.is_floating_point() and parameter.element_size() >= 2
        if trains_weights and not is_number:
            raise UserError(
                f"{name} is quantised ({parameter.dtype}) and cannot be trained; load the model in "
                "bfloat16 or float32, or train adapters (--protect lora)"
            )


@contextlib.contextmanager
def only_weights_change(model: PreTrainedModel) -> Iterator[None]:
    """Leave modes, gradients, config and methods of the model as they were, also after an error.

    Which weights require gradients is as before after an error only: adapters leave the others off.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    use_cache = getattr(model.config, "use_cache", None)
    own_forward = model.__dict__.get("forward")
    try:
        yield
    except BaseException:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
        raise
    finally:
        model.train(modes[0][1])  # also what was added inside
        for parameter, _ in flags:
            parameter.grad = None
        if use_cache is not None:
            model.config.use_cache = use_cache
        # mixed precision puts a forward of its own on the model
        model.__dict__.pop("_original_forward", None)
        if own_forward is None:
            model.__dict__.pop("forward", None)
        else:
            model.forward = own_forward
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def recomputing(model: PreTrainedModel, *, wanted: bool) -> Iterator[None]:
    """Compute each block twice while in the block, to hold fewer activations.

    Raises:
        UserError: The model cannot do this.
    """
    if not wanted:
        yield
        return
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} has no gradient checkpointing; leave --gradient-checkpointing "
            "out and use a smaller --batch-size"
        )
    # the older names are deprecated, the newer not in every version
    newer = hasattr(model, "activation_checkpointing_enable")
    kind = "activation" if newer else "gradient"
    with _embeddings_as_before(model):
        getattr(model, f"{kind}_checkpointing_enable")()
        try:
            yield
        finally:
            getattr(model, f"{kind}_checkpointing_disable")()


@contextlib.contextmanager
def _embeddings_as_before(model: PreTrainedModel) -> Iterator[None]:
    """Take away the hooks that come to the input embeddings while in the block.

    transformers, and PEFT beside it, make the embeddings require gradients by a hook, and leave it.
    """
    hooks = model.get_input_embeddings()._forward_hooks
    before = set(hooks)
    try:
        yield
    finally:
        for key in set(hooks) - before:
            del hooks[key]
