"""From prompts with responses to rows of tokens that a model is trained on.

Only the response is learnt: labels of the prompt and of padding are -100. The published code of the
extension labelled both, so that three quarters of its loss came from padding.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TypedDict

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.prompts import encode

IGNORED = -100  # the label that the loss leaves out
PROBE = "zq7"  # stands for an answer in a chat template


class Row(TypedDict):
    """One example: token ids, and as labels those of the response, elsewhere -100."""

    input_ids: list[int]
    labels: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Tokenised examples to train on.

    Attributes:
        rows: Of every example that has a token to learn, in order.
        num_examples: Examples that were given.
        num_cut: Examples whose response was cut off in part; they have no end token.
        num_dropped: Examples whose prompt alone is too long, so that nothing is left to learn.
    """

    rows: list[Row]
    num_examples: int
    num_cut: int
    num_dropped: int

    @property
    def num_tokens(self) -> int:
        """Tokens to learn in all rows."""
        return sum(label != IGNORED for row in self.rows for label in row["labels"][1:])

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and labels in order: 16 hex digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row['input_ids']} {row['labels']}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def note(self) -> str | None:
        """What was cut off, in a sentence; None where nothing was."""
        if not self.num_cut and not self.num_dropped:
            return None
        return (
            f"of {self.num_examples} examples, {self.num_cut} had the end of their response cut "
            f"off and {self.num_dropped} were left out because their prompt alone is too long"
        )


def training_rows(
    tokenizer: PreTrainedTokenizerBase,
    data: PromptSet,
    max_length: int = 512,
    *,
    plain: bool = False,
    system: str | None = None,
) -> TrainingRows:
    """Tokenise examples: the request in the chat template, the response, one end token.

    A response is cut at `max_length`, and then has no end token. An example without a prompt is
    running text: it follows the begin token where the tokenizer has one.

    Args:
        tokenizer: Of the model to train.
        data: Prompts with responses.
        max_length: Most tokens of a row.
        plain: Use no chat template.
        system: System prompt.

    Raises:
        UserError: A response is missing, or all of them are cut off.
    """
    _check_responses(data)
    end = end_tokens(tokenizer, plain=plain)
    parts = [_parts(tokenizer, prompt, plain, system) for prompt in data]
    rows, num_cut = [], 0
    for head, tail in parts:
        while tail and tail[-1] in end:
            tail.pop()
        ids = [*head, *tail, end[0]][:max_length]
        if len(ids) <= max(len(head), 1):  # the first token of a row is never predicted
            continue
        num_cut += len(ids) < len(head) + len(tail) + 1
        labels = [IGNORED] * len(head) + ids[len(head) :]
        rows.append(Row(input_ids=ids, labels=labels))
    if not rows:
        shortest = min(len(head) for head, _ in parts)
        raise UserError(
            f"all {len(data)} responses of {data.name!r} are cut off: the shortest prompt has "
            f"{shortest} tokens, and a row at most {max_length}; raise max_length (--max-length), "
            "or shorten the prompts"
        )
    return TrainingRows(
        rows=rows, num_examples=len(data), num_cut=num_cut, num_dropped=len(data) - len(rows)
    )


def _check_responses(data: PromptSet) -> None:
    missing = [index for index, prompt in enumerate(data) if not prompt.response]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(data)} examples of {data.name!r} have no response, first "
            f"number {missing[0]}; give a file with a filled `response` column to train on"
        )


def _parts(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, plain: bool, system: str | None
) -> tuple[list[int], list[int]]:
    """Return the token ids of what is context only and of what is learnt."""
    if prompt.text:
        return encode(tokenizer, prompt, plain=plain, system=system)
    tail = list(tokenizer(prompt.response, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ([] if bos is None else [int(bos)]), tail


def end_tokens(tokenizer: PreTrainedTokenizerBase, *, plain: bool = False) -> tuple[int, ...]:
    """Return the tokens that can end a response: first the one to train on.

    In a chat this is the special token that the template writes behind an answer, such as
    `<end_of_turn>` of Gemma, which is another than the tokenizer's own end token.

    Raises:
        UserError: The tokenizer has no end token.
    """
    own = tokenizer.eos_token_id
    ends = [] if own is None else [int(own)]
    if not plain and (turn_end := _turn_end(tokenizer)) is not None:
        ends.insert(0, turn_end)
    if not ends:
        raise UserError(
            "the tokenizer has no end token, so a model could not learn where a response ends; "
            "set tokenizer.eos_token"
        )
    return tuple(dict.fromkeys(ends))


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False))
    except TemplateError:
        return None
    if PROBE not in text:
        return None
    behind = tokenizer(text.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.bos_token_id}
    return next((int(token) for token in behind if token in special), None)


def padded(rows: Sequence[Row], *, pad: int) -> dict[str, Int[Tensor, "batch seq"]]:
    """Return the rows as one batch, padded on the right; padding is never learnt."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length] = torch.tensor(row["input_ids"])
        labels[index, :length] = torch.tensor(row["labels"])
        mask[index, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
