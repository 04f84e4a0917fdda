"""How the sets and ranks of a sweep relate to each other."""

from collections.abc import Sequence

from safetypin.report import _words
from safetypin.report._findings import Figure, Section, Table
from safetypin.report._maps import overlap_figure
from safetypin.report._sweep_figures import similarity_picture
from safetypin.report._sweep_metrics import SweepMetrics


def relations(m: SweepMetrics) -> Section:
    assert m.sets is not None
    rows = [
        (
            scorer, _words.setting(top.fraction), _words.decimal(top.jaccard, 3),
            _words.decimal(top.chance, 3), _words.decimal(top.noise_floor_safety, 3),
            _words.decimal(top.noise_floor_utility, 3),
        )
        for scorer, top in m.sets.overlap.items()
    ]  # fmt: skip
    columns = ("Score", "Top", "Jaccard", "By chance", "Safety halves", "Utility halves")
    tables = [Table(label="Safety and utility tops", columns=columns, rows=rows)]
    names = list(m.sets.of)
    if len(names) > 1:
        tables.append(_between(m, names))
    figures = [
        Figure(
            svg=overlap_figure(top, name=f"overlap-{scorer}"),
            caption=f"{scorer}: safety and utility tops of {_words.setting(top.fraction)} of each "
            "matrix, by layer. Dashed: by chance. Squares: between halves of the same prompts.",
        )
        for scorer, top in m.sets.overlap.items()
        if top.by_layer
    ]
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
        heading="What the sets share",
        words=["Jaccard index of two sets: shared weights over all weights of both."],
        figures=figures,
        tables=tables,
    )


def _between(m: SweepMetrics, names: Sequence[str]) -> Table:
    assert m.sets is not None
    matrix = m.sets.between["jaccard"]
    rows = []
    for place, name in enumerate(names):
        shown = [_words.decimal(value, 3) for value in matrix[place]]
        rows.append((f"{name} ({m.sets.of[name].removeprefix(name + '-')})", *shown))
    return Table(
        label="Methods against methods, each at its largest size",
        columns=("Method", *names),
        rows=rows,
    )
