"""From a config to what the stages take."""

from collections.abc import Mapping
from typing import Any

from safetypin.artifacts import PromptSet, Verdict
from safetypin.audit._config import AuditConfig
from safetypin.evaluate import judge_options
from safetypin.stages import Scoring, Suite

# the sets that weights are scored on, and which of the model's own answers count for each
SCORE_SETS = {"safety": Verdict.REFUSAL, "utility": Verdict.COMPLIED}
# two halves of the prompts give these the same scores: that is no noise floor
KNOWS_NO_PROMPTS = ("magnitude", "random")


def suite_of(config: AuditConfig, prompts: Mapping[str, PromptSet]) -> Suite:
    """Return what every model of the audit, whole or pruned, is evaluated on."""
    return Suite(
        prompts={
            "harmful": prompts["attack"],
            "harmless": prompts["harmless"],
            "borderline": prompts["borderline"],
        },
        text=prompts["text"],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        judge=config.judge,
        judge_options=judge_options(config.judge_options),
        window=config.window,
        plain=config.plain,
        system=config.system,
    )


def answering_of(config: AuditConfig) -> dict[str, Any]:
    """Return how the model answers the prompts of `SCORE_SETS`."""
    names = ("max_new_tokens", "batch_size", "plain", "system")
    return {name: getattr(config, name) for name in names}


def scoring_of(config: AuditConfig, name: str) -> Scoring:
    """Return how the weights are scored on the set `name` of `SCORE_SETS`."""
    # two random sets with one seed would be one set
    other_seed = config.method == "random" and name == "utility"
    return Scoring(
        method=config.method,
        counted=config.counted,
        reduction=config.reduction,
        batch_size=config.score_batch_size,
        group=config.group,
        targets=config.targets,
        seed=config.seed + other_seed,
        plain=config.plain,
        system=config.system,
    )
