"""Predicting from activations whether a prompt is unsafe: features, probes, baselines, guards."""

from safetypin.predict._baselines import BASELINES, baseline_scores
from safetypin.predict._data import (
    MAX_CHARACTERS,
    Labelled,
    check_classes,
    check_hash_leaks,
    check_leaks,
    check_prompt,
    labelled,
    split_groups,
)
from safetypin.predict._features import (
    FEATURES_FILE,
    POOLINGS,
    Features,
    Reading,
    chosen_sites,
    encode_prompts,
    read_features,
    texts_hash,
    write_features,
)
from safetypin.predict._generator import GuardedGenerator
from safetypin.predict._guard import GUARD_FILE, Guard, GuardRule
from safetypin.predict._linear import CLASSIFIERS, Linear, Span, fit_linear, span_of
from safetypin.predict._measures import (
    calibration,
    check_threshold,
    measures,
    rates_at,
    threshold_at,
)
from safetypin.predict._tokens import written_by

__all__ = [
    "BASELINES",
    "CLASSIFIERS",
    "FEATURES_FILE",
    "GUARD_FILE",
    "MAX_CHARACTERS",
    "POOLINGS",
    "Features",
    "Guard",
    "GuardRule",
    "GuardedGenerator",
    "Labelled",
    "Linear",
    "Reading",
    "Span",
    "baseline_scores",
    "calibration",
    "check_classes",
    "check_hash_leaks",
    "check_leaks",
    "check_prompt",
    "check_threshold",
    "chosen_sites",
    "encode_prompts",
    "fit_linear",
    "labelled",
    "measures",
    "rates_at",
    "read_features",
    "span_of",
    "split_groups",
    "texts_hash",
    "threshold_at",
    "write_features",
    "written_by",
]
