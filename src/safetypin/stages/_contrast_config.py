"""What `contrast` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safetypin.artifacts import UserError
from safetypin.prompts import COUNTED
from safetypin.scores import SCALES, WEIGHTINGS
from safetypin.select import NEURON_GROUPS
from safetypin.stages._settings import check_choice, check_share, join_settings

METHODS = ("contrast", "ablation")
SITES = {"contrast": ("neuron", "residual"), "ablation": ("neuron", "query")}


class ContrastConfig(BaseModel):
    """Every value of a contrast. Shares are fractions in [0, 1]: 5 % is 0.05."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    preset: Literal["standard"] = "standard"
    reference: str | None = None
    adapter_off: bool = False
    method: str = "contrast"
    site: str = "neuron"
    scale: str = "plain"
    weighting: str = "token"
    fraction: float = 0.05
    group: str = "model"

    prompts: str = "builtin-harmful:calibration"
    prompt_column: str = "prompt"
    num_prompts: int = Field(default=64, ge=2)
    counted: str = "response"
    max_new_tokens: int = Field(default=32, ge=1)
    batch_size: int = Field(default=8, ge=1)
    foundation: str | None = None
    num_foundation: int = Field(default=64, ge=1)
    foundation_fraction: float | None = None
    one_at_a_time: bool | None = None

    dtype: str = "auto"
    device: str | None = None
    plain: bool = False
    system: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> "ContrastConfig":
        check_choice("method", self.method, METHODS)
        check_choice("site", self.site, SITES[self.method])
        check_choice("scale", self.scale, SCALES)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        check_choice("group", self.group, NEURON_GROUPS)
        check_choice("counted", self.counted, COUNTED)
        check_share("fraction", self.fraction)
        if self.foundation_fraction is not None:
            check_share("foundation_fraction", self.foundation_fraction)
        self._check_pair()
        return self

    def _check_pair(self) -> None:
        has_pair = self.adapter_off or self.reference is not None
        if self.method == "contrast" and not has_pair:
            raise UserError(
                "no reference was given; name the unaligned model with --reference, or, for a "
                "folder with an adapter, compare it with itself by --adapter-off"
            )
        if self.adapter_off and self.reference is not None:
            raise UserError("--adapter-off makes the reference of MODEL itself; leave one out")
        if self.method == "ablation" and has_pair:
            raise UserError(
                "the ablation effect is of one model; leave --reference and --adapter-off out"
            )
        if self.method == "contrast" and self.foundation is not None:
            raise UserError("--foundation belongs to --method ablation; leave it out")

    @property
    def answers(self) -> bool:
        """Whether prompts without responses are answered first, as their answers count."""
        return self.counted in {"response", "predictive", "all"}


def make_contrast_config(model: str | None, options: dict[str, Any]) -> ContrastConfig:
    """Check the options (None: not given) of a contrast.

    Raises:
        UserError: A value is wrong or missing.
    """
    return join_settings(
        ContrastConfig,
        {"standard": {}},
        preset=None,
        file=None,
        options={**options, "model": model},
        required={"model": "name one as MODEL"},
    )
