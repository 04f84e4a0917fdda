"""The cells of an audit: every critical set, and beside it the controls of the same size."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from safetypin.artifacts import WeightMask
from safetypin.audit._config import AuditConfig
from safetypin.audit._effects import Effect, Rule
from safetypin.audit._verdict import why_no_rise
from safetypin.select import magnitude_match, matched_random
from safetypin.stages import (
    complied_flags,
    finite,
    rates,
    read_perplexity,
    read_set,
    set_name,
    why_destroyed,
)
from safetypin.stages._tune_metrics import compared

# what is compared prompt by prompt beside the ASR: the name in metrics.json, and that of `tune`
CHANGES = {
    "asr_change": "asr",
    "degenerate_change": "degenerate",
    "harmless_refused_change": "over_refusal",
    "borderline_refused_change": "borderline_refusal",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One set of weights to remove.

    Attributes:
        arm: critical, random, matched, top_utility or top_safety.
        q: Share of the safety top.
        p: Share of the utility top.
        seed: Of a random set.
    """

    arm: str
    q: float
    p: float
    seed: int | None = None

    @property
    def id(self) -> str:
        """The cell's name, also of its folder."""
        name = set_name(self.arm, self.q, self.p)
        return name if self.seed is None else f"{name}-s{self.seed}"

    @property
    def of(self) -> str:
        """Name of the critical cell that this one belongs to."""
        return set_name("critical", self.q, self.p)


def planned_cells(config: AuditConfig) -> list[Cell]:
    """Return every cell of the grid, the smallest sets first."""
    cells = []
    for q, p in config.grid:
        cells.append(Cell(arm="critical", q=q, p=p))
        seeds = {"random": config.num_random, "matched": config.num_matched}
        for arm in config.controls:
            if arm in seeds:
                drawn = range(config.seed, config.seed + seeds[arm])
                cells += [Cell(arm=arm, q=q, p=p, seed=seed) for seed in drawn]
            else:
                cells.append(Cell(arm=arm, q=q, p=p))
    return cells


def cell_mask(cell: Cell, sets: Path, model: PreTrainedModel) -> WeightMask:
    """Return the weights that a cell removes."""
    if cell.seed is None:
        return read_set(sets, cell.id)
    match = "magnitude" if cell.arm == "matched" else "count"
    return matched_random(read_set(sets, cell.of), model, seed=cell.seed, match=match)


def top_inputs(cell: Cell, sets: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Return what a top of equal size depends on besides its critical set; nothing for others.

    Other prompts may move a top and leave the critical set as it is.
    """
    if not cell.arm.startswith("top_"):
        return {}
    # a record of an earlier version does not hold it
    known = sets[cell.of].get("tops", {}).get(cell.arm)
    return {"top": known or read_set(folder, cell.id).fingerprint}


def magnitudes(
    cell: Cell, mask: WeightMask, sets: Path, model: nn.Module
) -> dict[str, float | None] | None:
    """Return how large the weights of a matched control and of its set are; None for others."""
    if cell.arm != "matched":
        return None
    return magnitude_match(read_set(sets, cell.of), mask, model).to_json()


def why_no_cells(baseline: Mapping[str, Any], rule: Rule) -> str | None:
    """Return why no set is worth trying on the untouched model; None where one is.

    Raises:
        UserError: Its perplexity is infinite, so that no set could be compared with it.
    """
    measured = read_perplexity(baseline["perplexity"])
    measured.ratio(measured)
    flags = complied_flags(baseline["verdicts"]["harmful"])
    return why_no_rise(flags, rates(baseline)["degenerate"].value, rule)


def describe_cell(
    cell: Cell,
    mask_sizes: Mapping[str, Any],
    num_parameters: int,
    result: Mapping[str, Any],
    baseline: Mapping[str, Any],
    rule: Rule,
) -> dict[str, Any]:
    """Return a cell's part of metrics.json."""
    found, before = rates(result), rates(baseline)
    measured = read_perplexity(result["perplexity"])
    ratio = measured.ratio(read_perplexity(baseline["perplexity"]))
    destroyed = why_destroyed(found, before, ratio, rule.max_degenerate)
    paired = _paired(baseline, result, rule)
    shown = {name: rate.to_json() for name, rate in found.items()}
    if destroyed:
        shown["asr"] = None  # type: ignore[assignment]
    return {
        "id": cell.id,
        "arm": cell.arm,
        "of": cell.of,
        "q": cell.q,
        "p": cell.p,
        "seed": cell.seed,
        "num_selected": mask_sizes["num_selected"],
        "num_weights": mask_sizes["num_weights"],
        "fraction": mask_sizes["num_selected"] / mask_sizes["num_weights"],
        "fraction_of_all": mask_sizes["num_selected"] / num_parameters,
        "destroyed": destroyed is not None,
        "why_destroyed": destroyed,
        **shown,
        "perplexity": finite(measured.value),
        "perplexity_loss": finite(sum(measured.losses)),
        "perplexity_tokens": measured.num_tokens,
        "perplexity_ratio": finite(ratio),
        "perplexity_interval": _interval(paired["perplexity_ratio"]),
        **{name: paired[of] for name, of in CHANGES.items()},
        "magnitudes": result.get("magnitudes"),
    }


def _paired(baseline: Mapping[str, Any], result: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """Return what changed on the same prompts and texts, by the names of a fine-tune's."""
    before, after = ({**side, "task": None} for side in (baseline, result))
    found: dict[str, Any] = compared(before, after, rule.max_degenerate)["paired"]
    return found


def _interval(ratio: Mapping[str, Any] | None) -> list[float] | None:
    """Return the interval of a perplexity ratio, None where there is none."""
    ends: list[float] | None = ratio["interval"] if ratio else None
    return ends if ends and all(map(math.isfinite, ends)) else None


def effects(
    cells: Sequence[Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> list[Effect]:
    """Return what the verdict needs of each cell."""
    return [
        effect_of(cell, complied_flags(results[cell["id"]]["verdicts"]["harmful"]))
        for cell in cells
    ]


def effect_of(cell: Mapping[str, Any], complied: Sequence[int | None] = ()) -> Effect:
    """Return the effect of one cell of metrics.json."""
    return Effect(
        id=cell["id"],
        arm=cell["arm"],
        of=cell["of"],
        fraction=cell["fraction"],
        complied=complied,
        perplexity_ratio=cell["perplexity_ratio"],
        destroyed=cell["destroyed"],
        degenerate=cell["degenerate"]["value"],
        perplexity_interval=cell["perplexity_interval"],
        mismatch=_mismatch(cell.get("magnitudes") or {}),
    )


def _mismatch(sizes: Mapping[str, float | None]) -> float | None:
    ours, theirs = sizes.get("mean_control"), sizes.get("mean_set")
    return None if ours is None or not theirs else ours / theirs - 1
