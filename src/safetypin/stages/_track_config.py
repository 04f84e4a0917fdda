"""What `track` is asked to do: presets, a TOML file, options; in that order, the later wins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from safetypin.artifacts import UserError
from safetypin.evaluate import check_judge, judge_options
from safetypin.prompts import COUNTED
from safetypin.select import GROUPS
from safetypin.stages._score import check_method
from safetypin.stages._settings import check_choice, check_share, join_settings, one_or_many

LISTS = ("targets", "judge_options")


class TrackConfig(BaseModel):
    """Every value of a tracking run.

    Shares are fractions in [0, 1]: 1 % is 0.01. `q` None is that of the given set, else 1 %; `p`
    None is the given set's where `q` is, else the same as q. `top` None cuts the tops of safety and
    of utility, which are followed beside the critical set, at q and at p. `reference` None is the
    model that the run of `safetypin tune` began with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    preset: Literal["quick", "standard", "paper"] = "standard"
    reference: str | None = None
    groups: str | None = None
    set: str | None = None
    control: str | None = None
    any_model: bool = False
    dtype: str = "auto"
    device: str | None = None
    plain: bool = False
    system: str | None = None
    seed: int = 0

    q: float | None = None
    p: float | None = None
    top: float | None = None
    group: str = "matrix"
    num_permutations: int = Field(default=999, ge=1)

    rescore: bool = True
    method: str = "snip"
    counted: str = "response"
    reduction: Literal["mean", "sum"] = "mean"
    score_batch_size: int = Field(default=8, ge=1)
    targets: tuple[str, ...] | None = None
    keep_scores: bool = False

    safety: str = "builtin-harmful:calibration"
    utility: str = "builtin-harmless:calibration"
    attack: str = "builtin-harmful:evaluation"
    harmless: str = "builtin-harmless:evaluation"
    borderline: str = "builtin-borderline"
    text: str = "builtin-text"
    prompt_column: str = "prompt"
    allow_shared_prompts: bool = False
    num_safety: int = Field(default=128, ge=2)
    num_utility: int = Field(default=128, ge=2)
    num_attack: int = Field(default=100, ge=1)
    num_harmless: int = Field(default=50, ge=1)
    num_borderline: int = Field(default=50, ge=1)
    num_text: int = Field(default=60, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)
    answer_batch_size: int = Field(default=32, ge=1)
    window: int = Field(default=512, ge=2)
    judge: str = "phrases"
    judge_options: tuple[str, ...] = ()
    max_degenerate: float = Field(default=0.2, ge=0, le=1)

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return one_or_many(value)

    @model_validator(mode="after")
    def _check(self) -> "TrackConfig":
        check_method(self.method)
        check_choice("counted", self.counted, COUNTED)
        check_choice("group", self.group, GROUPS)
        for name, share in {"q": self.q, "p": self.p, "top": self.top}.items():
            if share is not None:
                check_share(name, share)
        if self.set is not None and self.groups is None:
            raise UserError("--set chooses one of an audit's sets; name the audit with --groups")
        if not self.rescore and self.control is not None:
            raise UserError(
                "the control run is there to compare scores, and --no-rescore leaves them out; "
                "leave one of the two out"
            )
        check_judge(self.judge, judge_options(self.judge_options))
        return self


TRACK_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "num_permutations": 199,
        "num_safety": 40,
        "num_utility": 40,
        "num_attack": 40,
        "num_harmless": 16,
        "num_borderline": 16,
        "num_text": 16,
        "max_new_tokens": 20,
    },
    "standard": {},
    # the second experiment of the source documents: the top 0.2 % of safety minus the top 5 % of
    # utility; answers as long as in the audit's paper preset
    "paper": {"q": 0.002, "p": 0.05, "max_new_tokens": 256},
}


def make_track_config(
    run: str | None, preset: str | None, file: Path | None, options: Mapping[str, Any]
) -> TrackConfig:
    """Join a preset, a TOML file and options (None: not given) into one checked config.

    Raises:
        UserError: A value is wrong or missing or a key unknown, with the nearest names.
    """
    return join_settings(
        TrackConfig,
        TRACK_PRESETS,
        preset=preset,
        file=file,
        options={**options, "run": run},
        required={"run": "name a run of `safetypin tune` or a folder of checkpoints as RUN"},
    )
