"""The eigenvectors of layer inputs on some prompts: the basis of WaRP.

Kim et al. 2023, "Warping the Space" (ICLR), for vision; here the inputs are those of safety
prompts.
"""

from collections.abc import Iterable

from transformers import PreTrainedModel

from safetypin.artifacts import Basis, Batch, tensor_hash
from safetypin.grams import blocks_of_layers
from safetypin.models import input_sites, model_id, transposed, weights_of_layers
from safetypin.passes import Progress
from safetypin.subspaces._streamed import block_directions


def input_basis(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: tuple[str, ...] | None = None,
    layers: str = "all",
    prompts_id: str = "",
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Basis:
    """Return the eigenvectors U of the Gram matrix X^T X of every layer's inputs.

    X has a row for each counted token. Layers that read one input (q, k, v; gate, up) share one
    matrix. Sums are float32, whatever the model's dtype; directions come by falling eigenvalue,
    each with its largest entry positive.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count. With fewer counted tokens than inputs of a layer, the
            last directions are arbitrary; `ranks` says from where on.
        targets: Patterns of roles or module names; all but the experts of a mixture where None.
        layers: `all`, `early`, `middle`, `late`, `last`, a number, a range such as `30-31`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        max_bytes: Memory that Gram matrices may take; one forward pass is made for every run of
            layers that fits. All layers in one pass where None.
        progress: Called with the number of examples done in all passes.

    Raises:
        UserError: No token is counted, or activations are not finite.
    """
    weights = weights_of_layers(model, targets, layers)
    known, done = list(batches), 0
    num_examples = sum(len(batch.input_ids) for batch in known)
    parts = []
    for block in blocks_of_layers(weights, max_bytes) if max_bytes else [weights]:

        def tell(count: int, before: int = done) -> None:
            if progress is not None:
                progress(before + count)

        parts.append(block_directions(model, known, block, progress=tell))
        done += num_examples
    directions = {site: part.directions[site] for part in parts for site in part.directions}
    return Basis(
        directions=directions,
        spectra={site: part.spectra[site] for part in parts for site in part.spectra},
        sites=input_sites(weights),
        hashes={site: tensor_hash(tensor) for site, tensor in directions.items()},
        ranks={site: part.ranks[site] for part in parts for site in part.ranks},
        model_id=model_id(model),
        prompts_id=prompts_id,
        num_tokens=parts[0].num_tokens,
        transposed=transposed(weights),
    )
