"""Wanda: weight magnitude times input norm.

Sun et al. 2023 (arXiv:2306.11695), eq. 1. Counting response tokens only: Wei et al. 2024
(arXiv:2402.05162), sec. 3.
"""

import logging
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, UserError, WandaTensors, WeightScores
from safetypin.hooks import Call, at_rest, watch
from safetypin.models import BlockWeight, block_weights, coverage, model_id, transposed
from safetypin.passes import Progress, check_rows, forward, input_device, passes, sites_of

MAX_TOKENS = {"cpu": 640, "mps": 1024, "cuda": 4096}  # in one pass

log = logging.getLogger(__name__)


@torch.inference_mode(False)  # it would hide whether a tensor has changed
def wanda(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by `|W_ij| * rms(x_j)`, in one forward pass.

    `rms(x_j)` is the root mean square of input feature j over the counted tokens of all batches.
    The paper's code divides by sequences instead; that is one factor for the whole model, so
    every ranking is the same. In a mixture of experts the sum of squares of an expert's own
    tokens is divided by the number of all counted tokens, so that an expert counts by its use.

    The scores are made when they are asked for; until then only `(d_in,)` numbers a matrix exist.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count.
        targets: Patterns of roles or module names; see `block_weights`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        progress: Called with the number of examples done.

    Raises:
        UserError: No token is counted, a matrix saw none, or activations are not finite.
    """
    weights = block_weights(model, targets)
    sums = SquareSums(weights)
    num_examples = 0
    device = input_device(model)
    with (
        torch.no_grad(),
        at_rest(model),
        watch(sites_of(weights), sums.see),
    ):
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            sums.start(batch.counted)
            forward(model, batch, logits_to_keep=1)
            num_examples += len(batch.input_ids)
            if progress is not None:
                progress(num_examples)
    return WeightScores(
        tensors=WandaTensors({name: w.weight for name, w in weights.items()}, sums.rms()),
        method="wanda",
        model_id=model_id(model),
        prompts_id=prompts_id,
        num_examples=num_examples,
        num_tokens=sums.num_tokens,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
    )


class SquareSums:
    """Sums of squares of each input feature over the counted tokens seen so far."""

    def __init__(self, weights: Mapping[str, BlockWeight]) -> None:
        self._weights = weights
        self._sums = {name: _zeros(weight) for name, weight in weights.items()}
        self._seen: set[str] = set()
        self.num_tokens = 0

    def start(self, counted: Bool[Tensor, "batch seq"]) -> None:
        """Begin a pass over the tokens of one batch."""
        self._counted = counted.flatten()
        self._places = self._counted.nonzero()[:, 0]
        self.num_tokens += len(self._places)
        self._last: Tensor | None = None  # held, so that nothing else takes its place
        self._last_place: object = None

    def see(self, call: Call) -> None:
        """Add one application of one weight."""
        if call.tokens is None:
            self._sums[call.name] += self._shared_squares(call)
        else:
            counted = self._counted.to(call.x.device)[call.tokens]
            self._sums[call.name][call.expert] += _squares(call.x[counted])
        self._seen.add(call.name)

    def _shared_squares(self, call: Call) -> Float[Tensor, " d_in"]:
        """Return the sum over the counted tokens; q, k and v read one tensor, so keep the last."""
        check_rows(call, self._counted.numel())
        x = call.x.flatten(0, -2)
        place = x.data_ptr(), x.shape, x._version
        if self._last_place != place:
            self._last, self._last_place = x, place
            self._last_squares = _squares(x[self._places.to(x.device)])
        return self._last_squares

    def rms(self) -> dict[str, Float[Tensor, "..."]]:
        """Return the root mean squares in float32, shaped to multiply their weights.

        Raises:
            UserError: No token was counted, a matrix saw none, or activations are not finite.
        """
        if not self.num_tokens:
            raise UserError(
                "no token is counted in any of the batches; do the prompts have responses?"
            )
        self._check()
        return {
            name: beside((total / self.num_tokens).sqrt().float(), self._weights[name])
            for name, total in self._sums.items()
        }

    def _check(self) -> None:
        idle = 0
        for name, total in self._sums.items():
            if name not in self._seen:
                raise UserError(f"{name} saw no counted token; leave it out with targets")
            if not total.isfinite().all():
                raise UserError(
                    f"the inputs of {name} are not finite numbers; "
                    "load the model in bfloat16 or float32"
                )
            if self._weights[name].layout == "experts":
                idle += int((total.sum(dim=1) == 0).sum())
        if idle:
            log.warning("%d expert matrices received no counted token; their scores are 0", idle)


def _squares(rows: Float[Tensor, "tokens d_in"]) -> Float[Tensor, " d_in"]:
    return rows.float().square().sum(dim=0)


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _zeros(weight: BlockWeight) -> Float[Tensor, "..."]:
    shape = weight.weight.shape[:1] if weight.layout == "experts" else ()
    device = weight.weight.device
    return torch.zeros(*shape, weight.d_in, dtype=_precise(device), device=device)


def beside(rms: Float[Tensor, "..."], weight: BlockWeight) -> Float[Tensor, "..."]:
    """Return a number an input, shaped to multiply a weight."""
    return rms.unsqueeze({"linear": 0, "conv1d": 1, "experts": 1}[weight.layout])
