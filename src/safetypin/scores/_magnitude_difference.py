"""Magnitude of the difference: how far a weight is from that of a reference model.

Wei et al. 2024 (arXiv:2402.05162) call it weight difference: the aligned model against its base.
"""

from collections.abc import Iterable, Iterator, Mapping

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import ArtifactMismatchError, Batch, UserError, WeightScores, bit_sum
from safetypin.models import block_weights, coverage, model_id, transposed
from safetypin.passes import Progress


def magnitude_difference(
    model: PreTrainedModel,
    batches: Iterable[Batch] = (),
    *,
    reference: PreTrainedModel | None = None,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by `|W_ij - W_ref,ij|`, whatever the prompts: a baseline.

    The scores are made when they are asked for. `batches` and `progress` are not used.

    Args:
        model: The model to score, such as a chat model.
        batches: Not used.
        reference: The model to compare with, such as its base, in the same coordinates.
        targets: Patterns of roles or module names; see `block_weights`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        progress: Not used.

    Raises:
        UserError: No reference, or one with the same weights.
        ArtifactMismatchError: The reference has no such weight, or one of another shape.
    """
    if reference is None:
        raise UserError(
            "magnitude-difference compares with another model; give one as the reference "
            "(safetypin score --reference)"
        )
    weights = block_weights(model, targets)
    others = dict(reference.named_parameters())
    for name, weight in weights.items():
        shape = tuple(others[name].shape) if name in others else None
        if shape != tuple(weight.weight.shape):
            raise ArtifactMismatchError(
                f"{name} is {tuple(weight.weight.shape)} in the model and {shape or 'not'} in the "
                "reference; only models of equal architecture can be compared weight by weight"
            )
    identities = [model_id(model), model_id(reference)]
    if identities[0] == identities[1]:
        raise UserError(f"the reference has the weights of the model itself, {identities[0]}")
    return WeightScores(
        tensors=_Differences(
            {name: weight.weight for name, weight in weights.items()},
            {name: others[name] for name in weights},
        ),
        method="magnitude-difference",
        model_id=identities[0],
        prompts_id=prompts_id,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
        reference_id=identities[1],
    )


class _Differences(Mapping[str, Tensor]):
    """|W - W_ref|, made anew each time one is asked for; a change of either is an error."""

    def __init__(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        self._pairs = {name: (weight, others[name]) for name, weight in weights.items()}
        self._sums = {name: self._bits(name) for name in self._pairs}

    def _bits(self, name: str) -> tuple[int, ...]:
        return tuple(map(bit_sum, self._pairs[name]))

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        if self._bits(name) != self._sums[name]:
            raise ArtifactMismatchError(
                f"{name} changed after it was scored; select before the model is pruned or trained"
            )
        weight, other = (part.detach() for part in self._pairs[name])
        return (weight.float() - other.to(weight.device).float()).abs_()

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)
