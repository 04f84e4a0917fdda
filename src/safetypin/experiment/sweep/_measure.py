"""What is measured of a model as it stands: answers, attacks, perplexity, multiple choice."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, UserError
from safetypin.audit import suite_of
from safetypin.evaluate import check_tasks, judge_options, judge_with_reasons, make_attacks
from safetypin.experiment.sweep._file import Measures, Sweep
from safetypin.prompts import read_suffixes
from safetypin.stages import (
    AttackSuite,
    Output,
    Reporter,
    Suite,
    ZeroShotSuite,
    attack_model,
    evaluate_model,
    read_responses,
    zero_shot_model,
)

# settings by the one attack that reads them
NEEDED_BY = {
    "num_samples": "decoding", "temperature": "decoding", "suffixes": "suffix",
    "prefill": "prefill",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Battery:
    """Everything that a cell is measured on; the same for every cell.

    Attributes:
        suite: The bare requests, harmless ones, and texts.
        attacks: The attacks; None where none is asked for.
        also_judges: Judges that judge the answers to the bare requests again.
        zero_shot: Questions of multiple choice; None where none is asked for.
    """

    suite: Suite
    attacks: AttackSuite | None
    also_judges: tuple[str, ...]
    zero_shot: ZeroShotSuite | None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            "suite": self.suite.inputs,
            "attacks": self.attacks and self.attacks.inputs,
            "also_judges": list(self.also_judges),
            "zero_shot": self.zero_shot and self.zero_shot.inputs,
        }

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        parts = (self.suite, self.attacks, self.zero_shot)
        return sum(part.units for part in parts if part is not None)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise before anything is generated if a prompt or a text does not fit the model.

        Raises:
            UserError: As the suites say.
        """
        self.suite.check(model, tokenizer)
        if self.attacks is not None:
            self.attacks.check(model, tokenizer)


def battery(sweep: Sweep, prompts: Mapping[str, PromptSet]) -> Battery:
    """Return what every cell of a sweep is measured on.

    Raises:
        UserError: The file of suffixes cannot be read, an attack lacks what it needs, or a setting
            would do nothing.
    """
    suite, asked = suite_of(sweep.config, prompts), sweep.measures
    _refuse_idle(asked)
    attacks = None
    if asked.attacks:
        attacks = AttackSuite(
            attacks=make_attacks(asked.attacks, **_attack_settings(sweep)),
            prompts=prompts["attack"].take(min(asked.num_attacked, len(prompts["attack"]))),
            max_new_tokens=suite.max_new_tokens,
            batch_size=suite.batch_size,
            judge=suite.judge,
            judge_options=judge_options(sweep.config.judge_options),
            plain=suite.plain,
            system=suite.system,
        )
    questions = None
    if asked.zero_shot:
        check_tasks(asked.zero_shot)
        questions = ZeroShotSuite(
            tasks=asked.zero_shot, limit=asked.num_zero_shot, seed=sweep.config.seed
        )
    return Battery(suite=suite, attacks=attacks, also_judges=asked.also_judges, zero_shot=questions)


def _refuse_idle(asked: Measures) -> None:
    """Raise for a setting that was given and that nothing here reads."""
    given = asked.model_fields_set
    for name in sorted(given & set(NEEDED_BY)):
        attack = NEEDED_BY[name]
        if getattr(asked, name) is not None and attack not in asked.attacks:
            raise UserError(
                f"{name} would do nothing: the attack {attack} is not run; add it to attacks, or "
                f"leave {name} out"
            )
    if "num_attacked" in given and not asked.attacks:
        raise UserError("num_attacked would do nothing: no attacks are named; leave it out")
    if "num_zero_shot" in given and not asked.zero_shot:
        raise UserError("num_zero_shot would do nothing: zero_shot names no task; leave it out")


def _attack_settings(sweep: Sweep) -> dict[str, Any]:
    """Return what the attacks take; a setting that none of them takes stays out."""
    asked = sweep.measures
    found: dict[str, Any] = {"seed": sweep.config.seed}
    if "decoding" in asked.attacks:
        found |= {"num_samples": asked.num_samples, "temperature": asked.temperature}
    if asked.prefill is not None:
        found["prefill"] = asked.prefill
    if asked.suffixes is not None:
        found["suffixes"] = read_suffixes(Path(asked.suffixes))
    return found


def _judged_again(folder: Path, wanted: Battery) -> dict[str, Any]:
    """Return the verdicts of the other judges on the attacks' answers, by judge and attack.

    Only of judges that are rules: a second model on all samples would cost more than the samples.
    """
    assert wanted.attacks is not None
    found: dict[str, Any] = {}
    for name in (name for name in wanted.also_judges if ":" not in name):
        found[name] = {}
        for how in wanted.attacks.attacks:
            answers = read_responses(folder, f"attack-{how.name}")
            verdicts = [one.verdict.value for one in judge_with_reasons(answers, name)]
            size = how.num_variants
            found[name][how.name] = [
                verdicts[start : start + size] for start in range(0, len(verdicts), size)
            ]
    return found


def measure(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Battery,
    *,
    reporter: Reporter,
) -> Output:
    """Measure the model as it stands, answer by answer into `folder`."""
    start = time.monotonic()
    output = evaluate_model(folder, model, tokenizer, wanted.suite, reporter=reporter)
    result, files = dict(output.result), list(output.files)
    responses = read_responses(folder, "harmful")
    also = {name: judge_with_reasons(responses, name) for name in wanted.also_judges}
    result["also_judged"] = {name: [one.verdict.value for one in also[name]] for name in also}
    is_final = output.is_final and not any(one.is_outage for row in also.values() for one in row)
    result["attacks"], result["attacks_also_judged"] = None, {}
    if wanted.attacks is not None:
        attacked = attack_model(folder, model, tokenizer, wanted.attacks, reporter=reporter)
        result["attacks"] = attacked.result["verdicts"]
        result["attacks_also_judged"] = _judged_again(folder, wanted)
        files += attacked.files
        is_final = is_final and attacked.is_final
    result["zero_shot"] = None
    if wanted.zero_shot is not None:
        answered = zero_shot_model(folder, model, tokenizer, wanted.zero_shot, reporter=reporter)
        result["zero_shot"] = answered.result
        files += answered.files
    result["measured_s"] = round(time.monotonic() - start, 3)
    return Output(result, files, is_final)
