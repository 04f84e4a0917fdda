"""Tiny models before and after a training, and the folders that people keep them in."""

import copy
import dataclasses
import json
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from conftest import build
from safetypin.artifacts import WeightMask
from safetypin.models import block_weights, model_id

Q0 = "model.layers.0.self_attn.q_proj.weight"
UP1 = "model.layers.1.mlp.up_proj.weight"


def set_of(model, share=0.2, *, seed=0, names=None):
    """A random set of the model's block weights."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(weight.weight.shape, generator=generator) < share
        for name, weight in block_weights(model).items()
    }
    for name, members in tensors.items():
        if names is not None and name not in names:
            members.fill_(False)
    return WeightMask(tensors=tensors, model_id=model_id(model))


def largest(model, share=0.1):
    """The largest weights of every matrix."""
    tensors = {}
    for name, weight in block_weights(model).items():
        size = weight.weight.detach().abs()
        cut = size.flatten().kthvalue(round((1 - share) * size.numel())).values
        tensors[name] = size > cut
    return WeightMask(tensors=tensors, model_id=model_id(model))


def moved(model, sd=1e-2, *, seed=1, names=None):
    """A copy of the model with noise on the named weights, on all block weights without names."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names or block_weights(model):
            parameter = tuned.get_parameter(name)
            parameter += sd * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return tuned


def with_adapter(model, *, seed=1, scale=0.05, **options) -> PeftModel:
    """The model, copied, with a LoRA adapter that changes something."""
    options = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], **options}
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers calls deprecated
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
        adapted = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    return adapted


def save_adapter(adapted, folder, **settings):
    """Save an adapter as PEFT does, and change its settings afterwards."""
    adapted.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def save_full(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def merged(adapted):
    """The plain model with the adapter added to its weights."""
    return copy.deepcopy(adapted).merge_and_unload()


def weights_of(model, masks):
    """The weights of a model, by the names of a mask, in float64."""
    return {name: model.get_parameter(name).detach().double() for name in masks.tensors}


def only(mask, *names):
    """The part of a set that is in the named weights."""
    tensors = {
        name: members if name in names else torch.zeros_like(members)
        for name, members in mask.tensors.items()
    }
    return dataclasses.replace(mask, tensors=tensors)


__all__ = [
    "Q0", "UP1", "build", "largest", "merged", "moved", "only", "save_adapter", "save_full",
    "set_of", "weights_of", "with_adapter",
]  # fmt: skip
