"""The parts of an evaluation: answers and perplexity, attacks, zero-shot tasks, problems."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, RunRecord, UserError
from safetypin.evaluate import Attack, check_tasks
from safetypin.stages._attacks import AttackSuite, attack_model, describe_attacks
from safetypin.stages._evaluate import Suite, evaluate_model
from safetypin.stages._run import Output
from safetypin.stages._zero_shot import (
    ProblemSuite,
    ZeroShotSuite,
    describe_problems,
    describe_zero_shot,
    solve_problems,
    zero_shot_model,
)

# the folder of each part, and the stage that its record names
STAGES = {
    "evaluation": "evaluate",
    "attacks": "attack",
    "zero-shot": "zero-shot",
    "problems": "solve",
    "untouched": "evaluate",
}
# measured with the set in its place, to compare with
UNTOUCHED = "untouched"


@runtime_checkable
class Measured(Protocol):
    """What a part of an evaluation measures: a suite of one kind or another."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the results depend on."""

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise before the work if something does not fit the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One stage of an evaluation: its suite, and what measures it into a folder."""

    suite: Measured
    measure: Callable[..., Output]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What is measured besides the answers and the perplexity.

    Attributes:
        attacks: On the harmful prompts.
        zero_shot: Multiple-choice tasks; none where None.
        problems: Source of problems with solutions, to be solved by exact match.
        problem_tokens: Where their answers are cut off.
        also_judges: Judges that judge the same answers, to compare.
    """

    attacks: tuple[Attack, ...] = ()
    zero_shot: ZeroShotSuite | None = None
    problems: str | None = None
    problem_tokens: int = 256
    also_judges: tuple[str, ...] = ()


def evaluation_parts(
    suite: Suite, extras: Extras, *, problems: PromptSet | None, is_removing: bool = False
) -> dict[str, Part]:
    """Return the parts that are asked for, by their folders.

    Where a set is removed, the perplexity of the untouched model is one of them: alone, that of
    the other does not tell whether it still speaks.

    Raises:
        UserError: An attack without harmful prompts, or a task that cannot be measured here.
    """
    parts = {"evaluation": Part(suite=suite, measure=evaluate_model)}
    if extras.attacks:
        parts["attacks"] = Part(suite=_attack_suite(suite, extras.attacks), measure=attack_model)
    if extras.zero_shot:
        check_tasks(extras.zero_shot.tasks)
        parts["zero-shot"] = Part(suite=extras.zero_shot, measure=zero_shot_model)
    if problems:
        asked = ProblemSuite(
            problems=problems,
            max_new_tokens=extras.problem_tokens,
            batch_size=suite.batch_size,
            plain=suite.plain,
            system=suite.system,
        )
        parts["problems"] = Part(suite=asked, measure=solve_problems)
    if is_removing and suite.text:
        alone = dataclasses.replace(suite, prompts={}, judge="phrases", judge_options={})
        parts[UNTOUCHED] = Part(suite=alone, measure=evaluate_model)
    return parts


def summarise_extras(
    records: Mapping[str, RunRecord], extras: Extras, why_no_language: str | None = None
) -> dict[str, Any]:
    """Return what the parts besides the first found, by part; no ASR without a language."""
    named = {how.name: how for how in extras.attacks}
    describe: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "attacks": partial(describe_attacks, named, why_no_language=why_no_language),
        "zero-shot": describe_zero_shot,
        "problems": describe_problems,
    }
    return {
        name.replace("-", "_"): describe[name](record.result)
        for name, record in records.items()
        if name in describe
    }


def _attack_suite(suite: Suite, attacks: tuple[Attack, ...]) -> AttackSuite:
    if "harmful" not in suite.prompts:
        raise UserError("attacks need harmful prompts; give --harmful a file or a source")
    return AttackSuite(
        attacks=attacks,
        prompts=suite.prompts["harmful"],
        max_new_tokens=suite.max_new_tokens,
        batch_size=suite.batch_size,
        judge=suite.judge,
        judge_options=suite.judge_options,
        plain=suite.plain,
        system=suite.system,
    )
