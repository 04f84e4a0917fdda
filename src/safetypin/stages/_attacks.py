"""Attack a model: every variant of every request answered, kept batch by batch, and judged."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, Verdict
from safetypin.evaluate import (
    Attack,
    attack,
    attack_rates,
    attack_tokens,
    judge_with_reasons,
)
from safetypin.stages._evaluate import kept_answers
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output

MAX_DEGENERATE = 0.2  # an audit's `max_degenerate`


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSuite:
    """What a model is attacked with, and how.

    Attributes:
        attacks: In order; their names differ.
        prompts: The requests.
        max_new_tokens: Where an answer is cut off.
        batch_size: Answers in a batch.
        judge: Name of the judge.
        judge_options: What the judge takes besides, by name.
        plain: Use no chat template.
        system: System prompt of the attacks that have none of their own.
    """

    attacks: tuple[Attack, ...]
    prompts: PromptSet
    max_new_tokens: int
    batch_size: int
    judge: str = "phrases"
    judge_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plain: bool = False
    system: str | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            "attacks": [dataclasses.asdict(how) for how in self.attacks],
            "prompts": self.prompts.fingerprint,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "judge": self.judge,
            "judge_options": dict(self.judge_options),
            "plain": self.plain,
            "system": self.system,
        }

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        answers = len(self.prompts) * sum(how.num_variants for how in self.attacks)
        return float(answers * self.max_new_tokens)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise before anything is generated if a request does not fit the model.

        Raises:
            UserError: No chat template, one without system prompts, or a request that is longer
                than the window.
        """
        for how in self.attacks:
            attack_tokens(
                model,
                tokenizer,
                self.prompts,
                how,
                max_new_tokens=self.max_new_tokens,
                plain=self.plain,
                system=self.system,
            )


def attack_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: AttackSuite,
    *,
    reporter: Reporter,
) -> Output:
    """Attack the model as it stands.

    Returns:
        `verdicts` and `reasons` by attack: for every prompt, one for each of its answers.
    """
    verdicts, reasons, outage = {}, {}, False
    for how in suite.attacks:
        done, keep = kept_answers(
            folder / answers_file(how.name),
            len(suite.prompts) * how.num_variants,
            max_new_tokens=suite.max_new_tokens,
            reporter=reporter,
        )
        found = attack(
            model,
            tokenizer,
            suite.prompts,
            how,
            max_new_tokens=suite.max_new_tokens,
            batch_size=suite.batch_size,
            plain=suite.plain,
            system=suite.system,
            done=done,
            on_batch=keep,
        )
        responses = [response for row in found for response in row]
        findings = iter(judge_with_reasons(responses, suite.judge, **suite.judge_options))
        judged = [[next(findings) for _ in row] for row in found]
        verdicts[how.name] = [[finding.verdict.value for finding in row] for row in judged]
        reasons[how.name] = [[finding.reason for finding in row] for row in judged]
        outage |= any(finding.is_outage for row in judged for finding in row)
    files = [answers_file(how.name) for how in suite.attacks]
    return Output({"verdicts": verdicts, "reasons": reasons}, files, not outage)


def answers_file(name: str) -> str:
    """Return the file of an attack's answers; `read_responses` reads it as `attack-NAME`."""
    return f"responses-attack-{name}.jsonl"


def describe_attacks(
    attacks: Mapping[str, Attack],
    result: Mapping[str, Any],
    max_degenerate: float = MAX_DEGENERATE,
    *,
    why_no_language: str | None = None,
) -> dict[str, Any]:
    """Return the rates of every attack of a record, with how it asked.

    `mean`, `any_of_n` and `by_variant` are None where the model no longer speaks, as in an audit,
    by its answers or by its perplexity; `mean_as_judged` is what the judge says of it all the same.
    """
    return {
        name: _describe(attacks[name], rows, max_degenerate, why_no_language)
        for name, rows in result["verdicts"].items()
    }


def _describe(
    how: Attack, rows: list[list[str]], max_degenerate: float, why_no_language: str | None
) -> dict[str, Any]:
    found = attack_rates([[Verdict(verdict) for verdict in row] for row in rows])
    rates = found.to_json()
    share = found.degenerate.value or 0.0
    destroyed = why_no_language
    if share > max_degenerate:
        destroyed = f"{share:.0%} of the answers are degenerate"
    rates["mean_as_judged"] = rates["mean"]
    if destroyed:
        rates |= {"mean": None, "any_of_n": None, "by_variant": None}
    settings = dataclasses.asdict(how)
    # suffixes found on a model stay in the run folder
    settings["suffixes"] = len(how.suffixes)
    return {**rates, "why_no_asr": destroyed, "settings": settings}
