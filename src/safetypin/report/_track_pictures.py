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
from safetypin.report._picture import Picture
from safetypin.report._score_figures import (
    drop_layers_picture,
    histogram_picture,
    overlap_layers_picture,
    overlap_map_pictures,
    overlap_picture,
    score_map_pictures,
)
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
    layers = [r for r in dynamics.by_layer if r.model == "tuned" and r.score == "safety"]
    if layers:
        yield "drops", drop_layers_picture(layers)
    for found in dynamics.maps:
        if found.group == "critical" and found.score == "safety":
            names = ("score_map_before", "score_map_after")
            yield from zip(names, score_map_pictures(found), strict=True)


def _of_overlap(overlap: Overlaps) -> Named:
    yield "overlap", overlap_picture(overlap.rows)
    if parts := [row for row in overlap.by_layer if row.group == "critical"]:
        yield "overlap_layers", overlap_layers_picture(parts)
    for found in overlap.maps:
        if found.group == "critical":
            names = ("overlap_map", "overlap_map_noise")
            yield from zip(names, overlap_map_pictures(found), strict=True)
