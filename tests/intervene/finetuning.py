"""What the tests of fine-tuning share: a tiny model, its tokenizer, data, masks, a comparison."""

import gc

import torch

from conftest import VOCABULARY
from safetypin.artifacts import Prompt, PromptSet, WeightMask
from safetypin.intervene import Training
from safetypin.models import block_weights
from toys import WORDS, word_level

SMALL = Training(max_steps=4, batch_size=2, accumulation=1, learning_rate=1e-2, max_length=48)
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "weight_decay": 0.1, "learning_rate": 0.1},
    "adam": {"optimizer": "adamw_torch", "weight_decay": 0.0},
    "adamw": {"optimizer": "adamw_torch", "weight_decay": 0.1},
}
WAYS = {
    "accumulation": {"accumulation": 3, "max_grad_norm": 0.0},
    "clipping": {"max_grad_norm": 0.01},
    "warm-up and cosine": {"warmup_ratio": 0.5, "schedule": "cosine"},
}
DATA = PromptSet(
    name="doors",
    prompts=tuple(
        Prompt(text=f"paint the {word} door", response=f"Sure , {word} first sand it then wait")
        for word in WORDS[:10]
    ),
)


def tokenizer():
    made = word_level(bos=True)
    assert len(made) <= VOCABULARY
    return made


def mask_of(model, names=None, share=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(model.get_parameter(name).shape, generator=generator) < share
        for name in names or block_weights(model)
    }
    return WeightMask(tensors=tensors, model_id="m")


def columns_of(model, columns=(1, 5)):
    """Return all weights of some input columns of every matrix."""
    tensors = {}
    for name, weight in block_weights(model).items():
        members = torch.zeros(weight.weight.shape, dtype=torch.bool)
        if weight.layout == "conv1d":
            members[list(columns)] = True
        else:
            members[..., list(columns)] = True
        tensors[name] = members
    return WeightMask(tensors=tensors, model_id="m")


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def assert_kept_inside(model, before, mask):
    """Every masked weight is what it was, bit for bit."""
    for name, members in mask.tensors.items():
        now = model.get_parameter(name).detach()
        assert torch.equal(bits(now[members]), bits(before[name].to(now.dtype)[members])), name


def assert_changed_outside(model, before, mask):
    """Most weights beside the masked ones, in every masked matrix, are other than they were."""
    for name, members in mask.tensors.items():
        moved = model.get_parameter(name).detach() != before[name]
        assert moved[~members].float().mean() > 0.5, name


def stop_at(step):
    """Return what interrupts a training once a step is done."""

    def on_step(number, of, loss):
        if number == step:
            raise KeyboardInterrupt

    return on_step


# The Trainer collects garbage at its end: 0.3 s over the objects of all libraries, four times what
# training a tiny model takes.
gc.freeze()
