"""Whether `lora-column` leaves anything to train, told before the set is made."""

from transformers import PreTrainedModel

from safetypin.intervene import readable_inputs
from safetypin.models import block_weights
from safetypin.stages._tune_config import TuneConfig

FEW = 0.1  # of the adapters' inputs, below which there is something to say


def spread_note(config: TuneConfig, model: PreTrainedModel) -> str | None:
    """Return what to say of a set that is still to be made, if it may leave too little to train.

    Whether it leaves nothing is known once it is scored only: scores may lie in few columns.
    """
    alone = config.protect == "lora-column" and config.makes_set and config.lora_coverage == 1
    if not alone:
        return None
    scored = block_weights(model, config.targets)
    names = {weight.name for weight in scored.values()}
    left = readable_inputs(model, config.lora_targets, names, config.q)
    if left >= FEW:
        return None
    return (
        "--protect lora-column keeps off every input column with a protected weight: of a set of "
        f"q = {config.q:g} that is spread evenly it would leave {left:.1%} of the adapters' "
        "inputs. If it leaves none, the run ends once the set is made; --protect lora-entry holds "
        "the same weights, and --lora-coverage 0.5 keeps off fewer columns"
    )
