"""What `guard fit` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safetypin.artifacts import UserError
from safetypin.predict import CLASSIFIERS, POOLINGS
from safetypin.stages._settings import check_choice, check_share, join_settings

SETS = ("contrast", "random", "pca", "all")


class GuardConfig(BaseModel):
    """Every value of a guard. Shares are fractions in [0, 1]: 5 % is 0.05."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    preset: Literal["standard"] = "standard"
    neurons: str
    features: str = "contrast"
    classifier: str = "logistic"
    pooling: str = "last"
    false_positive_rate: float = Field(default=0.05, ge=0, lt=1)
    num_random: int = Field(default=3, ge=0)
    any_model: bool = False

    unsafe: str = "builtin-harmful:evaluation"
    safe: str = "builtin-harmless:evaluation"
    other_unsafe: str | None = None
    other_safe: str | None = None
    prompt_column: str = "prompt"
    num_prompts: int | None = Field(default=None, ge=4)
    test_fraction: float = 0.3

    dtype: str = "auto"
    device: str | None = None
    plain: bool = False
    system: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> "GuardConfig":
        check_choice("features", self.features, ("contrast", "pca", "all"))
        check_choice("classifier", self.classifier, CLASSIFIERS)
        check_choice("pooling", self.pooling, POOLINGS)
        check_share("test_fraction", self.test_fraction)
        if (self.other_unsafe is None) != (self.other_safe is None):
            raise UserError("another source needs both --other-unsafe and --other-safe")
        return self


def make_guard_config(model: str | None, options: dict[str, Any]) -> GuardConfig:
    """Check the options (None: not given) of a guard.

    Raises:
        UserError: A value is wrong or missing.
    """
    return join_settings(
        GuardConfig,
        {"standard": {}},
        preset=None,
        file=None,
        options={**options, "model": model},
        required={
            "model": "name one with --model",
            "neurons": "name a folder of `safetypin contrast` with --neurons",
        },
    )
