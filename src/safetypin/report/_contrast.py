"""The page of a contrast: how concentrated, in which layers, how repeatable."""

import dataclasses
from pathlib import Path
from typing import Literal

from pydantic import Field

from safetypin.report import _words
from safetypin.report._findings import (
    Fact,
    Figure,
    RunPart,
    Section,
    Table,
    findings_page,
)
from safetypin.report._html import write_page
from safetypin.report._metrics import Part
from safetypin.report._neuron_figures import layers_picture, map_pictures, sparsity_picture
from safetypin.report._read import read

LATE = 3  # layers that count as the last ones


class Chosen(Part):
    """The set."""

    site: str
    num_selected: int
    num_units: int
    fraction: float
    fingerprint: str
    num_common: int | None
    num_foundation: int | None


class LayerRow(Part):
    """Members in one layer."""

    layer: int
    num_selected: int
    num_units: int


class Point(Part):
    """The share of all squared scores that the top share of units holds."""

    fraction: float
    energy: float


class Noise(Part):
    """Jaccard index of the sets of two halves of the prompts, and of two random sets."""

    jaccard: float | None
    chance_jaccard: float


class Map(Part):
    """Scores by layer, in bins."""

    layers: list[int]
    num_units: int
    by_place: list[list[float]]
    by_rank: list[list[float]]


class TopUnit(Part):
    """One of the highest scores."""

    layer: int
    unit: int
    score: float


