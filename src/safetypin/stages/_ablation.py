"""Zhao et al.'s set: units that matter for every safety prompt, without foundation units."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    NEURONS_FILE,
    Batch,
    NeuronScores,
    NeuronSet,
    PromptSet,
    UserError,
    write_neuron_scores,
    write_neurons,
)
from safetypin.scores import ablation_effects, mean_scores
from safetypin.select import common_neurons
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._run import Output
from safetypin.stages._score_files import PROMPT_HASHES


def ablation_output(
    folder: Path,
    model: PreTrainedModel,
    read: list[Batch],
    foundation: list[Batch] | None,
    config: ContrastConfig,
    asked: PromptSet,
) -> Output:
    """Score, intersect over prompts, take the foundation units away; write both sets.

    Raises:
        UserError: No unit is left.
    """
    mean, common = _common(model, read, config, config.fraction)
    write_neuron_scores(folder / NEURON_SCORES_FILE, mean)
    files = [NEURON_SCORES_FILE, NEURONS_FILE]
    result: dict[str, Any] = {
        "model_id": mean.model_id,
        "reference_id": None,
        "num_examples": mean.num_examples,
        "num_tokens": mean.num_tokens,
        "num_common": common.num_selected,
        "num_foundation": None,
        PROMPT_HASHES: sorted(asked.hashes),
    }
    chosen = common
    if foundation is not None:
        share = config.foundation_fraction or config.fraction
        _, general = _common(model, foundation, config, share)
        write_neurons(folder / f"foundation.{NEURONS_FILE}", general)
        files.append(f"foundation.{NEURONS_FILE}")
        result["num_foundation"] = general.num_selected
        chosen = common - general
    if not chosen.num_selected:
        raise UserError(
            f"no unit is left: {common.num_selected} are in the top {config.fraction:g} of every "
            "prompt, and none of them is no foundation unit; take a larger --fraction, fewer "
            "--num-prompts or a smaller --foundation-fraction"
        )
    write_neurons(folder / NEURONS_FILE, chosen)
    result |= {
        "site": chosen.site,
        "num_selected": chosen.num_selected,
        "num_units": chosen.num_units,
        "fraction": chosen.fraction,
        "fingerprint": chosen.fingerprint,
    }
    return Output(result, files)


def _common(
    model: PreTrainedModel, read: list[Batch], config: ContrastConfig, fraction: float
) -> tuple[NeuronScores, NeuronSet]:
    """Return the mean effect, and the units in the top of every prompt, from one pass."""
    held: list[NeuronScores] = []

    def summed() -> Iterator[NeuronScores]:
        for one in ablation_effects(model, read, site=config.site):
            # the running mean alone is kept: an example has a number for every unit
            held[:] = [one] if not held else [mean_scores([*held, one])]
            yield one

    common = common_neurons(summed(), fraction, group=config.group)
    return held[0], common
