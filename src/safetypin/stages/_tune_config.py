"""What `tune` is asked to do: presets, a TOML file, options; in that order, the later wins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from safetypin.artifacts import UserError
from safetypin.evaluate import check_judge, judge_options
from safetypin.intervene import PROTECTIONS, Training
from safetypin.prompts import COUNTED
from safetypin.select import GROUPS
from safetypin.stages._gates import OF_TASK, parse_gate
from safetypin.stages._score import REDUCTIONS, check_method
from safetypin.stages._settings import check_choice, check_share, join_settings, one_or_many

CONTROLS = {"random": "count", "matched": "magnitude"}  # how each is matched to the set
ROTATIONS = ("input", "random", "identity")
IMPORTANCES = ("gradient", "random", "bottom")
FORMS = ("entry", "column")
KEEP_GROUPS = ("matrix", "model")
DEFAULT = Training()
LISTS = ("gates", "targets", "lora_targets", "judge_options", "report_to")


class TuneConfig(BaseModel):
    """Every value of a fine-tuning run.

    Shares are fractions in [0, 1]: 1 % is 0.01. `p` None means "the same as q", `learning_rate`
    None the protection's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    preset: Literal["quick", "standard", "paper", "warp"] = "standard"
    dtype: str = "auto"
    device: str | None = None
    plain: bool = False
    system: str | None = None
    seed: int = DEFAULT.seed
    sample_seed: int = 0
    draw_seed: int | None = None

    data: str
    prompt_column: str = "prompt"
    response_column: str = "response"
    num_data: int | None = Field(default=None, ge=1)
    eval_data: str | None = None
    eval_fraction: float = Field(default=0.1, ge=0, lt=1)
    num_task: int = Field(default=100, ge=1)
    exact_match: bool = False
    exact_match_tokens: int = Field(default=256, ge=1)

    protect: str
    mask: str | None = None
    set: str | None = None
    control: str | None = None
    any_model: bool = False
    rotation: str = "input"
    importance: str = "gradient"
    form: str | None = None
    keep_ratio: float = 0.1
    keep_group: str = "matrix"
    layers: str = "all"
    basis_counted: str = "all"
    train_others: bool = False
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    lora_coverage: float = Field(default=1.0, gt=0, le=1)

    epochs: float = Field(default=DEFAULT.epochs, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=DEFAULT.batch_size, ge=1)
    accumulation: int = Field(default=DEFAULT.accumulation, ge=1)
    max_length: int = Field(default=DEFAULT.max_length, ge=2)
    weight_decay: float = Field(default=DEFAULT.weight_decay, ge=0)
    optimizer: str = DEFAULT.optimizer
    schedule: str = DEFAULT.schedule
    warmup_ratio: float = Field(default=DEFAULT.warmup_ratio, ge=0, lt=1)
    max_grad_norm: float = Field(default=DEFAULT.max_grad_norm, ge=0)
    precision: str = DEFAULT.precision
    gradient_checkpointing: bool = False
    save_steps: int | None = Field(default=None, ge=1)
    report_to: tuple[str, ...] = ()

    attack: str = "builtin-harmful:evaluation"
    harmless: str = "builtin-harmless:evaluation"
    borderline: str = "builtin-borderline"
    text: str = "builtin-text"
    safety: str = "builtin-harmful:calibration"
    utility: str = "builtin-harmless:calibration"
    allow_shared_prompts: bool = False
    num_attack: int = Field(default=100, ge=1)
    num_harmless: int = Field(default=50, ge=1)
    num_borderline: int = Field(default=50, ge=1)
    num_text: int = Field(default=60, ge=1)
    num_safety: int = Field(default=128, ge=1)
    num_utility: int = Field(default=128, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)
    answer_batch_size: int = Field(default=32, ge=1)
    window: int = Field(default=512, ge=2)
    judge: str = "phrases"
    judge_options: tuple[str, ...] = ()

    method: str = "snip"
    counted: str = "response"
    reduction: str = "mean"
    score_batch_size: int = Field(default=8, ge=1)
    targets: tuple[str, ...] | None = None
    group: str = "matrix"
    q: float = 0.01
    p: float | None = None
    keep_scores: bool = False

    gates: tuple[str, ...] = ()
    max_degenerate: float = Field(default=0.2, ge=0, le=1)

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return one_or_many(value)

    @model_validator(mode="after")
    def _check(self) -> "TuneConfig":
        check_choice("protect", self.protect, PROTECTIONS)
        check_method(self.method)
        check_choice("counted", self.counted, COUNTED)
        check_choice("group", self.group, GROUPS)
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_share("q", self.q)
        check_share("p", self.shares[1])
        if self.control is not None:
            check_choice("control", self.control, CONTROLS)
        self._check_gates()
        self._check_set()
        self._check_rotation()
        assert self.training  # raises what is wrong with it
        check_judge(self.judge, judge_options(self.judge_options))
        return self

    def _check_gates(self) -> None:
        for gate in map(parse_gate, self.gates):
            if gate.name.startswith("exact_match") and not self.exact_match:
                raise UserError(
                    f"gate {gate.text!r} needs --exact-match, which answers the held-out problems"
                )
            if gate.name in OF_TASK and not self.holds_out:
                raise UserError(
                    f"gate {gate.text!r} needs held-out examples, and eval_fraction 0 holds none "
                    "out; give some with --eval-data, or a share of --data with --eval-fraction"
                )

    def _check_set(self) -> None:
        kind = PROTECTIONS[self.protect]
        if kind.needs_neurons and self.mask is None:
            foundation = " --foundation SET" if kind.needs_foundation else ""
            raise UserError(
                f"--protect {self.protect} needs a set of neurons; make one with `safetypin "
                f"contrast MODEL --method ablation{foundation}` and name its folder with --mask"
            )
        if self.set is not None and self.mask is None:
            raise UserError("--set chooses one of an audit's sets; name the audit with --mask")
        given = [name for name in ("mask", "control") if getattr(self, name) is not None]
        if given and not kind.needs_mask:
            uses = ", ".join(name for name, kind in PROTECTIONS.items() if kind.needs_mask)
            raise UserError(
                f"--protect {self.protect} protects no set of weights, so "
                f"--{given[0].replace('_', '-')} would do nothing; leave it out, or choose one of "
                f"{uses}"
            )

    def _check_rotation(self) -> None:
        check_choice("rotation", self.rotation, ROTATIONS)
        check_choice("importance", self.importance, IMPORTANCES)
        check_choice("keep_group", self.keep_group, KEEP_GROUPS)
        check_choice("basis_counted", self.basis_counted, COUNTED)
        if self.form is not None:
            check_choice("form", self.form, FORMS)
        if not 0 <= self.keep_ratio <= 1:
            percent = f"; {self.keep_ratio:g} % is {self.keep_ratio / 100:g}"
            raise UserError(
                f"keep_ratio must be in [0, 1], got {self.keep_ratio:g}"
                f"{percent if 1 < self.keep_ratio <= 100 else ''}"
            )
        if self.is_rotated and self.control is not None:
            raise UserError(
                f"--protect {self.protect} has no --control; its controls are --importance random "
                "or bottom, --rotation random or identity, and --keep-ratio 0"
            )

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out examples of the task."""
        return self.eval_data is not None or self.eval_fraction > 0

    @property
    def is_rotated(self) -> bool:
        """Whether the protection is of coefficients in a basis."""
        return PROTECTIONS[self.protect].needs_basis

    @property
    def whole_directions(self) -> bool:
        """Whether whole directions are held: where asked for, and under adapters."""
        return (self.form or ("column" if self.protect == "warp-lora" else "entry")) == "column"

    @property
    def drawn_with(self) -> int:
        """The seed of random masks and rotations."""
        return self.sample_seed if self.draw_seed is None else self.draw_seed

    @property
    def scored(self) -> tuple[str, ...]:
        """The prompt sets that are scored on, if the set is made here."""
        if not self.makes_set:
            return ()
        return ("safety",) if self.is_rotated else ("safety", "utility")

    @property
    def shares(self) -> tuple[float, float]:
        """The shares (q, p) of a set that is made here."""
        return self.q, self.q if self.p is None else self.p

    @property
    def makes_set(self) -> bool:
        """Whether the set is made here: the protection needs one and none is given."""
        return PROTECTIONS[self.protect].needs_mask and self.mask is None

    @property
    def training(self) -> Training:
        """How the model is trained."""
        names = Training.__dataclass_fields__
        return Training(**{name: getattr(self, name) for name in names})


TUNE_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "max_steps": 25,
        "num_task": 20,
        "num_attack": 40,
        "num_harmless": 16,
        "num_borderline": 16,
        "num_text": 16,
        "num_safety": 40,
        "num_utility": 40,
        "max_new_tokens": 20,
    },
    "standard": {},
    # the source documents' experiments: the top 5 % of safety minus the top 5 % of utility, one
    # epoch, a checkpoint every 500 steps; answers as long as in the audit's paper preset
    "paper": {
        "epochs": 1.0,
        "save_steps": 500,
        "q": 0.05,
        "p": 0.05,
        "max_new_tokens": 256,
    },
    # document 003: 100 safety samples in batches of 4, 10 % of each module kept, batches of 2
    # for 3 epochs at 5e-5 (its 1,000 problems of GSM8K are --num-data 1000)
    "warp": {
        "num_safety": 100,
        "score_batch_size": 4,
        "keep_ratio": 0.1,
        "epochs": 3.0,
        "learning_rate": 5e-5,
        "batch_size": 2,
    },
}


def make_tune_config(
    model: str | None,
    preset: str | None,
    file: Path | None,
    options: Mapping[str, Any],
    otherwise: Mapping[str, Any] | None = None,
) -> TuneConfig:
    """Join a preset, `otherwise`, a TOML file and options (None: not given) into one config.

    Raises:
        UserError: A value is wrong or missing or a key unknown, with the nearest names.
    """
    return join_settings(
        TuneConfig,
        TUNE_PRESETS,
        preset=preset,
        file=file,
        options={**options, "model": model},
        required={
            "model": "name one as MODEL",
            "data": "name the examples to train on with --data",
            "protect": f"choose one of {', '.join(PROTECTIONS)} with --protect",
        },
        gives_way={"max_steps": "epochs"},  # else `quick` would stop them at its 25 steps
        otherwise=otherwise,
    )
