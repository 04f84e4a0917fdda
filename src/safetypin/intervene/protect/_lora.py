"""LoRA, through PEFT: low-rank adapters beside frozen weights. Hu et al. 2021 (2106.09685)."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safetypin.artifacts import UserError
from safetypin.intervene.protect._protection import Guard, Protection
from safetypin.intervene.protect._targets import adapted_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora(Protection):
    """Adapters of low rank are trained; the model's own weights are frozen.

    The change of a layer's weight is `s B A` with `s = alpha / r`.

    Attributes:
        r: Rank of the adapters.
        alpha: Their scale times r.
        dropout: Share of each adapter's inputs that is dropped while training.
        targets: Layers that carry an adapter: names, roles or patterns.
    """

    learning_rate: ClassVar[float] = 1e-4
    trains_weights: ClassVar[bool] = False

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UserError(f"the rank of LoRA must be at least 1, got {self.r}")
        if not self.alpha > 0:
            raise UserError(f"the alpha of LoRA must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"the dropout of LoRA must be in [0, 1), got {self.dropout}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        names = ("r", "alpha", "dropout", "targets")
        values = {name: getattr(self, name) for name in names}
        return {**super().settings, **values, "targets": list(self.targets)}

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless every target is there and can carry an adapter."""
        adapted_layers(model, self.targets)

    def begin(self, model: PreTrainedModel) -> Guard:
        """Put adapters on the targets."""
        adapted = self.adapt(model)
        return Guard(model=adapted, undo=adapted.unload, needs_whole=False)

    def adapt(
        self, model: PreTrainedModel, layer_class: type[nn.Module] | None = None
    ) -> PeftModel:
        """Return a PEFT model over the model, whose adapters are made by `layer_class` if given."""
        layers = adapted_layers(model, self.targets)
        transposed = {isinstance(layer, Conv1D) for layer in layers.values()}
        if len(transposed) > 1:
            raise UserError(
                "the targets mix linear layers of two layouts, which PEFT cannot adapt at once; "
                f"name those of one kind only, first {next(iter(layers))!r}"
            )
        # as they were asked for where PEFT knows the names, so that its config stays readable
        names = {
            next((t for t in self.targets if f".{name}".endswith(f".{t}")), name) for name in layers
        }
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=sorted(names),
            fan_in_fan_out=transposed.pop(),
        )
        if layer_class is not None:
            config._register_custom_module({nn.Linear: layer_class, Conv1D: layer_class})
        with warnings.catch_warnings():
            # PEFT asks transformers for gradient checkpointing by a name that is on its way out
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(model, config)
        assert isinstance(adapted, PeftModel)
        return adapted
