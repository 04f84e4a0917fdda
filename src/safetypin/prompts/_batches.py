"""From prompts to padded token batches, with the tokens that count."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Batch, Prompt, PromptSet, UserError

COUNTED = ("response", "prompt", "last", "all", "predictive")


def render(
    tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False, system: str | None = None
) -> str:
    """Return the request as the model's chat template writes it, ready for an answer.

    Args:
        tokenizer: Its chat template is used.
        text: The request.
        plain: Use no template: the request and a line break.
        system: System prompt; the template's own default where None, and in its place an empty
            one where it is "".

    Raises:
        UserError: The tokenizer has no chat template and `plain` is not set, or the template
            knows no system prompt.
    """
    if plain:
        return f"{system}\n\n{text}\n" if system else f"{text}\n"
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template, so this is probably a base model; "
            "--plain sends prompts as plain text"
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )
    except TemplateError as error:
        advice = "use --plain" if system is None else "leave the system prompt out or use --plain"
        raise UserError(f"the chat template refuses the prompt ({error}); {advice}") from error


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    plain: bool = False,
    system: str | None = None,
) -> tuple[list[int], list[int]]:
    """Return the token ids of the templated request and of the response.

    The response is tokenised by itself and without special tokens, so that it is the same tokens
    in every tokenizer family, and never loses its first one.
    """
    text = render(tokenizer, prompt.text, plain=plain, system=system)
    # a chat template writes the special tokens itself
    head = list(tokenizer(text, add_special_tokens=plain)["input_ids"])
    tail = list(tokenizer(prompt.response or "", add_special_tokens=False)["input_ids"])
    if plain and len(head) > 1 and head[-1] == tokenizer.eos_token_id:
        head.pop()  # some tokenizers end every text, but the answer is still to come
    return head, tail


def template_id(
    tokenizer: PreTrainedTokenizerBase, *, plain: bool = False, system: str | None = None
) -> str:
    """Return the fingerprint of how requests are written: 16 hex digits."""
    parts = [plain, system, None if plain else tokenizer.chat_template]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def window(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens that the model can read at once."""
    config = model.config.get_text_config()
    sizes = [tokenizer.model_max_length]
    sizes += [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    return int(min(size for size in sizes if isinstance(size, int) and size > 0))


def batches(
    prompts: PromptSet | Iterable[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    counted: str = "response",
    batch_size: int = 8,
    plain: bool = False,
    system: str | None = None,
    count_bos: bool = False,
    max_length: int | None = None,
    padding_side: str = "right",
) -> list[Batch]:
    """Tokenise prompts and their responses, padded, in order.

    Args:
        prompts: What to tokenise.
        tokenizer: Of the model that will read the batches.
        counted: Which tokens a statistic runs over. `response` are the answer's own positions, as
            in Wei et al.; `predictive` the positions that predict them (one to the left);
            `prompt` the templated request; `last` its last token; `all` both. Never padding.
        batch_size: Prompts in a batch.
        plain: Use no chat template.
        system: System prompt.
        count_bos: Count the first token too: the one that begins every text (BOS), or where the
            tokenizer has none, whichever comes first. Its activations are often huge (Sun et al.
            2024, Massive Activations), whatever the text.
        max_length: The model's window in tokens; the tokenizer's own limit where None.
        padding_side: `right` or `left`.

    Raises:
        UserError: An unknown `counted`, no response where one is counted, or a prompt that is
            longer than the window: nothing is ever cut off silently.
    """
    if counted not in COUNTED:
        raise UserError(f"unknown counted tokens {counted!r}; choose one of {', '.join(COUNTED)}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if padding_side not in {"left", "right"}:
        raise UserError(f"padding_side must be left or right, got {padding_side!r}")
    limit = min(max_length or tokenizer.model_max_length, tokenizer.model_max_length)
    rows = []
    for index, prompt in enumerate(prompts):
        head, tail = encode(tokenizer, prompt, plain=plain, system=system)
        if counted in {"response", "predictive"} and not tail:
            raise UserError(
                f"{prompt.named(index)} has no response, but {counted} tokens are counted; give a "
                "file with a response column, or let the model answer first"
            )
        if len(head) + len(tail) > limit:
            raise UserError(
                f"{prompt.named(index)} has {len(head) + len(tail)} tokens with its response, the "
                f"window has {limit}; shorten it: {prompt.text[:60]!r}"
            )
        rows.append((head, tail))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    starts = None if count_bos else is_start(tokenizer.bos_token_id)
    return [
        _batch(rows[start : start + batch_size], counted, int(pad), starts, padding_side)
        for start in range(0, len(rows), batch_size)
    ]


def is_start(bos: int | None) -> Callable[[Sequence[int]], bool]:
    """Return what tells whether a text's first token is its mere beginning: BOS, if there is one.

    A model whose tokenizer has none, such as GPT-2 or Qwen, makes one of whichever token is first.
    """
    return lambda row: bos is None or list(row[:1]) == [bos]


def _batch(
    rows: list[tuple[list[int], list[int]]],
    counted: str,
    pad: int,
    starts: Callable[[Sequence[int]], bool] | None,
    padding_side: str,
) -> Batch:
    width = max(len(head) + len(tail) for head, tail in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    marks = torch.zeros_like(ids, dtype=torch.bool)
    response = torch.zeros_like(marks)
    for row, (head, tail) in enumerate(rows):
        length, num_head = len(head) + len(tail), len(head)
        start = width - length if padding_side == "left" else 0
        ids[row, start : start + length] = torch.tensor(head + tail)
        mask[row, start : start + length] = 1
        response[row, start + num_head : start + length] = True
        first, last = {
            "response": (num_head, length),
            "predictive": (max(num_head - 1, 0), length - 1),
            "prompt": (0, num_head),
            "last": (num_head - 1, num_head),
            "all": (0, length),
        }[counted]
        marks[row, start + first : start + last] = True
        # one that is alone in its text has nothing else to take a statistic of
        if starts is not None and counted != "last" and head and length > 1 and starts(head):
            marks[row, start] = False
    return Batch(ids, mask, marks, response)
