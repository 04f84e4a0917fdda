"""Every figure of a track: on its page, and as files."""

from collections.abc import Iterator

from safetypin.report._drift_figures import (
    CURVES,
    MAIN,
    PAPERS,
    curve_picture,
    group_picture,
    map_pictures,
    shown_map,
    spread_picture,
)
from safetypin.report._layer_figures import (
    drop_layers_picture,
    overlap_layers_picture,
    overlap_maps_picture,
    score_maps_picture,
)
from safetypin.report._picture import Picture
from safetypin.report._score_figures import histogram_picture, overlap_picture, ranks_picture
from safetypin.report._track_metrics import AllDynamics, Overlaps, TrackMetrics
from safetypin.report._tune_figures import rates_picture

Named = Iterator[tuple[str, Picture]]


def pictures(metrics: TrackMetrics) -> Named:
    """Yield every figure by the name that the template knows it by."""
    yield "rates", rates_picture(metrics.outcome.before, metrics.outcome.after)
    yield "steps", curve_picture(metrics)
    yield "steps_groups", spread_picture(metrics)
    known = {row.measure for row in metrics.drift.rows}
    for measure in CURVES:
        if measure != MAIN and measure in known:
            yield f"steps_{measure}", curve_picture(metrics, measure)
    for measure in (MAIN, PAPERS):
        yield measure, group_picture(metrics, measure)
    if found := shown_map(metrics):
        yield from zip(("map", "map_expected"), map_pictures(found), strict=True)
    if metrics.dynamics:
        yield from _of_scores(metrics.dynamics)
    if metrics.overlap:
        yield from _of_overlap(metrics.overlap)


def _of_scores(dynamics: AllDynamics) -> Named:
    for histogram in dynamics.histograms:
        if histogram.edges:
            yield f"histogram_{histogram.score}_{histogram.group}", histogram_picture(histogram)
    if dynamics.rows:
        yield "ranks", ranks_picture(dynamics)
    if layers := [row for row in dynamics.by_layer if row.model == "tuned"]:
        yield "drops", drop_layers_picture(layers)
    if maps := score_maps_picture(dynamics.maps):
        yield "score_map", maps


def _of_overlap(overlap: Overlaps) -> Named:
    yield "overlap", overlap_picture(overlap.rows)
    if overlap.by_layer:
        yield "overlap_layers", overlap_layers_picture(overlap.by_layer)
    if maps := overlap_maps_picture(overlap.maps):
        yield "overlap_map", maps
