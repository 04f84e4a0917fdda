"""Random scores: the control that every other score must beat."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, WeightScores
from safetypin.models import block_weights, coverage, model_id, transposed
from safetypin.passes import Progress


class RandomTensors(Mapping[str, Tensor]):
    """Uniform numbers in [0, 1), drawn again, and the same, each time they are asked for.

    A weight's numbers depend on the seed and its name alone, not on which others are scored.
    """

    def __init__(
        self, places: Mapping[str, tuple[tuple[int, ...], torch.device]], seed: int
    ) -> None:
        self._places = places
        self._seed = seed

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        shape, device = self._places[name]
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))
        # drawn on the CPU, so that every device gives the same
        return torch.rand(shape, generator=generator).to(device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def random_scores(
    model: PreTrainedModel,
    batches: Iterable[Batch] = (),
    *,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by a uniform random number, whatever the prompts: a control.

    `batches` and `progress` are not used.

    Raises:
        UserError: As `block_weights` says.
    """
    weights = block_weights(model, targets)
    places = {name: (tuple(w.weight.shape), w.weight.device) for name, w in weights.items()}
    return WeightScores(
        tensors=RandomTensors(places, seed),
        method="random",
        model_id=model_id(model),
        prompts_id=prompts_id,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
    )
