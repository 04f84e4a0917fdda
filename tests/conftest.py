"""Tiny models of every architecture family, built from configs in milliseconds."""

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from safetypin.artifacts import Batch

# The same examples on every machine: a red run is of the change. `--hypothesis-profile default`
# draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"moe_intermediate_size": 12, "num_experts_per_tok": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

CONFIGS = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": lambda: Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=5.0),
    "gemma3": lambda: Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=8),
    "phi3": lambda: Phi3Config(**GROUPED),
    "olmo2": lambda: Olmo2Config(**GROUPED),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=64, n_inner=24
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES),
    "mixtral": lambda: MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **EXPERTS, num_experts=4, shared_expert_intermediate_size=20
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(**EXPERTS, num_experts=4, head_dim=8),
}
# of a family above, by what its page does not tell apart: Llama 3.1 and after turn positions slower
VARIANTS = {"llama3": lambda: LlamaConfig(**GROUPED, rope_parameters=LLAMA3_ROPE)}
SCORED_FAMILIES = (
    "llama", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "mixtral", "qwen2_moe",
)  # fmt: skip


def build(family: str, dtype: torch.dtype = torch.float32):
    """Return a tiny random model whose gradients and activations are of ordinary size."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config((CONFIGS | VARIANTS)[family](), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.to(dtype).eval()


def examples(count: int = 5, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return prompts and responses of various lengths, as token ids."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    return [(ids(2, 7), ids(2, 9)) for _ in range(count)]


def make_batches(rows, batch_size: int = 8, side: str = "right") -> list[Batch]:
    """Return padded batches of prompts and responses."""
    return [_pad(rows[i : i + batch_size], side) for i in range(0, len(rows), batch_size)]


def _pad(rows, side: str) -> Batch:
    length = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for index, (prompt, response) in enumerate(rows):
        size = len(prompt) + len(response)
        start = length - size if side == "left" else 0
        ids[index, start : start + size] = torch.tensor(prompt + response)
        mask[index, start : start + size] = 1
        counted[index, start + len(prompt) : start + size] = True
    return Batch(ids, mask, counted, counted)


def adapted(model, config):
    """Return a PEFT model; PEFT asks transformers something that it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


@pytest.fixture
def tiny_model() -> Callable:
    return build


@pytest.fixture
def tiny_llama():
    return build("llama")


@pytest.fixture
def batch():
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    counted = torch.arange(9).expand(2, 9) >= 4
    return Batch(ids, torch.ones_like(ids), counted)
