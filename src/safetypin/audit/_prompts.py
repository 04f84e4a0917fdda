"""The prompt sets of an audit, read and checked before any work is done."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, UserError
from safetypin.audit._config import AuditConfig
from safetypin.audit._plan import SCORE_SETS
from safetypin.evaluate import tokenized_requests
from safetypin.prompts import batches, load_prompts, window
from safetypin.stages import Suite, check_texts

PROMPT_KINDS = ("safety", "utility", "attack", "harmless", "borderline", "text")


def read_prompts(config: AuditConfig) -> dict[str, PromptSet]:
    """Read, sample and check every prompt set of an audit.

    Raises:
        UserError: A set is missing or too small, or calibration and evaluation share prompts.
    """
    sets = {}
    for kind in PROMPT_KINDS:
        loaded = load_prompts(
            getattr(config, kind),
            prompt_column="prompt" if kind == "text" else config.prompt_column,
        )
        count = min(getattr(config, f"num_{kind}"), len(loaded))
        sets[kind] = loaded.shuffled(config.seed).take(count)
    if not config.allow_shared_prompts:
        for calibration in ("safety", "utility"):
            for evaluation in ("attack", "harmless", "borderline"):
                if shared := sets[calibration].shared_with(sets[evaluation]):
                    raise UserError(
                        f"the {calibration} prompts to score on and the {evaluation} prompts to "
                        f"evaluate on share {len(shared)}, first {shared[0][:60]!r}; use other "
                        "sets, or allow it with --allow-shared-prompts"
                    )
            check_texts(calibration, sets[calibration], sets["text"])
    if not sets["text"].has_responses:
        raise UserError(
            f"{config.text!r} has no column 'response'; perplexity is measured on responses "
            "(a text without a prompt has an empty one)"
        )
    return sets


def check_prompts(
    config: AuditConfig,
    prompts: Mapping[str, PromptSet],
    suite: Suite,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raise if a prompt does not fit the model.

    Raises:
        UserError: No chat template, or a prompt that is longer than the window.
    """
    how: dict[str, Any] = {"plain": config.plain, "system": config.system}
    suite.check(model, tokenizer)
    for name in SCORE_SETS:
        if prompts[name].has_responses:
            batches(prompts[name], tokenizer, max_length=window(model, tokenizer), **how)
        else:
            size = config.max_new_tokens
            tokenized_requests(model, tokenizer, prompts[name], max_new_tokens=size, **how)


def short_sets(config: AuditConfig, prompts: Mapping[str, PromptSet]) -> list[str]:
    """Return a sentence for every set that has fewer prompts than were asked for."""
    return [
        f"{kind}: {getattr(config, kind)} has {found} prompts, {asked} were asked for; "
        "all of them are used"
        for kind in PROMPT_KINDS
        if (found := len(prompts[kind])) < (asked := getattr(config, f"num_{kind}"))
    ]
