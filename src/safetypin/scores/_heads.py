"""How well each attention head tells harmful prompts from harmless ones: a linear probe a head.

Wei et al. 2024 (arXiv:2402.05162), app. B: a logistic probe on the output of every head, 420
harmful against 420 harmless prompts. Their text names no token; here it is the last of the prompt,
where the model is about to answer. Their score is the accuracy on one split, of which 356 heads
of 1,024 are at exactly 1; here every prompt is held out once.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, NeuronScores, UserError
from safetypin.hooks import Call, at_rest, read_units
from safetypin.models import HEAD, HeadSite, head_sites, model_id
from safetypin.passes import Progress, forward, input_device, passes

MAX_TOKENS = {"cpu": 1024, "mps": 1024, "cuda": 8192}  # in one pass
NUM_FOLDS = 5
MAX_STEPS = 1000


def probe_heads(
    model: PreTrainedModel,
    safety_batches: Iterable[Batch],
    utility_batches: Iterable[Batch],
    *,
    seed: int = 0,
    prompts_id: str = "",
    progress: Progress | None = None,
) -> NeuronScores:
    """Score every head by the accuracy of a logistic probe on its output, prompts held out.

    The output of a head is its slice of the output projection's input at the last prompt token: the
    one before the response, whatever the batches count. Features are standardised in each training
    part; accuracy is over all prompts, each predicted by a probe that did not see it, in five
    stratified folds. Chance is the larger class's share.

    Args:
        model: Any decoder whose attention layers have an output projection of a known name.
        safety_batches: Harmful prompts.
        utility_batches: Harmless prompts. A prompt in both, or twice, makes accuracies too high.
        seed: Of the folds.
        prompts_id: Fingerprint of the prompts, kept in the result.
        progress: Called with the number of prompts read.

    Raises:
        UserError: Fewer than five prompts of a kind, a response without a prompt before it, or
            activations that are not finite.
    """
    sites = head_sites(model)
    read = _Reader(sites)
    sizes = []
    done = 0
    for batches in (safety_batches, utility_batches):
        before = done
        for count in _read(model, batches, read):
            done += count
            if progress is not None:
                progress(done)
        sizes.append(done - before)
    if min(sizes) < NUM_FOLDS:
        raise UserError(
            f"{sizes[0]} safety and {sizes[1]} utility prompts are too few for a probe; give at "
            f"least {NUM_FOLDS} of each"
        )
    labels = np.repeat([1, 0], sizes)
    tensors = {
        name: torch.tensor(
            [probe_accuracy(part, labels, seed=seed) for part in read.features(name)]
        )
        for name in sites
    }
    return NeuronScores(
        tensors=tensors,
        site=HEAD,
        method="head-probe",
        model_id=model_id(model),
        prompts_id=prompts_id,
        num_examples=done,
        num_tokens=done,
    )


def probe_accuracy(features: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> float:
    """Return the share of rows that a logistic probe which did not see them puts right.

    Args:
        features: A row for each prompt.
        labels: 1 or 0 for each.
        seed: Of the folds.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_STEPS))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(probe, features.astype(np.float64), labels, cv=folds)
    return float((predicted == labels).mean())


class _Reader:
    """The heads' outputs at one token of each prompt."""

    def __init__(self, sites: dict[str, HeadSite]) -> None:
        self._sites = sites
        self._parts: dict[str, list[Float[Tensor, "prompts heads head_dim"]]] = {}
        self.modules = {name: (site.module, site.parameter) for name, site in sites.items()}
        self.places: Int[Tensor, " prompts"] = torch.empty(0, dtype=torch.long)

    def see(self, call: Call) -> None:
        site = self._sites[call.name]
        rows = torch.arange(len(self.places))
        found = call.x.detach()[rows, self.places].float().cpu()
        self._parts.setdefault(call.name, []).append(
            found.unflatten(-1, (site.num_heads, site.head_dim))
        )

    def features(self, name: str) -> list[NDArray[np.float32]]:
        """Return what each head of a layer gives for every prompt, in order."""
        joined = torch.cat(self._parts[name])
        if not joined.isfinite().all():
            raise UserError(
                f"the inputs of {name} are not finite numbers; "
                "load the model in bfloat16 or float32"
            )
        return [joined[:, head].numpy() for head in range(joined.shape[1])]


def _read(model: PreTrainedModel, batches: Iterable[Batch], read: _Reader) -> Iterable[int]:
    device = input_device(model)
    with torch.inference_mode(), at_rest(model), read_units(read.modules, read.see):
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            read.places = _last_prompt_tokens(batch)
            forward(model, batch, logits_to_keep=1)
            yield len(batch.input_ids)


def _last_prompt_tokens(batch: Batch) -> Int[Tensor, " prompts"]:
    """Return the place of each row's last token before its response, in the rows of `passes`."""
    response = batch.counted if batch.response is None else batch.response
    lengths = batch.attention_mask.sum(dim=1)
    first = torch.where(response.any(dim=1), response.int().argmax(dim=1), lengths)
    if bool((first < 1).any()):
        raise UserError("a response has no prompt before it, whose last token a probe could read")
    places: Tensor = first - 1
    return places.cpu()
