"""Answers of a model some of whose units act as another model's do.

Dynamic activation patching, Chen et al. 2024 (arXiv:2406.14144), sec. 4: for every token the source
model reads what the patched model has written so far, with a key-value cache of its own, and its
activations at the chosen units take the place of the patched model's. The tokens are the patched
model's, so both always read the same text.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import NeuronSet, Prompt, PromptSet, Response, UserError
from safetypin.evaluate._generate import (
    OnBatch,
    batched,
    cut_answer,
    end_tokens,
    make_response,
    padded_left,
    tokenized_requests,
)
from safetypin.hooks import Call, Patch, Site, at_rest, patch_units, read_units
from safetypin.models import UnitSite, check_activations, check_neurons, check_same_units


def generate_patched(
    model: PreTrainedModel,
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet | Iterable[Prompt | str],
    neurons: NeuronSet,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    plain: bool = False,
    system: str | None = None,
    done: Mapping[int, Response] | None = None,
    on_batch: OnBatch | None = None,
) -> list[Response]:
    """Let a model answer greedily while some of its units take another model's activations.

    With an empty set these are the model's own answers; with all neurons of two models that differ
    in nothing but how their neurons come about, the source's.

    Args:
        model: The model that writes, such as the unaligned one. Nothing stays on it.
        source: The model whose activations are taken, such as the aligned one.
        tokenizer: Of both.
        prompts: The requests.
        neurons: Which units, at site `neuron` or `residual`.
        max_new_tokens: Where an answer is cut off.
        batch_size: Prompts in a batch; in float32 the answers do not depend on it.
        plain: Use no chat template.
        system: System prompt.
        done: Answers that are known already, by the prompt's index.
        on_batch: Called with the indices and answers of every new batch.

    Raises:
        ArtifactMismatchError: The set is of other models, or these differ in shape.
        UserError: A prompt does not fit, or the units are of experts, whose tokens differ.
    """
    pair_of = _pairs(model, source, neurons)
    asked = [Prompt(text=item) if isinstance(item, str) else item for item in prompts]
    tokens = tokenized_requests(
        model, tokenizer, asked, max_new_tokens=max_new_tokens, plain=plain, system=system
    )
    ends = end_tokens(model, tokenizer)
    answers = dict(done or {})
    for chosen in batched(tokens, batch_size):
        if all(index in answers for index in chosen):
            continue
        ids, mask = padded_left([tokens[index] for index in chosen], tokenizer)
        with at_rest(model), at_rest(source), torch.inference_mode():
            rows = _greedy(pair_of(), ids, mask, ends, max_new_tokens)
        responses = [
            make_response(tokenizer, asked[index].text, *cut_answer(row, ends))
            for index, row in zip(chosen, rows, strict=True)
        ]
        answers.update(zip(chosen, responses, strict=True))
        if on_batch is not None:
            on_batch(chosen, responses)
    return [answers[index] for index in range(len(asked))]


@contextmanager
def patched(
    model: PreTrainedModel, source: PreTrainedModel, neurons: NeuronSet
) -> Iterator[PreTrainedModel]:
    """Let some units of a model act as the source's do, in every forward pass inside the block.

    The source reads the same tokens first. For passes over whole texts, as a perplexity needs; a
    generation with a cache is `generate_patched`, where the source keeps a cache of its own.

    Raises:
        ArtifactMismatchError: The set is of other models, or these differ in shape.
        UserError: The units cannot be replaced.
    """
    pair = _pairs(model, source, neurons)()
    with at_rest(source), ExitStack() as undo:
        undo.callback(model.register_forward_pre_hook(pair.follow, with_kwargs=True).remove)
        undo.enter_context(pair.patching())
        yield model


def patchable(model: PreTrainedModel, neurons: NeuronSet) -> dict[str, UnitSite]:
    """Return the places of a set whose units can be replaced.

    Raises:
        ArtifactMismatchError: The set is of another model.
        UserError: Its units cannot be replaced.
    """
    check_activations(neurons.site)
    places = check_neurons(model, neurons)
    for name, members in neurons.tensors.items():
        if members.ndim > 1 and members.any():
            raise UserError(
                f"the units at {name} are of experts, which read other tokens in each model, so "
                "they cannot be patched; use a set at site residual"
            )
    return places


def _pairs(
    model: PreTrainedModel, source: PreTrainedModel, neurons: NeuronSet
) -> Callable[[], "_Pair"]:
    """Check that the source's units can stand for the model's; return what pairs them afresh."""
    places = patchable(model, neurons)
    check_same_units(model, source, neurons.site)
    theirs = check_neurons(source, neurons)
    units = {n: m.nonzero()[:, 0] for n, m in neurons.tensors.items() if m.any()}
    return lambda: _Pair(model, source, _where(places), _where(theirs), units)


def _where(places: Mapping[str, UnitSite]) -> dict[str, Site]:
    return {name: (place.module, place.parameter) for name, place in places.items()}


class _Pair:
    """Two models that read the same tokens, each with its own cache."""

    def __init__(
        self,
        model: PreTrainedModel,
        source: PreTrainedModel,
        places: dict[str, Site],
        theirs: dict[str, Site],
        units: Mapping[str, Int[Tensor, " chosen"]],
    ) -> None:
        self.model, self._source = model, source
        self._places = {name: places[name] for name in units}
        self._theirs = {name: theirs[name] for name in units}
        self._units = units
        self._taken: dict[str, Tensor] = {}
        self._caches: dict[int, Any] = {}

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the patched model's logits for the next token."""
        if self._units:
            with read_units(self._theirs, self._take):
                self._run(self._source, inputs)
        with self.patching():
            return self._run(self.model, inputs)

    def patching(self) -> AbstractContextManager[None]:
        """Return the block in which the model's units take what was read last."""
        return patch_units(self._places, self._patches())

    def follow(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Let the source read what the model is about to read."""
        if not self._units:
            return
        there = self._source.device
        given = [x.to(there) if isinstance(x, Tensor) else x for x in args]
        named = {name: x.to(there) if isinstance(x, Tensor) else x for name, x in kwargs.items()}
        with read_units(self._theirs, self._take):
            self._source(*given, **named)

    def _take(self, call: Call) -> None:
        self._taken[call.name] = call.x[..., self._units[call.name].to(call.x.device)]

    def _patches(self) -> dict[str, Patch]:
        return {
            name: Patch(units.to(self.model.device), partial(self._given, name))
            for name, units in self._units.items()
        }

    def _given(self, name: str, x: Tensor) -> Tensor:
        return self._taken[name].to(x)

    def _run(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        accepted = inspect.signature(model.forward).parameters
        keep = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        output = model(
            **{name: value.to(model.device) for name, value in inputs.items()},
            past_key_values=self._caches.get(id(model)),
            use_cache=True,
            **keep,
        )
        self._caches[id(model)] = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits


def _greedy(
    pair: _Pair,
    ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"],
    ends: set[int],
    max_new_tokens: int,
) -> Sequence[list[int]]:
    """Return the new tokens of each row, with whatever follows an end token."""
    stops = torch.tensor(sorted(ends), dtype=torch.long)
    ended = torch.zeros(len(ids), dtype=torch.bool)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    found = []
    for _ in range(max_new_tokens):
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        ids = pair.read(inputs).argmax(dim=-1, keepdim=True).cpu()
        found.append(ids)
        ended |= torch.isin(ids[:, 0], stops)
        if ended.all():
            break
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    rows: list[list[int]] = torch.cat(found, dim=1).tolist()
    return rows
