"""The prompt sets of a fine-tuning run: what is trained on, held out, scored on, evaluated on."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, UserError, normalise
from safetypin.prompts import encode, load_prompts, window
from safetypin.stages._tune_config import TuneConfig

CALIBRATION = ("safety", "utility")
EVALUATION = ("attack", "harmless", "borderline", "text")
# no two sets of different groups may share a prompt
GROUPS = (("data",), ("task", *EVALUATION), CALIBRATION)


def read_sets(config: TuneConfig) -> dict[str, PromptSet]:
    """Read, sample, split and check every prompt set of a run.

    Returns:
        `data` to train on, `task` held out of it (missing where none is), the sets to evaluate on
        and, where the set of weights is made here, those to score on.

    Raises:
        UserError: A set is missing or too small, has no responses, or two sets share prompts.
    """
    sets = _task_sets(config)
    for kind in (*EVALUATION, *config.scored):
        column = "prompt" if kind == "text" else config.prompt_column
        loaded = load_prompts(getattr(config, kind), prompt_column=column)
        sets[kind] = _sample(loaded, getattr(config, f"num_{kind}"), config.sample_seed)
    if not sets["text"].has_responses:
        raise UserError(
            f"{config.text!r} has no column 'response'; perplexity is measured on responses "
            "(a text without a prompt has an empty one)"
        )
    if not config.allow_shared_prompts:
        _check_disjoint(sets)
    return sets


def read_scored(config: TuneConfig, kind: str) -> PromptSet:
    """Read and sample the prompts that are scored on: `safety` or `utility`."""
    loaded = load_prompts(getattr(config, kind), prompt_column=config.prompt_column)
    return _sample(loaded, getattr(config, f"num_{kind}"), config.sample_seed)


def _task_sets(config: TuneConfig) -> dict[str, PromptSet]:
    data = _read_examples(config, config.data)
    if config.eval_data is not None:
        task = _sample(
            _read_examples(config, config.eval_data), config.num_task, config.sample_seed
        )
        return {"data": _cut(data, config), "task": task}
    data = _cut(data, config)
    if not config.eval_fraction:
        return {"data": data}
    train, task = split(data, config.eval_fraction, config.num_task, config.sample_seed)
    return {"data": train, "task": task}


def _cut(data: PromptSet, config: TuneConfig) -> PromptSet:
    if config.num_data is None:
        return data
    return data.shuffled(config.sample_seed).take(config.num_data)


def _sample(prompts: PromptSet, count: int, seed: int) -> PromptSet:
    return prompts.shuffled(seed).take(min(count, len(prompts)))


def _read_examples(config: TuneConfig, source: str) -> PromptSet:
    data = load_prompts(
        source,
        prompt_column=config.prompt_column,
        response_column=config.response_column,
    )
    without = [index for index, prompt in enumerate(data) if not prompt.response]
    if without:
        raise UserError(
            f"{len(without)} of the {len(data)} examples in {source!r} have no response (first in "
            f"row {without[0]}), and nothing else is trained on; give each one in the column "
            f"{config.response_column!r}, or choose another with --response-column"
        )
    return data


def _key(prompt: Prompt) -> str:
    """Return what two examples are compared by: the request, or running text itself."""
    return normalise(prompt.text) or normalise(prompt.response or "")


def split(data: PromptSet, fraction: float, limit: int, seed: int) -> tuple[PromptSet, PromptSet]:
    """Split off a held-out part whose prompts are in no example of the rest.

    Args:
        data: Examples, in which a prompt may come more than once.
        fraction: The share of the examples to hold out.
        limit: The most examples to hold out.
        seed: Of the draw of prompts.

    Returns:
        What is left to train on, in its order, and what was held out.

    Raises:
        UserError: No example, or none but those of one prompt, would be left.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(data):
        groups.setdefault(_key(prompt), []).append(index)
    if len(groups) < 2:
        raise UserError(
            f"all {len(data)} examples of {data.name!r} have one prompt, so none can be held out; "
            "give other examples with --eval-data, or hold none out with --eval-fraction 0"
        )
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    members = list(groups.values())
    wanted = min(max(round(fraction * len(data)), 1), limit, len(data) - 1)
    held_out = _whole_groups([members[place] for place in order], wanted)
    rest = sorted(set(range(len(data))) - set(held_out))
    return (
        _part(data, data.name, rest),
        _part(data, f"{data.name}[held out]", sorted(held_out)[:limit]),
    )


def _whole_groups(groups: Sequence[list[int]], wanted: int) -> list[int]:
    """Return the members of groups, in order, as long as they are at most `wanted` in all.

    Where every group is larger, those of the smallest.
    """
    taken: list[int] = []
    for group in groups:
        if len(taken) + len(group) <= wanted:
            taken += group
    return taken or min(groups, key=len)


def _part(data: PromptSet, name: str, indices: Iterable[int]) -> PromptSet:
    prompts = tuple(data.prompts[index] for index in indices)
    return dataclasses.replace(data, name=name, prompts=prompts)


def _check_disjoint(sets: Mapping[str, PromptSet]) -> None:
    keys = {kind: {_key(prompt): prompt for prompt in prompts} for kind, prompts in sets.items()}
    for first, second in itertools.combinations(GROUPS, 2):
        for mine, theirs in itertools.product(first, second):
            shared = keys.get(mine, {}).keys() & keys.get(theirs, {}).keys()
            if shared:
                found = keys[mine][min(shared)]
                raise UserError(
                    f"the prompts of {_named(mine)} and of {_named(theirs)} share {len(shared)}, "
                    f"first {(found.text or str(found.response))[:60]!r}; use other sets, or allow "
                    "it with --allow-shared-prompts"
                )


def _named(kind: str) -> str:
    names = {"data": "--data to train on", "task": "--eval-data to evaluate on"}
    use = "score" if kind in CALIBRATION else "evaluate"
    return names.get(kind, f"--{kind} to {use} on")


def fitting(
    prompts: PromptSet,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    plain: bool,
    system: str | None,
) -> tuple[PromptSet, int]:
    """Return the examples with a token to predict inside the window, and how many have none.

    Raises:
        UserError: None has.
    """
    limit = min(limit, window(model, tokenizer))
    kept = tuple(
        prompt
        for prompt in prompts
        if not prompt.text or len(encode(tokenizer, prompt, plain=plain, system=system)[0]) < limit
    )
    if not kept:
        raise UserError(
            f"the prompts of all {len(prompts)} held-out examples fill the window of {limit} "
            "tokens, so no loss can be measured on their responses; use a larger --window"
        )
    return dataclasses.replace(prompts, prompts=kept), len(prompts) - len(kept)


def short_sets(config: TuneConfig, sets: Mapping[str, PromptSet]) -> list[str]:
    """Return a sentence for every set that has fewer prompts than were asked for."""
    return [
        f"{kind}: {getattr(config, kind)} has {found} prompts, {asked} were asked for; "
        "all of them are used"
        for kind in (*EVALUATION, *CALIBRATION)
        if kind in sets and (found := len(sets[kind])) < (asked := getattr(config, f"num_{kind}"))
    ]
