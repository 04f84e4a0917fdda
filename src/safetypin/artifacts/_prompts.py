"""Prompts as people write them and as the models see them."""

import dataclasses
import hashlib
import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from safetypin.artifacts._errors import UserError


class Batch(NamedTuple):
    """Tokenised prompts.

    Attributes:
        input_ids: Token ids, padded on either side.
        attention_mask: 1 for a real token, 0 for padding.
        counted: The tokens that a statistic runs over. Never padding.
        response: The tokens that the loss runs over; where it is None, the counted ones.
    """

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    counted: Bool[Tensor, "batch seq"]
    response: Bool[Tensor, "batch seq"] | None = None

    @property
    def labels(self) -> Int[Tensor, "batch seq"]:
        """Token ids of the response, elsewhere -100, the index that the loss ignores."""
        response = self.counted if self.response is None else self.response
        return self.input_ids.masked_fill(~response, -100)

    @property
    def position_ids(self) -> Int[Tensor, "batch seq"]:
        """Positions that do not depend on the padding side."""
        return (self.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        response = None if self.response is None else self.response.to(device)
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.counted.to(device),
            response,
        )


def normalise(text: str) -> str:
    """Return `text` without case, punctuation and repeated spaces, to compare prompts by."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", text).strip() or text.strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request, and the response to it where there is one.

    Attributes:
        text: The request.
        response: The response.
        category: Its kind.
        topic: What matched prompts have in common.
        where: Where it was read, such as "row 3 of 'some.jsonl'", for messages alone: what was
            shuffled and halved since is still found. Prompts do not differ by it.
    """

    text: str
    response: str | None = None
    category: str | None = None
    topic: str | None = None
    where: str = dataclasses.field(default="", compare=False, repr=False)

    def named(self, index: int) -> str:
        """Return what messages call it: where it was read, else its place among those given."""
        return self.where or f"prompt {index}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Prompts in order, with where they came from."""

    name: str
    prompts: tuple[Prompt, ...]

    loader: ClassVar[Callable[..., "PromptSet"] | None] = None  # set by safetypin.prompts

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError(f"prompt set {self.name!r} is empty; it needs at least one prompt")
        for index, prompt in enumerate(self.prompts):
            if not prompt.text.strip() and not prompt.response:
                where = prompt.where or f"prompt {index} of {self.name!r}"
                raise UserError(f"{where} is empty")

    @classmethod
    def load(
        cls, source: str | Path, *, prompt_column: str = "prompt", split: str | None = None
    ) -> "PromptSet":
        """Read a prompt set from a file, a source name or the Hub; see `safetypin.prompts`."""
        if cls.loader is None:
            importlib.import_module("safetypin.prompts")  # sets it
        assert cls.loader is not None
        loaded = cls.loader(source, prompt_column=prompt_column, split=split)
        assert isinstance(loaded, cls)
        return loaded

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def fingerprint(self) -> str:
        """Hash of the texts in order: 16 hex digits."""
        rows = [[prompt.text, prompt.response] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @property
    def has_responses(self) -> bool:
        """Whether every prompt has a response."""
        return all(prompt.response for prompt in self.prompts)

    def take(self, count: int | None) -> "PromptSet":
        """Return the first `count` prompts, all of them for None.

        Raises:
            UserError: There are fewer.
        """
        if count is None:
            return self
        if not 0 < count <= len(self):
            raise UserError(
                f"{count} prompts asked of {self.name!r}, which has {len(self)}; "
                f"ask for 1 to {len(self)}"
            )
        return dataclasses.replace(self, prompts=self.prompts[:count])

    def shuffled(self, seed: int) -> "PromptSet":
        """Return the prompts in a random order that depends on the seed alone."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return dataclasses.replace(self, prompts=tuple(self.prompts[i] for i in order.tolist()))

    def halves(self) -> tuple["PromptSet", "PromptSet"]:
        """Return the prompts at even and at odd places, for a noise floor.

        Raises:
            UserError: There are fewer than two prompts.
        """
        if len(self) < 2:
            raise UserError(f"{self.name!r} has one prompt; two halves need two or more")
        even = dataclasses.replace(self, name=f"{self.name}[0::2]", prompts=self.prompts[0::2])
        odd = dataclasses.replace(self, name=f"{self.name}[1::2]", prompts=self.prompts[1::2])
        return even, odd

    @property
    def hashes(self) -> dict[str, str]:
        """The prompts by a hash of their text after `normalise`: 16 hex digits."""
        return {_hash(prompt.text): prompt.text for prompt in self}

    @property
    def text_hashes(self) -> dict[str, str]:
        """What is written in prompts and responses by such a hash; empty ones are left out."""
        written = [text for prompt in self for text in (prompt.text, prompt.response)]
        return {_hash(text): text for text in written if text and text.strip()}

    def shared_with(self, other: "PromptSet") -> list[str]:
        """Return the texts of prompts that `other` holds too, after `normalise`."""
        theirs = {normalise(prompt.text) for prompt in other}
        return [prompt.text for prompt in self if normalise(prompt.text) in theirs]

    def texts_shared_with(self, other: "PromptSet") -> list[str]:
        """Return the prompts and responses that `other` holds as either, after `normalise`."""
        theirs = other.text_hashes
        return [text for key, text in self.text_hashes.items() if key in theirs]


def _hash(text: str) -> str:
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]