class ContrastMetrics(RunPart):
    """All that a contrast's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["contrast"]
    model_id: str
    reference_id: str | None
    num_examples: int
    num_tokens: int
    set_: Chosen = Field(alias="set")
    layers: list[LayerRow]
    sparsity: list[Point]
    half_energy: float | None
    top_energy: float | None
    noise: Noise | None
    map_: Map = Field(alias="map")
    top: list[TopUnit]


def write_contrast_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of a contrast.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, contrast_page(read(folder, "contrast", ContrastMetrics)))


def contrast_page(m: ContrastMetrics) -> str:
    """Return the page."""
    names = [name.rpartition("#")[0] or name for name in (m.model_id, m.reference_id or "")]
    is_pair = m.reference_id is not None
    answer, sentence = headline(m)
    title = (
        f"Contrast of {names[0]} with {names[1]}" if is_pair else f"Ablation effects in {names[0]}"
    )
    return findings_page(
        title=title,
        answer=answer,
        sentence=sentence,
        facts=_facts(m),
        sections=[where(m), _sparsity(m), _heat(m), _reading(m)],
        about=m,
    )


def headline(m: ContrastMetrics) -> tuple[str, str]:
    """Return the answer in a few words, and in a sentence."""
    return f"{m.set_.num_selected:,} {_units(m.set_.site)}", _sentence(m)


def _units(site: str) -> str:
    return {
        "neuron": "neurons",
        "residual": "residual coordinates",
        "query": "query coordinates",
    }[site]


def _late_share(m: ContrastMetrics) -> float | None:
    total = sum(row.num_selected for row in m.layers)
    return sum(row.num_selected for row in m.layers[-LATE:]) / total if total else None


def _sentence(m: ContrastMetrics) -> str:
    chosen = m.set_
    said = (
        f"{_words.share(chosen.fraction)} of the {chosen.num_units:,} {_units(chosen.site)} are in "
        f"the set; they hold {_words.share(m.top_energy)} of all squared scores."
    )
    late = _late_share(m)
    if late is not None and late > 0.5 and len(m.layers) > 2 * LATE:
        said += (
            f" {_words.percent(late)} of the set is in the last {LATE} of {len(m.layers)} layers: "
            "where activations are largest, any difference is. Compare with scale “free”."
        )
    return said


def _facts(m: ContrastMetrics) -> list[Fact]:
    noise = m.noise
    facts = [
        Fact(
            label="Read",
            value=f"{m.num_tokens:,} tokens",
            notes=(f"of {m.num_examples} prompts, {m.settings['counted']} tokens counted",),
        ),
    ]
    if len(m.layers) > 2 * LATE:
        facts.append(
            Fact(
                label=f"In the last {LATE} layers",
                value=_words.share(_late_share(m)),
                notes=(
                    f"of {len(m.layers)} layers; spread evenly it were "
                    f"{_words.share(LATE / len(m.layers))}",
                ),
            )
        )
    if noise is not None:
        facts.append(
            Fact(
                label="Repeatable",
                value=_words.decimal(noise.jaccard),
                notes=(
                    "Jaccard index of the sets that two halves of the prompts give; "
                    f"chance {_words.figures(noise.chance_jaccard)}",
                ),
            )
        )
    if m.set_.num_common is not None:
        general = m.set_.num_foundation
        said = "no foundation set was taken away"
        if general is not None:
            said = f"without {general:,} foundation units, which matter for general text"
        facts.append(
            Fact(label="In every prompt's top", value=f"{m.set_.num_common:,}", notes=(said,))
        )
    return facts


def where(m: ContrastMetrics, name: str = "layers") -> Section:
    """Return the part of a page with the set by layer; `name` is what its ids begin with."""
    picture = dataclasses.replace(layers_picture(m.layers, m.set_.fraction), name=name)
    rows = [
        (
            str(r.layer),
            f"{r.num_selected:,}",
            f"{r.num_units:,}",
            _words.share(r.num_selected / r.num_units),
        )
        for r in m.layers
    ]
    return Section(
        anchor="where",
        heading="Where the set is",
        figures=[
            Figure(
                svg=picture.inline(),
                caption="Share of each layer's units that is in the set. The line is the share of "
                "the whole model.",
            )
        ],
        tables=[
            Table(
                label="Members by layer",
                columns=("Layer", "In the set", "Units", "Share"),
                rows=rows,
                folded=True,
            )
        ],
    )


def _sparsity(m: ContrastMetrics) -> Section:
    half = m.half_energy
    said = f"Half of all squared scores is in the top {_words.share(half)} of the units."
    return Section(
        anchor="sparsity",
        heading="How concentrated the scores are",
        words=[said if half is not None else "All scores are zero."],
        figures=[
            Figure(
                svg=sparsity_picture(m.sparsity, m.set_.fraction).inline(),
                caption="Share of all squared scores in the top share of units. Equal scores "
                "would lie on the dotted line. The mark is the set.",
            )
        ],
    )


def _heat(m: ContrastMetrics) -> Section:
    by_place, by_rank = map_pictures(
        m.map_.layers, m.map_.by_place, m.map_.by_rank, m.map_.num_units
    )
    per_bin = -(-m.map_.num_units // len(m.map_.by_place[0]))
    binned = f"the largest score among {per_bin} neighbouring units" if per_bin > 1 else "a unit"
    top = [(f"{row.layer}", f"{row.unit:,}", _words.figures(row.score)) for row in m.top]
    return Section(
        anchor="map",
        heading="Every layer and unit",
        words=[
            "The colour is the logarithm of the score, from a thousandth of the largest up, so "
            "that a few massive activations do not leave the rest dark."
        ],
        figures=[
            Figure(
                svg=by_place.inline(),
                caption=f"Layer by unit: a point is {binned}; the axis counts units from 0. "
                "A vertical line is a coordinate that stands out in many layers.",
            ),
            Figure(
                svg=by_rank.inline(),
                caption="The same scores, sorted in each layer, the highest at 0: how far the "
                "colour reaches says how many units of the layer differ.",
            ),
        ],
        tables=[
            Table(label="Highest scores", columns=("Layer", "Unit", "Score"), rows=top, folded=True)
        ],
    )


def _reading(m: ContrastMetrics) -> Section:
    return Section(
        anchor="reading",
        heading="How to read it",
        points=[
            "A unit in the set acts differently in the two models on the same tokens. That is no "
            "proof that it makes the difference: “safetypin patch” tests whether the set is the "
            "cause."
            if m.reference_id
            else "A unit in the set changes its layer's output most when it is removed, for every "
            "prompt.",
            "On the plain scale the layers with the largest activations win. Read the shares "
            "beside those of scale “free”, which divides by the reference model's own size of each "
            "unit.",
            "Massive activations stand in the same few coordinates of many layers, whatever the "
            "prompt.",
            "Two halves of the prompts give two sets; where these agree no better than chance, "
            "the set is "
            "noise.",
        ],
    )
