"""Labelled prompts: deduplicated, grouped, split by group, and nothing of one part in another."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from safetypin.artifacts import Prompt, PromptSet, UserError, normalise

MAX_CHARACTERS = 20_000  # of a prompt: more is no request but a document
UNSAFE, SAFE = 1, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """Prompts with their labels.

    Attributes:
        prompts: Each text once, after `normalise`.
        labels: 1 unsafe, 0 safe.
        groups: Prompts of one group are never divided between training and test: the topic where
            the source names one, else the prompt itself.
        num_duplicates: Prompts that were left out because their text came before.
    """

    prompts: tuple[Prompt, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    num_duplicates: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self.prompts]

    @property
    def fingerprint(self) -> str:
        """Hash of texts and labels in order: 16 hex digits."""
        rows = [
            f"{label} {prompt.text}"
            for prompt, label in zip(self.prompts, self.labels, strict=True)
        ]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    @property
    def num_topics(self) -> int:
        """Groups with prompts of both labels: topics on which safe and unsafe ones are matched."""
        return len(self._matched)

    @property
    def matched_share(self) -> float:
        """Share of the prompts whose topic has prompts of both labels."""
        matched = self._matched
        return sum(group in matched for group in self.groups) / len(self)

    @property
    def _matched(self) -> set[str]:
        pairs = set(zip(self.groups, self.labels, strict=True))
        return {group for group, label in pairs if (group, 1 - label) in pairs}

    def take(self, places: Iterable[int]) -> "Labelled":
        """Return some of the prompts."""
        chosen = list(places)
        return Labelled(
            prompts=tuple(self.prompts[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            groups=tuple(self.groups[i] for i in chosen),
        )


def labelled(unsafe: PromptSet, safe: PromptSet) -> Labelled:
    """Join two prompt sets: each text once.

    Raises:
        UserError: A text is in both sets, a prompt is empty or too long, or a class is missing.
    """
    theirs = {normalise(prompt.text) for prompt in safe}
    both = [prompt.text for prompt in unsafe if normalise(prompt.text) in theirs]
    if both:
        raise UserError(
            f"{len(both)} prompts are labelled both unsafe and safe, first {both[0][:60]!r}; take "
            "them out of one of the two sets"
        )
    seen: set[str] = set()
    kept: list[tuple[Prompt, int]] = []
    for label, prompts in ((UNSAFE, unsafe), (SAFE, safe)):
        for index, prompt in enumerate(prompts):
            check_prompt(prompt, index)
            key = normalise(prompt.text)
            if key not in seen:
                seen.add(key)
                kept.append((prompt, label))
    return Labelled(
        prompts=tuple(prompt for prompt, _ in kept),
        labels=tuple(label for _, label in kept),
        groups=tuple(prompt.topic or normalise(prompt.text) for prompt, _ in kept),
        num_duplicates=len(unsafe) + len(safe) - len(kept),
    )


def check_prompt(prompt: Prompt, index: int) -> None:
    """Raise unless a prompt can be judged.

    Args:
        prompt: The prompt.
        index: Its place among those given, which it is named by where it does not know its row.

    Raises:
        UserError: It is empty, or too long.
    """
    text = prompt.text
    if not text.strip():
        raise UserError(f"{prompt.named(index)} is empty; there is nothing to judge")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"{prompt.named(index)} has {len(text):,} characters, the limit is "
            f"{MAX_CHARACTERS:,}: {text[:60]!r}; judge its parts, or the request without the "
            "document"
        )


def check_classes(labels: Sequence[int], what: str) -> None:
    """Raise unless both labels are there, twice or more.

    Raises:
        UserError: One is missing.
    """
    for label, name in ((UNSAFE, "unsafe"), (SAFE, "safe")):
        count = sum(one == label for one in labels)
        if count < 2:
            raise UserError(
                f"{what} has {count} {name} prompts; a guard needs both unsafe and safe ones, two "
                "of each at the least"
            )


def split_groups(data: Labelled, test_fraction: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split into training and test so that no group is in both.

    Raises:
        UserError: A part would lack a class.
    """
    order = list(dict.fromkeys(data.groups))
    np.random.default_rng(seed).shuffle(order)
    wanted = round(test_fraction * len(data))
    sizes: dict[str, int] = {}
    for group in data.groups:
        sizes[group] = sizes.get(group, 0) + 1
    held: set[str] = set()
    taken = 0
    for group in order:
        if taken + sizes[group] <= max(wanted, 1):
            held.add(group)
            taken += sizes[group]
    places = [group in held for group in data.groups]
    train = data.take(i for i, inside in enumerate(places) if not inside)
    test = data.take(i for i, inside in enumerate(places) if inside)
    check_classes(train.labels, "the training part")
    check_classes(test.labels, "the test part")
    return train, test


def check_leaks(parts: Mapping[str, Iterable[str]]) -> None:
    """Raise if a prompt is in two parts, after `normalise`.

    Args:
        parts: Texts by the name of the part, such as training, test, contrast.

    Raises:
        UserError: A prompt leaks, with which one from where to where.
    """
    found = {name: {normalise(text): text for text in texts} for name, texts in parts.items()}
    names = list(found)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if shared := sorted(found[first].keys() & found[second].keys()):
                raise UserError(
                    f"{len(shared)} prompts leak: they are among the {first} and the {second} "
                    f"prompts, first {found[first][shared[0]][:60]!r}; a guard would be tested on "
                    "what it has seen. Take them out of one"
                )


def check_hash_leaks(
    texts: Labelled, hashes: Iterable[str], what: str, done: str = "the neurons were found"
) -> None:
    """Raise if a prompt has one of the given hashes, such as those of the contrast prompts.

    Raises:
        UserError: It has.
    """
    own = PromptSet(name="guard", prompts=texts.prompts).hashes
    if shared := sorted(own.keys() & set(hashes)):
        raise UserError(
            f"{len(shared)} prompts leak: {done} on them, and they are among the "
            f"{what} prompts, first {own[shared[0]][:60]!r}; use others on one of the two sides"
        )


def group_folds(groups: Sequence[str], num_folds: int, seed: int) -> NDArray[np.int64]:
    """Return a fold number for each prompt; a group is in one fold."""
    order = list(dict.fromkeys(groups))
    np.random.default_rng(seed).shuffle(order)
    fold = {group: place % num_folds for place, group in enumerate(order)}
    return np.array([fold[group] for group in groups])
