"""Use a guard that was fitted: judge prompts, measure it on other data, serve it."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safetypin.artifacts import Prompt, PromptSet, RunRecord, UserError
from safetypin.predict import (
    Guard,
    GuardRule,
    calibration,
    check_classes,
    check_hash_leaks,
    labelled,
    measures,
)
from safetypin.prompts import load_prompts
from safetypin.stages._idle import Idle, refuse_idle
from safetypin.stages._pair import Where, load_subject

UNSAFE_WORDS = frozenset({"1", "true", "unsafe", "harmful", "yes"})
SAFE_WORDS = frozenset({"0", "false", "safe", "harmless", "no"})
AT_ONCE = 64


def open_guard(
    folder: str | Path,
    model: str | None,
    where: Where,
    *,
    tell: Callable[[str], None] = warnings.warn,
) -> Guard:
    """Load a guard and its model: the one that it was fitted with, or another place of the same.

    Args:
        folder: What `safetypin guard fit` left.
        model: Where the model is; the name it was fitted with where None.
        where: How it is loaded.
        tell: Told what cannot be checked.

    Raises:
        DamagedArtifactError: The folder is unfinished, damaged or of another kind.
        ArtifactMismatchError: The model, its tokenizer or its chat template is another one.
    """
    rule = GuardRule.read(Path(folder))
    name = model or str(rule.about.get("model"))
    subject = load_subject(name, where)
    return Guard(rule, subject.model, subject.tokenizer, tell=tell)


def score_texts(
    guard: Guard, texts: Iterable[str | Prompt], threshold: float | None = None
) -> Iterator[dict[str, Any]]:
    """Return `{"text", "probability", "unsafe"}` of each text, in order, judged some at a time.

    A text that cannot be judged is an error when it is its turn: all before it are given first.

    Raises:
        UserError: The threshold is no probability.
    """
    # not in the generator, which would say it only when the first text is asked for
    return _scored(guard, texts, guard.limit(threshold))


def _scored(guard: Guard, texts: Iterable[str | Prompt], limit: float) -> Iterator[dict[str, Any]]:
    prompts, ended = _numbered(texts), False
    while not ended:
        waiting: list[Prompt] = []
        unread = None
        try:
            for prompt in itertools.islice(prompts, AT_ONCE):
                waiting.append(prompt)  # noqa: PERF402 - keeps those before one that is none
        except UserError as error:  # a line that is no prompt: those before it are
            unread = error
        for prompt, chance in _judged(guard, waiting):
            yield {"text": prompt.text, "probability": chance, "unsafe": chance >= limit}
        if unread is not None:
            raise unread
        ended = not waiting


def _numbered(texts: Iterable[str | Prompt]) -> Iterator[Prompt]:
    """Give every text the name by which an error calls it."""
    for number, text in enumerate(texts):
        prompt = Prompt(text=text) if isinstance(text, str) else text
        yield dataclasses.replace(prompt, where=prompt.named(number))


def _judged(guard: Guard, prompts: list[Prompt]) -> Iterator[tuple[Prompt, float]]:
    """Judge prompts together; where one of them cannot be, those before it all the same."""
    try:
        chances = [float(chance) for chance in guard.predict_proba(prompts)]
    except UserError:
        if len(prompts) == 1:
            raise
    else:
        yield from zip(prompts, chances, strict=True)
        return
    middle = len(prompts) // 2
    yield from _judged(guard, prompts[:middle])
    yield from _judged(guard, prompts[middle:])


def labelled_sets(
    data: str | None,
    unsafe: str | None,
    safe: str | None,
    *,
    prompt_column: str = "prompt",
    label_column: str | None = None,
) -> tuple[PromptSet, PromptSet]:
    """Return the unsafe and the safe prompts: of one file with labels, or of a source for each.

    Args:
        data: A file with a column of labels.
        unsafe: Source of the unsafe prompts, in its place.
        safe: Source of the safe prompts.
        prompt_column: Column of the prompt.
        label_column: Column of the label, in `data`; `label` where None.

    Raises:
        UserError: Both or neither are given, a label is missing or unknown, a class is missing, or
            a column of labels is named where there is none.
    """
    if data is not None:
        theirs = Idle(("unsafe", "safe"), "the prompts of both labels are those of --data")
        refuse_idle({"unsafe": unsafe, "safe": safe}, [theirs])
        return _by_label(data, prompt_column, label_column or "label")
    if unsafe is None or safe is None:
        raise UserError("no data was given; name a file with --data, or both --unsafe and --safe")
    known = Idle(("label_column",), "the labels are those of --unsafe and --safe")
    refuse_idle({"label_column": label_column}, [known])
    one, other = (load_prompts(part, prompt_column=prompt_column) for part in (unsafe, safe))
    return one, other


def _by_label(source: str, prompt_column: str, label_column: str) -> tuple[PromptSet, PromptSet]:
    loaded = load_prompts(source, prompt_column=prompt_column, response_column=label_column)
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for index, prompt in enumerate(loaded):
        word = (prompt.response or "").strip().lower()
        if word not in UNSAFE_WORDS | SAFE_WORDS:
            raise UserError(
                f"{prompt.named(index)} has the label {prompt.response!r}; write unsafe or "
                "safe, or 1 or 0"
            )
        parts[word in UNSAFE_WORDS].append(dataclasses.replace(prompt, response=None))
    for is_unsafe, name in ((True, "unsafe"), (False, "safe")):
        if not parts[is_unsafe]:
            raise UserError(f"{source!r} has no {name} prompt; both classes are needed")
    return (
        PromptSet(name=f"{source}[unsafe]", prompts=tuple(parts[True])),
        PromptSet(name=f"{source}[safe]", prompts=tuple(parts[False])),
    )


def evaluate_guard(
    folder: str | Path, guard: Guard, unsafe: PromptSet, safe: PromptSet
) -> dict[str, Any]:
    """Measure a guard on prompts that it was not fitted on.

    `are_neuron_prompts_known` says whether the prompts that its neurons were found on are recorded;
    where they are not, that they are not among these could not be checked.

    Raises:
        UserError: A prompt is among those that it was fitted on, or a class is missing.
    """
    data = labelled(unsafe, safe)
    check_classes(data.labels, "the data")
    path = Path(folder)
    inner = path / "guard"
    record = RunRecord.read(inner if (inner / "run.json").exists() else path)
    hashes = {kind: record.result.get(f"{kind}_hashes", []) for kind in ("train", "contrast")}
    check_hash_leaks(data, hashes["train"], "evaluated", "the guard was fitted")
    check_hash_leaks(data, hashes["contrast"], "evaluated", "its neurons were found")
    chances = _chances(guard, data.prompts)
    return {
        "model_id": guard.rule.model_id,
        "num_prompts": len(data),
        "num_duplicates": data.num_duplicates,
        "are_neuron_prompts_known": bool(hashes["contrast"]),
        "at_half": measures(chances, data.labels, 0.5),
        "at_threshold": measures(chances, data.labels, guard.threshold),
        "calibration": calibration(chances, data.labels),
    }


def _chances(guard: Guard, prompts: Sequence[Prompt]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    starts = range(0, len(prompts), AT_ONCE)
    return np.concatenate([guard.predict_proba(prompts[i : i + AT_ONCE]) for i in starts])
