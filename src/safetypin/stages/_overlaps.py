"""What sets share, and where they lie, as metrics.json has it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safetypin.artifacts import WeightMask
from safetypin.select import GroupOverlap, Overlap, overlap_by_matrix, pooled

Number = float | int


class _Places:
    """Overlaps by matrix, as a grid of layer by module."""

    def __init__(self, groups: Sequence[GroupOverlap]) -> None:
        self.whole = pooled([one.overlap for one in groups])
        found = {(one.layer, one.role): one.overlap for one in groups}
        self.found = {(a, b): one for (a, b), one in found.items() if a is not None and b}
        self.layers = sorted({layer for layer, _ in self.found})
        self.modules = list(dict.fromkeys(module for _, module in self.found))

    def of_layer(self, layer: int) -> Overlap:
        """Return the overlap in one block."""
        return pooled([one for (place, _), one in self.found.items() if place == layer])

    def grid(self, value: Callable[[Overlap], Number | None]) -> list[list[Number | None]]:
        """Return one number of every matrix; None where a layer has no such matrix."""
        return [
            [
                value(self.found[layer, module]) if (layer, module) in self.found else None
                for module in self.modules
            ]
            for layer in self.layers
        ]


def overlap_of_tops(
    fraction: float,
    safety: WeightMask,
    utility: WeightMask,
    halves: Mapping[str, Sequence[WeightMask]],
) -> dict[str, Any]:
    """Return the overlap of two tops with its chance level and its noise floors."""
    tops = _Places(overlap_by_matrix(safety, utility))
    parts = {name: _Places(overlap_by_matrix(*pair)) for name, pair in halves.items()}
    layers = []
    for layer in tops.layers:
        found = _halves({name: part.of_layer(layer) for name, part in parts.items()})
        jaccards = [half["jaccard"] for half in found]
        # the floor of a comparison between two scores: the less repeatable of the two
        floor = None if None in jaccards else min(jaccards, default=None)
        shared = _shared(tops.of_layer(layer))
        layers.append({"layer": layer, **shared, "noise_floor": floor, "halves": found})
    whole = _halves({name: part.whole for name, part in parts.items()})
    known = {half["of"]: half["jaccard"] for half in whole}
    return {
        "fraction": fraction,
        **_shared(tops.whole),
        "noise_floor_safety": known.get("safety"),
        "noise_floor_utility": known.get("utility"),
        "halves": whole,
        "by_layer": layers,
        "by_matrix": _by_matrix(tops, parts),
    }


def _by_matrix(places: _Places, parts: Mapping[str, _Places]) -> dict[str, Any]:
    """Return the Jaccard index of two tops in every matrix, chance and noise floor, all counts."""

    def floor(layer: int, module: str) -> float | None:
        found = [part.found[layer, module].jaccard for part in parts.values()]
        return None if None in found else min(found, default=None)  # type: ignore[type-var]

    return {
        "layers": places.layers,
        "modules": _shortened(places.modules),
        "jaccard": places.grid(lambda cell: cell.jaccard),
        "chance": places.grid(lambda cell: cell.chance_jaccard),
        "noise_floor": [
            [
                floor(layer, module) if (layer, module) in places.found else None
                for module in places.modules
            ]
            for layer in places.layers
        ],
        "num_both": places.grid(lambda cell: cell.num_both),
        "num_safety": places.grid(lambda cell: cell.num_a),
        "num_utility": places.grid(lambda cell: cell.num_b),
        "num_weights": places.grid(lambda cell: cell.num_weights),
        "halves": [
            {
                "of": name,
                "num_both": part.grid(lambda cell: cell.num_both),
                "num_first": part.grid(lambda cell: cell.num_a),
                "num_second": part.grid(lambda cell: cell.num_b),
            }
            for name, part in parts.items()
        ],
    }


def _shared(both: Overlap) -> dict[str, Any]:
    """Return what a safety and a utility top share, with every count behind it."""
    return {
        "jaccard": both.jaccard,
        "chance": both.chance_jaccard,
        "num_both": both.num_both,
        "chance_both": both.chance_both,
        "num_safety": both.num_a,
        "num_utility": both.num_b,
        "num_weights": both.num_weights,
    }


def _halves(parts: Mapping[str, Overlap]) -> list[dict[str, Any]]:
    """Return what the tops of two halves of the prompts share, with its counts."""
    return [
        {
            "of": name,
            "jaccard": both.jaccard,
            "num_both": both.num_both,
            "num_first": both.num_a,
            "num_second": both.num_b,
        }
        for name, both in parts.items()
    ]


def where(mask: WeightMask) -> dict[str, Any]:
    """Return share, count and size of the set in every matrix, layer by module."""
    places = _Places(overlap_by_matrix(mask, mask))
    return {
        "layers": places.layers,
        "modules": _shortened(places.modules),
        "share": places.grid(lambda cell: cell.num_a / cell.num_weights),
        "counts": places.grid(lambda cell: cell.num_a),
        "sizes": places.grid(lambda cell: cell.num_weights),
    }


def _shortened(modules: Sequence[str]) -> list[str]:
    """Return the last word of each place in a block, the whole place where two end alike."""
    ends = [module.rpartition(".")[2] for module in modules]
    return [
        end if ends.count(end) == 1 else module for module, end in zip(modules, ends, strict=True)
    ]
