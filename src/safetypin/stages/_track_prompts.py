"""The prompt sets of a track, read and checked before any work is done."""

from collections.abc import Iterable, Mapping
from typing import Any

from safetypin.artifacts import PromptSet, UserError
from safetypin.evaluate import judge_options, tokenized_requests
from safetypin.prompts import batches, load_prompts, window
from safetypin.stages._calibrate import check_texts
from safetypin.stages._evaluate import Suite
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_config import TrackConfig

EVALUATION = ("attack", "harmless", "borderline", "text")
KINDS = {"harmful": "attack", "harmless": "harmless", "borderline": "borderline"}


def read_sets(config: TrackConfig, kinds: Iterable[str]) -> dict[str, PromptSet]:
    """Read, sample and check the prompt sets of those kinds.

    Raises:
        UserError: A set is missing, or what is scored on is evaluated on too.
    """
    sets = {}
    for kind in kinds:
        column = "prompt" if kind == "text" else config.prompt_column
        loaded = load_prompts(getattr(config, kind), prompt_column=column)
        count = min(getattr(config, f"num_{kind}"), len(loaded))
        sets[kind] = loaded.shuffled(config.seed).take(count)
    if "text" in sets and not sets["text"].has_responses:
        raise UserError(
            f"{config.text!r} has no column 'response'; perplexity is measured on responses "
            "(a text without a prompt has an empty one)"
        )
    if not config.allow_shared_prompts:
        _check_disjoint(sets)
    return sets


def _check_disjoint(sets: Mapping[str, PromptSet]) -> None:
    for scored in set(SCORED) & sets.keys():
        for asked in set(KINDS.values()) & sets.keys():
            if shared := sets[scored].shared_with(sets[asked]):
                raise UserError(
                    f"the {scored} prompts to score on and the {asked} prompts to evaluate on "
                    f"share {len(shared)}, first {shared[0][:60]!r}; use other sets, or allow it "
                    "with --allow-shared-prompts"
                )
        if "text" in sets:
            check_texts(scored, sets[scored], sets["text"])


def suite_of(config: TrackConfig, sets: Mapping[str, PromptSet]) -> Suite:
    """Return what both models are evaluated on."""
    return Suite(
        prompts={kind: sets[name] for kind, name in KINDS.items()},
        text=sets["text"],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.answer_batch_size,
        judge=config.judge,
        judge_options=judge_options(config.judge_options),
        window=config.window,
        plain=config.plain,
        system=config.system,
    )


def check_prompts(config: TrackConfig, subject: Subject, sets: Mapping[str, PromptSet]) -> None:
    """Raise if a prompt does not fit the model.

    Raises:
        UserError: No chat template, or a prompt that is longer than the window.
    """
    how: dict[str, Any] = {"plain": config.plain, "system": config.system}
    model, tokenizer = subject.model, subject.tokenizer
    if "attack" in sets:
        suite_of(config, sets).check(model, tokenizer)
    for name in SCORED:
        if name not in sets:
            continue
        if sets[name].has_responses:
            batches(sets[name], tokenizer, max_length=window(model, tokenizer), **how)
        else:
            size = config.max_new_tokens
            tokenized_requests(model, tokenizer, sets[name], max_new_tokens=size, **how)


def short_sets(config: TrackConfig, sets: Mapping[str, PromptSet]) -> list[str]:
    """Return a sentence for every set that has fewer prompts than were asked for."""
    return [
        f"{kind}: {getattr(config, kind)} has {len(found)} prompts, {asked} were asked for; "
        "all of them are used"
        for kind, found in sets.items()
        if len(found) < (asked := getattr(config, f"num_{kind}"))
    ]
