"""The model that a run works on, and what it is scored on."""

import dataclasses
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Verdict
from safetypin.prompts import template_id

# the sets that weights are scored on, and which of the model's own answers count for each
SCORED = {"safety": Verdict.REFUSAL, "utility": Verdict.COMPLIED}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A loaded model.

    Attributes:
        model: Itself.
        tokenizer: Its own.
        identity: Its `model_id` when it was loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: str

    @property
    def inputs(self) -> dict[str, Any]:
        """What every stage on the model depends on."""
        return model_inputs(self.model, self.tokenizer, self.identity)


def model_inputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identity: str
) -> dict[str, Any]:
    """Return what every stage on a model depends on.

    The id is the same for float32 and bfloat16 and under another chat template; the answers are
    not.
    """
    template = template_id(tokenizer)
    return {"model_id": identity, "dtype": str(model.dtype), "template": template}
