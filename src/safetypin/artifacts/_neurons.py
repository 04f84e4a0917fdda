"""Scores and sets of units: neurons, residual coordinates, query coordinates."""

import dataclasses
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from safetypin.artifacts._errors import ArtifactMismatchError
from safetypin.artifacts._masks import Members, model_hash

SITES = ("neuron", "residual", "query")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronScores:
    """One importance score per unit; larger is more important, never negative.

    Attributes:
        tensors: float32 scores by the name of the unit's place, in model order: `(units,)`, or
            `(experts, units)` where a mixture of experts keeps its weights in one tensor.
        site: `neuron`, a coordinate of the gated MLP's hidden vector, the input of its down
            projection; `residual`, a coordinate of the MLP block's output; `query`, a coordinate
            of a rotated query; `head`, an attention head, read at the output projection's input.
        method: How they were scored.
        model_id: `model_id` of the scored model.
        reference_id: `model_id` of the model it was compared with, "" where there was none.
        prompts_id: Fingerprint of the prompts.
        num_examples: Examples that were read.
        num_tokens: Tokens that were counted in all.
    """

    tensors: Mapping[str, Float[Tensor, "..."]]
    site: str
    method: str
    model_id: str
    reference_id: str = ""
    prompts_id: str = ""
    num_examples: int = 0
    num_tokens: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronSet(Members):
    """A set of units: True marks a member. Supports `-`, `&` and `|`.

    Attributes:
        tensors: By the name of the unit's place, shaped as its scores.
        model_id: `model_id` of the model whose units these are.
        reference_id: `model_id` of the model it was compared with: the set is of that one too.
        site: As in `NeuronScores`.
    """

    reference_id: str = ""
    site: str = "neuron"

    @property
    def num_units(self) -> int:
        """Number of units that could be in the set."""
        return self.num_entries

    @property
    def kind(self) -> str:
        """The site."""
        return self.site

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The models that the set is of: the scored one, and the one it was compared with."""
        return tuple(name for name in (self.model_id, self.reference_id) if name)

    def is_of(self, model_id: str) -> bool:
        """Whether the set is of the model with that id."""
        return model_hash(model_id) in {model_hash(name) for name in self.model_ids}

    def check_same(self, other: "NeuronSet") -> None:
        """Raise unless both sets are over the same units of the same model.

        Raises:
            ArtifactMismatchError: Sites, names, shapes or models differ.
        """
        if self.site != other.site:
            raise ArtifactMismatchError(
                f"the sets are of two sites: {self.site} and {other.site}; score both at one site"
            )
        if odd := self.tensors.keys() ^ other.tensors.keys():
            raise ArtifactMismatchError(
                f"{len(odd)} places are in only one of the two sets, first {min(odd)!r}: they are "
                "of two models"
            )
        for name, mask in self.tensors.items():
            if mask.shape != other.tensors[name].shape:
                raise ArtifactMismatchError(
                    f"{name} has {tuple(mask.shape)} units in one set and "
                    f"{tuple(other.tensors[name].shape)} in the other: they are of two models"
                )
        mine, theirs = ({model_hash(i) for i in one.model_ids} for one in (self, other))
        if not mine & theirs:
            raise ArtifactMismatchError(
                f"the sets are of two models: {self.model_id} and {other.model_id}"
            )
