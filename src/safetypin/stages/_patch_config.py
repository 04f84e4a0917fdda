"""What `patch` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from safetypin.artifacts import UserError
from safetypin.evaluate import check_judge, judge_options
from safetypin.stages._settings import join_settings, one_or_many


class PatchConfig(BaseModel):
    """Every value of a patching run. Shares are fractions in [0, 1]: 5 % is 0.05."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    preset: Literal["standard"] = "standard"
    reference: str
    neurons: str
    fractions: tuple[float, ...] = (0.01, 0.05, 0.2, 1.0)
    ablate_fractions: tuple[float, ...] = (0.05,)
    ablate_with: Literal["zero", "mean", "reference"] = "zero"
    num_random: int = Field(default=3, ge=0)
    any_model: bool = False
    allow_shared_prompts: bool = False

    attack: str = "builtin-harmful:evaluation"
    prompt_column: str = "prompt"
    num_attack: int = Field(default=48, ge=1)
    text: str = "builtin-text"
    num_text: int = Field(default=16, ge=1)
    window: int = Field(default=512, ge=2)
    max_new_tokens: int = Field(default=32, ge=1)
    batch_size: int = Field(default=16, ge=1)
    judge: str = "phrases"
    judge_options: tuple[str, ...] = ()
    max_degenerate: float = Field(default=0.2, ge=0, le=1)

    dtype: str = "auto"
    device: str | None = None
    plain: bool = False
    system: str | None = None
    seed: int = 0

    @field_validator("fractions", "ablate_fractions", "judge_options", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return one_or_many(value)

    @model_validator(mode="after")
    def _check(self) -> "PatchConfig":
        for name in ("fractions", "ablate_fractions"):
            for value in getattr(self, name):
                if not 0 < value <= 1:
                    raise UserError(
                        f"{name} must be above 0 and at most 1, got {value:g}; 5 % is 0.05"
                    )
        if not self.fractions:
            raise UserError("no size was given; name the shares of units with --fractions")
        check_judge(self.judge, judge_options(self.judge_options))
        return self


def make_patch_config(model: str | None, options: dict[str, Any]) -> PatchConfig:
    """Check the options (None: not given) of a patching run.

    Raises:
        UserError: A value is wrong or missing.
    """
    return join_settings(
        PatchConfig,
        {"standard": {}},
        preset=None,
        file=None,
        options={**options, "model": model},
        required={
            "model": "name the aligned one as MODEL",
            "reference": "name the unaligned model with --reference",
            "neurons": "name a folder of `safetypin contrast` with --neurons",
        },
    )
