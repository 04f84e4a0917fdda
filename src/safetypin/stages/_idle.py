"""Options that would do nothing beside the others: refused in words, and never passed over.

Only what a person gave counts. A settings file or an experiment may hold values for several runs,
of which each takes what it needs.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import UserError
from safetypin.intervene import PROTECTIONS
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._set_files import DRAWN, TOPS
from safetypin.stages._settings import check_choice
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_source import open_source
from safetypin.stages._tune_config import TuneConfig

# options of `tune` by the name under which a protection takes them
TAKEN = {
    "r": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "lora_targets",
    "coverage": "lora_coverage",
    "train_others": "train_others",
}
BASIS = ("rotation", "layers", "basis_counted")
COEFFICIENTS = ("importance", "keep_ratio", "keep_group", "form")
SCORES = ("method", "counted", "reduction", "score_batch_size", "targets", "keep_scores")
CALIBRATION = ("safety", "utility", "num_safety", "num_utility")
SHARES = ("group", "q", "p", "top")
EVALUATION = (
    "attack", "harmless", "borderline", "text", "num_attack", "num_harmless", "num_borderline",
    "num_text", "window", "max_degenerate", "allow_shared_prompts",
)  # fmt: skip
ANSWERS = ("max_new_tokens", "answer_batch_size", "judge", "judge_options", "prompt_column")
COUNTING = ("wanda", "sparsegpt")  # methods that read an example's `counted` tokens
PROMPTLESS = ("magnitude", "magnitude-difference", "random")
SPELT = {"gates": "gate", "judge_options": "judge-option"}  # where the option has another name


@dataclasses.dataclass(frozen=True)
class Idle:
    """Settings that nothing reads, and why."""

    names: tuple[str, ...]
    why: str


def refuse_idle(given: Mapping[str, Any], idle: Iterable[Idle]) -> None:
    """Raise for the first option that was given and would do nothing.

    Args:
        given: Options by the name of their setting; None is not given.
        idle: What would do nothing.

    Raises:
        UserError: There is one.
    """
    for rule in idle:
        for name in rule.names:
            if given.get(name) is not None:
                option = SPELT.get(name, name.replace("_", "-"))
                raise UserError(f"--{option} would do nothing: {rule.why}; leave it out")


def idle_audit_options(method: str, controls: Collection[str]) -> list[Idle]:
    """Return the settings of `audit` that a run by this method with these controls never reads."""
    beside = f"the controls are {', '.join(controls) or 'none'}"
    numbers = {"random": "num_random", "matched": "num_matched"}
    unused = [Idle((numbers[kind],), beside) for kind in numbers if kind not in controls]
    return [*_idle_method(method), *unused]


def idle_score_options(method: str) -> list[Idle]:
    """Return the options of `score` that this method never reads."""
    idle = _idle_method(method)
    # here it is the batch of scores alone; an audit's is that of answers
    names = ("batch_size",) if method in PROMPTLESS else ()
    return [*idle, Idle(names, f"the method {method} reads no prompts")]


def idle_select_options(control: str | None, *, subtracts: bool) -> list[Idle]:
    """Return the options of `select` that do nothing beside the others.

    Args:
        control: Which control is saved in the set's place.
        subtracts: Whether there are utility scores.

    Raises:
        UserError: No such control.
    """
    if control is not None:
        check_choice("control", control, (*DRAWN, *TOPS))
    # a top of the utility scores lacks more than a share: `select` asks for the scores
    has_p = subtracts or control == "top_utility"
    idle = [] if has_p else [Idle(("p",), "no utility scores are given to subtract the top of")]
    if control not in DRAWN:
        why = f"only --control {' and '.join(DRAWN)} draw, among the weights of a model"
        idle.append(Idle(("seed", "model"), why))
    return idle


def idle_contrast_options(config: ContrastConfig) -> list[Idle]:
    """Return the settings of `contrast` that this run would never read."""
    idle = []
    if config.method == "ablation":
        alone = "--method ablation scores one model, and compares nothing"
        idle.append(Idle(("scale", "weighting", "one_at_a_time"), alone))
    if config.foundation is None:
        idle.append(Idle(("num_foundation", "foundation_fraction"), "there is no --foundation"))
    if config.adapter_off:
        idle.append(Idle(("one_at_a_time",), "--adapter-off has one set of weights"))
    if not config.answers:
        idle.append(Idle(("max_new_tokens",), f"--counted {config.counted} needs no answers"))
    return idle


def idle_tune_options(config: TuneConfig) -> list[Idle]:
    """Return the settings of `tune` that this run would never read."""
    return [*_idle_protection(config), *_idle_set(config), *_idle_training(config)]


def _idle_protection(config: TuneConfig) -> list[Idle]:
    kind, idle = PROTECTIONS[config.protect], []
    for taken, name in TAKEN.items():
        if taken not in kind.options:
            others = [other for other, known in PROTECTIONS.items() if taken in known.options]
            why = f"it belongs to --protect {' or '.join(others)}, and this is {config.protect}"
            idle.append(Idle((name,), why))
    if not config.is_rotated:
        rotated = [name for name, known in PROTECTIONS.items() if known.needs_basis]
        why = f"it belongs to --protect {' or '.join(rotated)}, and this is {config.protect}"
        return [*idle, Idle((*BASIS, *COEFFICIENTS, "draw_seed"), why)]
    if config.mask is not None:
        why = "the basis and the coefficients are those of --mask"
        kept = () if config.protect == "warp-lora" else ("targets",)
        return [*idle, Idle((*BASIS, *COEFFICIENTS, "draw_seed", *kept), why)]
    if config.rotation != "input":
        why = f"--rotation {config.rotation} makes a basis that reads no inputs"
        idle.append(Idle(("basis_counted",), why))
    if "random" not in (config.rotation, config.importance):
        idle.append(Idle(("draw_seed",), "nothing here is drawn at random"))
    if config.whole_directions:
        idle.append(Idle(("keep_group",), "whole directions are taken in each matrix"))
    return idle


def _idle_set(config: TuneConfig) -> list[Idle]:
    no_mask = Idle(("any_model",), "no set of another model is given; name one with --mask")
    if config.is_rotated:
        no_mask = Idle(("any_model",), "a basis belongs to its model")
    if not config.makes_set:
        why = (
            f"--protect {config.protect} needs no set, so none is made"
            if config.mask is None
            else f"the set is there already, in {config.mask}, so nothing is scored"
        )
        scores = tuple(name for name in SCORES if name != "targets")
        kept = () if config.is_rotated else ("targets",)
        used = config.mask is not None and not config.is_rotated
        unused = Idle((*scores, *kept, *CALIBRATION, *SHARES), why)
        return [unused] if used else [unused, no_mask]
    if config.is_rotated:
        why = f"--protect {config.protect} scores coefficients, by safety alone; see --keep-ratio"
        names = ("utility", "num_utility", "method", "counted", "keep_scores", *SHARES)
        return [Idle(names, why), no_mask]
    return [*_idle_method(config.method), no_mask]


def _idle_method(method: str) -> list[Idle]:
    """Return what a way to score does not read."""
    idle = []
    if method not in COUNTING:
        why = f"only Wanda and SparseGPT count tokens, and the method is {method}"
        idle.append(Idle(("counted",), why))
    if method != "snip":
        idle.append(Idle(("reduction",), f"only SNIP has a loss, and the method is {method}"))
    if method in PROMPTLESS:
        why = f"the method {method} reads no prompts"
        idle.append(Idle(("score_batch_size",), why))
    return idle


def _idle_training(config: TuneConfig) -> list[Idle]:
    idle = []
    if config.max_steps is not None:
        why = f"the training ends after {config.max_steps} steps (max_steps), however many epochs"
        idle.append(Idle(("epochs",), f"{why} that is"))
    if not config.exact_match:
        idle.append(Idle(("exact_match_tokens",), "no answers are compared without --exact-match"))
    if not config.holds_out:
        names = ("exact_match", "exact_match_tokens", "num_task")
        idle.append(Idle(names, "eval_fraction 0 holds no examples out"))
    if config.eval_data is not None:
        idle.append(Idle(("eval_fraction",), "the held-out examples are those of --eval-data"))
    if config.schedule == "constant":
        idle.append(Idle(("warmup_ratio",), "the schedule constant has no warm-up"))
    return idle


def idle_track_options(config: TrackConfig) -> list[Idle]:
    """Return the settings of `track` that this run would never read.

    Raises:
        UserError: The run cannot be read.
    """
    idle, source = [], open_source(Path(config.run))
    if config.groups is None and source.held is None:
        idle.append(Idle(("any_model",), "no set of another model is given; name it with --groups"))
    is_evaluated = config.reference is None and source.is_of_tune
    if is_evaluated:
        why = "the run of tune answered its prompts itself, and those answers are taken"
        idle.append(Idle(EVALUATION, why))
    if config.rescore:
        return [*idle, *_idle_method(config.method)]
    why = "--no-rescore makes no scores"
    idle.append(Idle((*SCORES, *CALIBRATION, *SHARES), why))
    if is_evaluated:
        idle.append(Idle(ANSWERS, f"{why}, and the run of tune answered its prompts itself"))
    return idle
