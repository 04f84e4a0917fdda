"""A set of neurons in the place of a set of weights: the weights that make them."""

from pathlib import Path

from transformers import PreTrainedModel

from safetypin.artifacts import (
    NEURONS_FILE,
    ArtifactMismatchError,
    NeuronSet,
    RunRecord,
    UserError,
    WeightMask,
    read_neurons,
)
from safetypin.intervene import PROTECTIONS
from safetypin.models import neuron_weights
from safetypin.stages._tune_config import TuneConfig


def neurons_in(folder: Path) -> NeuronSet | None:
    """Return the set of neurons in a folder of `contrast`, or in its folder `neurons`."""
    chosen = _neurons_folder(folder)
    return None if chosen is None else read_neurons(chosen / NEURONS_FILE)


def _neurons_folder(folder: Path) -> Path | None:
    for path in (folder, folder / "neurons"):
        if (path / "run.json").exists() and NEURONS_FILE in RunRecord.read(path).files:
            return path
    return None


def weights_of(
    neurons: NeuronSet, folder: Path, config: TuneConfig, identity: str, model: PreTrainedModel
) -> WeightMask:
    """Return the weights that make a set of neurons.

    Raises:
        ArtifactMismatchError: It is of another model.
        UserError: The protection wants foundation neurons taken out, and they were not.
    """
    if not config.any_model and not neurons.is_of(identity):
        raise ArtifactMismatchError(
            f"the neurons in {folder} are of {' and '.join(neurons.model_ids)}, the model is "
            f"{identity}; --any-model uses them all the same if the shapes are equal"
        )
    check_foundation(config, folder)
    return neuron_weights(model, neurons)


def check_foundation(config: TuneConfig, folder: Path) -> None:
    """Raise if the protection wants foundation neurons taken out of the set, and they were not.

    Raises:
        UserError: They were not.
    """
    if not PROTECTIONS[config.protect].needs_foundation:
        return
    chosen = _neurons_folder(folder)
    made = RunRecord.read(chosen).result if chosen else {}
    if made.get("num_foundation") is None:
        raise UserError(
            f"--protect {config.protect} trains safety neurons that are no foundation neurons, and "
            f"none were taken out of the set in {folder}; make it with `safetypin contrast MODEL "
            "--method ablation --foundation SET`, or use --protect sn-tune"
        )
