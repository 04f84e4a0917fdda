"""How the sets and ranks of a sweep relate to each other."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from safetypin.report import _words
from safetypin.report._findings import Figure, Section, Table
from safetypin.report._maps import map_picture, overlap_figure
from safetypin.report._picture import Picture
from safetypin.report._style import SOFT, STRONG, light_grid
from safetypin.report._sweep_metrics import (
    MatrixOverlap,
    RankOverlap,
    SweepMetrics,
    SweepSets,
    TopsOverlap,
)

BETWEEN = {
    "jaccard": "Methods against methods, each at its largest size: Jaccard index (by chance)",
    "share_of_smaller": "Share of the smaller of two sets that lies in the larger (by chance)",
}
CHANCE = {"jaccard": "chance", "share_of_smaller": "chance_share_of_smaller"}


def relations(m: SweepMetrics) -> Section:
    """Return what the sets share, and what the safety and utility ranks do."""
    words, tables, figures = [], list[Table](), list[Figure]()
    if m.sets is not None:
        words.append(
            "Jaccard index of two sets: shared weights over all weights of both. Sets of different "
            "sizes cannot have a high one; how much of the smaller lies in the larger they can."
        )
        tables, figures = _of_sets(m, m.sets)
    if m.ranks is not None:
        figures.append(
            Figure(
                svg=similarity_picture(m.ranks).inline(),
                caption=f"Top {_words.setting(m.ranks.share)} of each matrix's ranks on safety and "
                "on utility prompts: shared squared cosines over their number, by layer.",
            )
        )
    return Section(
        anchor="overlap",
        heading="What the sets share" if m.sets is not None else "What the ranks share",
        words=words,
        figures=figures,
        tables=tables,
    )


def _of_sets(m: SweepMetrics, sets: SweepSets) -> tuple[list[Table], list[Figure]]:
    rows = [
        (
            scorer, _words.setting(top.fraction), _words.decimal(top.jaccard, 3),
            _words.decimal(top.chance, 3), _words.decimal(top.noise_floor_safety, 3),
            _words.decimal(top.noise_floor_utility, 3),
        )
        for scorer, top in sets.overlap.items()
    ]  # fmt: skip
    columns = ("Score", "Top", "Jaccard", "By chance", "Safety halves", "Utility halves")
    tables = [Table(label="Safety and utility tops", columns=columns, rows=rows)]
    names = list(sets.of)
    if len(names) > 1:
        tables += [
            _between(m, names, key, label) for key, label in BETWEEN.items() if key in sets.between
        ]
    figures = [
        Figure(
            svg=overlap_figure(top, name=f"overlap-{scorer}"),
            caption=f"{scorer}: safety and utility tops of {_words.setting(top.fraction)} of each "
            "matrix, by layer. Dashed: by chance. Squares: between halves of the same prompts.",
        )
        for scorer, top in sets.overlap.items()
        if top.by_layer
    ]
    for scorer, top in sets.overlap.items():
        if top.by_matrix is not None:
            figures.append(_map(scorer, top, top.by_matrix))
            tables.append(_matrices(scorer, top.by_matrix))
    return tables, figures


def _map(scorer: str, top: TopsOverlap, by: MatrixOverlap) -> Figure:
    """Draw where the tops agree, matrix by matrix."""
    picture = map_picture(
        f"overlap-map-{scorer}",
        f"{scorer}: Jaccard index of safety and utility tops by layer and module; the numbers are "
        "in the table below",
        by.layers,
        by.modules,
        by.jaccard,
        spelt=lambda value: _words.decimal(value, 2),
    )
    caption = (
        f"{scorer}: Jaccard index of safety and utility tops of {_words.setting(top.fraction)} in "
        "each matrix."
    )
    return Figure(svg=picture.inline(), caption=caption)


def _matrices(scorer: str, by: MatrixOverlap) -> Table:
    """Return the index of every matrix over chance and noise floor, a row a layer."""
    rows = []
    for layer, *parts in zip(by.layers, by.jaccard, by.chance, by.noise_floor, strict=True):
        cells = [
            " / ".join(_words.decimal(value, 2) for value in cell)
            for cell in zip(*parts, strict=True)
        ]
        rows.append((str(layer), *cells))
    return Table(
        label=f"{scorer} by matrix: Jaccard index / by chance / between halves of the prompts",
        columns=("Layer", *by.modules),
        rows=rows,
        folded=True,
    )


def _between(m: SweepMetrics, names: Sequence[str], key: str, label: str) -> Table:
    assert m.sets is not None
    matrix, chance = m.sets.between[key], m.sets.between.get(CHANCE[key])
    rows = []
    for place, name in enumerate(names):
        shown = [_words.decimal(value, 3) for value in matrix[place]]
        if chance is not None:
            shown = [
                f"{value} ({_words.decimal(by, 3)})"
                for value, by in zip(shown, chance[place], strict=True)
            ]
        rows.append((f"{name} ({m.sets.of[name].removeprefix(name + '-')})", *shown))
    return Table(label=label, columns=("Method", *names), rows=rows, titled=True)


def similarity_picture(ranks: RankOverlap) -> Picture:
    """Return how alike safety and utility directions are, by layer, with chance and floor."""
    layers = [row.layer for row in ranks.by_layer]

    def draw(figure: Canvas) -> None:
        axes = figure.add_axes((0.1, 0.2, 0.88, 0.76))
        light_grid(axes)
        lines = {
            "noise_floor": ("s-", SOFT, 0.9),
            "chance": ("--", SOFT, 0.9),
            "similarity": ("o-", STRONG, 1.4),
        }
        for name, (look, colour, width) in lines.items():
            values = [getattr(row, name) for row in ranks.by_layer]
            known = [math.nan if value is None else value for value in values]
            axes.plot(layers, known, look, color=colour, linewidth=width, markersize=3.4)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("layer")
        axes.set_ylabel("similarity")

    return Picture(
        name="similarity",
        title="Similarity of the safety and utility directions by layer, with its chance level "
        "and its noise floor",
        width=5.2,
        height=2.7,
        draw=draw,
    )
