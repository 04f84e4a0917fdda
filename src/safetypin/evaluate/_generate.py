"""Answers, generated greedily and in batches, resumable batch by batch."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, Response, UserError
from safetypin.evaluate._prefix import Prefix
from safetypin.evaluate._sampling import Draws
from safetypin.hooks import at_rest
from safetypin.models import is_out_of_memory
from safetypin.prompts import encode, window

OnBatch = Callable[[list[int], list[Response]], None]
log = logging.getLogger(__name__)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet | Iterable[Prompt | str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    plain: bool = False,
    system: str | None = None,
    done: Mapping[int, Response] | None = None,
    on_batch: OnBatch | None = None,
) -> list[Response]:
    """Let the model answer each prompt greedily, whatever its own generation settings say.

    Prompts of similar length share a batch, so that little is padded; which ones does not depend
    on `done`, so an interrupted run that goes on gives the answers that it would have given.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: The requests.
        max_new_tokens: Where an answer is cut off.
        batch_size: Prompts in a batch. Halved where the memory does not suffice.
        plain: Use no chat template.
        system: System prompt.
        done: Answers that are known already, by the prompt's index.
        on_batch: Called with the indices and answers of every new batch.

    Returns:
        One response for each prompt, in their order.

    Raises:
        UserError: A prompt and its answer would not fit into the model's window.
    """
    asked = as_prompts(prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
    tokens = tokenized_requests(
        model, tokenizer, asked, max_new_tokens=max_new_tokens, plain=plain, system=system
    )
    return answer_rows(
        model,
        tokenizer,
        [prompt.text for prompt in asked],
        tokens,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        done=done,
        on_batch=on_batch,
    )


def as_prompts(prompts: PromptSet | Iterable[Prompt | str], **sizes: int) -> list[Prompt]:
    """Return prompts given as texts or as themselves, after a look at the sizes.

    Raises:
        UserError: A size is below 1, or one text is given in place of a list.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if isinstance(prompts, str):
        raise UserError("prompts must be a list, got one text; put it into a list")
    return [Prompt(text=item) if isinstance(item, str) else item for item in prompts]


def answer_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[str],
    tokens: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    done: Mapping[int, Response] | None,
    on_batch: OnBatch | None,
    draws: Draws | None = None,
) -> list[Response]:
    """Answer token rows in batches, greedily or by `draws`; `requests` are what is said of them."""
    answers = dict(done or {})
    prefix = None
    for chosen in batched(tokens, batch_size):
        if all(index in answers for index in chosen):
            continue
        rows = [tokens[index] for index in chosen]
        with at_rest(model), _greedy(model):
            if prefix is None:
                prefix = Prefix.of(model, tokens)
            drawn = draws and draws.of(chosen)
            outputs = _answer(model, tokenizer, rows, prefix, max_new_tokens, drawn)
        responses = [
            make_response(tokenizer, requests[index], ids, end)
            for index, (ids, end) in zip(chosen, outputs, strict=True)
        ]
        answers.update(zip(chosen, responses, strict=True))
        if on_batch is not None:
            on_batch(chosen, responses)
    return [answers[index] for index in range(len(tokens))]


def tokenized_requests(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Prompt],
    *,
    max_new_tokens: int,
    plain: bool = False,
    system: str | None = None,
    prefill: str | None = None,
) -> list[list[int]]:
    """Return the token ids of each templated request, with those of an answer's beginning.

    Raises:
        UserError: A prompt and its answer would not fit into the model's window.
    """
    limit, rows = window(model, tokenizer), []
    for index, prompt in enumerate(prompts):
        begun = dataclasses.replace(prompt, response=prefill)
        head, tail = encode(tokenizer, begun, plain=plain, system=system)
        ids = head + tail
        if len(ids) + max_new_tokens > limit:
            raise UserError(
                f"{prompt.named(index)} has {len(ids)} tokens and leaves no room for "
                f"{max_new_tokens} new ones in the model's window of {limit}: "
                f"{prompt.text[:60]!r}; shorten it, or use fewer --max-new-tokens"
            )
        rows.append(ids)
    return rows


def batched(tokens: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of every batch: prompts of similar length together."""
    order = sorted(range(len(tokens)), key=lambda index: (len(tokens[index]), index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else 0


def padded_left(
    rows: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return token ids padded on the left, and their attention mask."""
    return Prefix([], None).padded(rows, _pad(tokenizer))


def make_response(
    tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int], stopped: bool
) -> Response:
    """Return an answer, given its token ids without the end token."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Response(prompt=prompt, text=str(text), num_tokens=len(ids), stopped=stopped)


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    prefix: Prefix,
    max_new_tokens: int,
    draws: Draws | None,
) -> list[tuple[list[int], bool]]:
    """Return the new token ids of each row, without the end token, and whether there was one."""
    ends = end_tokens(model, tokenizer)
    ids, mask = prefix.padded(rows, _pad(tokenizer))
    width = ids.shape[1]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=_pad(tokenizer),
    )
    how: dict[str, Any] = {"logits_processor": draws.processors()} if draws else {}
    try:
        with torch.inference_mode():
            if prefix.cache is not None:
                how["past_key_values"] = prefix.copies(len(rows))
            output = model.generate(  # type: ignore[operator]
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                **how,
            )
        return [cut_answer(new, ends) for new in output[:, width:].tolist()]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            raise UserError(
                f"the memory of {model.device} does not suffice for one prompt; use --dtype "
                "bfloat16, a smaller model or --device cpu"
            ) from error
    # outside of the handler: the error holds the frames, and they the memory
    torch.cuda.empty_cache()
    half = len(rows) // 2
    log.warning("out of memory: going on with batches of %d", half)
    parts = (range(half), range(half, len(rows)))
    return [
        answer
        for part in parts
        for answer in _answer(
            model,
            tokenizer,
            [rows[i] for i in part],
            prefix,
            max_new_tokens,
            draws and draws.of(part),
        )
    ]


@contextmanager
def _greedy(model: PreTrainedModel) -> Iterator[None]:
    """Set the model's own generation settings aside, all but its end tokens.

    What a call leaves open, transformers takes from them: Qwen2.5-Instruct, for one, brings a
    repetition penalty, which changes greedy answers too.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=getattr(own, "eos_token_id", None))
    try:
        yield
    finally:
        model.generation_config = own


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end an answer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = set(configured if isinstance(configured, list) else [configured])
    return {int(end) for end in ends | {tokenizer.eos_token_id} if end is not None}


def cut_answer(ids: list[int], ends: set[int]) -> tuple[list[int], bool]:
    """Return what is before the first end token, and whether there was one."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[:position], True
    return ids, False
