"""Where a set of units is: the part of metrics.json that the page draws."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    NEURONS_FILE,
    NeuronScores,
    NeuronSet,
    PromptSet,
    RunRecord,
    read_neuron_scores,
    read_neurons,
    write_neuron_scores,
)
from safetypin.select import (
    SparsityPoint,
    layer_shares,
    sparsity_curve,
    top_neurons,
    units_by_layer,
)
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._run import Output
from safetypin.stages._score_files import PROMPT_HASHES

NUM_BINS = 128  # columns of the map, however wide a layer
NUM_TOP = 20


def describe_neurons(out: Path, config: ContrastConfig) -> dict[str, Any]:
    """Return share per layer, sparsity, map, top units and the noise floor of a contrast."""
    scores = read_neuron_scores(out / "scores" / NEURON_SCORES_FILE)
    neurons = read_neurons(out / "neurons" / NEURONS_FILE)
    record = RunRecord.read(out / "scores")
    curve = sparsity_curve(scores)
    return {
        "set": {
            "site": neurons.site,
            "num_selected": neurons.num_selected,
            "num_units": neurons.num_units,
            "fraction": neurons.fraction,
            "fingerprint": neurons.fingerprint,
            "num_common": record.result.get("num_common"),
            "num_foundation": record.result.get("num_foundation"),
        },
        "layers": [row._asdict() for row in layer_shares(neurons)],
        "sparsity": [point._asdict() for point in curve],
        "half_energy": _reaching(curve, 0.5),
        "top_energy": _energy(scores, neurons),
        "noise": _noise(out, config, neurons),
        "map": _map(scores),
        "top": _top(scores),
    }


def keep_scores(folder: Path, found: Mapping[str, NeuronScores], asked: PromptSet) -> Output:
    """Write the scores on all prompts, and on each half of them."""
    files = []
    for name, scores in found.items():
        file = NEURON_SCORES_FILE if name == "whole" else f"{name}.{NEURON_SCORES_FILE}"
        write_neuron_scores(folder / file, scores)
        files.append(file)
    whole = found["whole"]
    result = {
        "model_id": whole.model_id,
        "reference_id": whole.reference_id or None,
        "num_examples": whole.num_examples,
        "num_tokens": whole.num_tokens,
        PROMPT_HASHES: sorted(asked.hashes),
    }
    return Output(result, files)


def _reaching(curve: list[SparsityPoint], energy: float) -> float | None:
    """Return the smallest share of units on the curve that holds so much of the squares."""
    return next((point.fraction for point in curve if point.energy >= energy), None)


def _energy(scores: NeuronScores, neurons: NeuronSet) -> float | None:
    squares = {name: tensor.double().square() for name, tensor in scores.tensors.items()}
    total = sum(float(tensor.sum()) for tensor in squares.values())
    inside = sum(float(squares[n][members].sum()) for n, members in neurons.tensors.items())
    return inside / total if total else None


def _noise(out: Path, config: ContrastConfig, neurons: NeuronSet) -> dict[str, Any] | None:
    """Return the overlap of the sets that two halves of the prompts give, and of chance."""
    files = [out / "scores" / f"half-{half}.{NEURON_SCORES_FILE}" for half in (0, 1)]
    if not all(path.exists() for path in files):
        return None
    tops = [
        top_neurons(read_neuron_scores(path), config.fraction, group=config.group) for path in files
    ]
    share = neurons.fraction
    return {"jaccard": tops[0].jaccard(tops[1]), "chance_jaccard": share / (2 - share)}


def _map(scores: NeuronScores) -> dict[str, Any]:
    """Return the largest score in every bin of neighbouring units, and sorted scores, by layer."""
    layers = units_by_layer(scores.tensors)
    rows, ranked = [], []
    for values in layers.values():
        bins = min(NUM_BINS, len(values))
        parts = torch.tensor_split(values.float(), bins)
        rows.append([round(float(part.max()), 6) for part in parts])
        down = values.float().sort(descending=True).values
        places = (torch.linspace(0, 1, bins) * (len(down) - 1)).round().long()
        ranked.append([round(float(down[place]), 6) for place in places])
    width = max(len(values) for values in layers.values())
    return {"layers": list(layers), "num_units": width, "by_place": rows, "by_rank": ranked}


def _top(scores: NeuronScores) -> list[dict[str, Any]]:
    layers = units_by_layer(scores.tensors)
    flat = torch.cat(list(layers.values()))
    where = [(layer, unit) for layer, values in layers.items() for unit in range(len(values))]
    places = flat.topk(min(NUM_TOP, len(flat))).indices.tolist()
    return [
        {"layer": where[p][0], "unit": where[p][1], "score": round(float(flat[p]), 6)}
        for p in places
    ]
