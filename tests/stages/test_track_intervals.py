"""Intervals of the fall of a mean score, over the matrices of a model."""

import numpy as np
import pytest

from safetypin.stages._track_intervals import with_intervals


def rows(group, means, model="tuned", num_weights=10):
    """Return a matrix row for each (before, after), and the row over all of them."""
    common = {"model": model, "score": "safety", "group": group}
    found = [
        {
            **common, "level": "matrix", "layer": layer, "role": "mlp.up_proj",
            "num_weights": num_weights, "mean_before": before, "mean_after": after, "drop": None,
        }
        for layer, (before, after) in enumerate(means)
    ]  # fmt: skip
    before, after = np.array(means).sum(axis=0)
    whole = {"level": "all", "layer": None, "role": None, "drop": 1 - after / before}
    return [{**found[0], **whole}, *found]


def only(found, group="critical", model="tuned"):
    (row,) = [row for row in found if row["group"] == group and row["model"] == model]
    return row


def test_the_same_fall_everywhere_leaves_no_doubt():
    found = only(with_intervals(rows("critical", [(1.0, 0.7), (4.0, 2.8), (2.0, 1.4)]), 0))
    assert found["drop_interval"] == pytest.approx([0.3, 0.3])
    assert found["against_matched"] is None


def test_matrices_that_differ_make_the_interval_wide():
    low, high = only(with_intervals(rows("critical", [(1.0, 0.1), (1.0, 0.9)] * 10), 0))[
        "drop_interval"
    ]
    assert 0.2 < low < 0.4 < 0.6 < high < 0.8


def test_a_fall_that_all_weights_share_is_none_of_the_set():
    critical, matched = [(1.0, 0.4), (3.0, 1.2)], [(0.5, 0.2), (0.1, 0.04)]
    found = only(with_intervals(rows("critical", critical) + rows("matched", matched), 0))
    assert found["drop"] == pytest.approx(0.6)
    assert found["against_matched"]["value"] == pytest.approx(0.0)
    assert found["against_matched"]["interval"] == pytest.approx([0.0, 0.0])
    assert found["beyond_matched"]["value"] == pytest.approx(0.0)


def test_a_rise_may_still_be_a_fall_beside_other_weights():
    critical, matched = [(1.0, 15.0), (2.0, 30.0)], [(1.0, 40.0), (1.0, 40.0)]
    found = only(with_intervals(rows("critical", critical) + rows("matched", matched), 0))
    assert found["drop"] == pytest.approx(-14.0)
    assert found["against_matched"]["value"] == pytest.approx(1 - 15 / 40)
    assert found["beyond_matched"]["value"] == pytest.approx(25.0)


def test_the_matched_weights_are_not_compared_with_themselves():
    found = with_intervals(rows("matched", [(1.0, 0.5), (1.0, 0.6)]), 0)
    assert only(found, "matched")["against_matched"] is None


def test_models_are_compared_each_with_its_own_controls():
    falls = {"tuned": 0.5, "control": 0.25}
    made = []
    for model, kept in falls.items():
        made += rows("critical", [(1.0, kept), (1.0, kept)], model)
        made += rows("matched", [(1.0, 1.0), (1.0, 1.0)], model)
    found = with_intervals(made, 0)
    for model, kept in falls.items():
        assert only(found, model=model)["against_matched"]["value"] == pytest.approx(1 - kept)


@pytest.mark.parametrize("means", [[(1.0, 0.5)], [(0.0, 0.0), (0.0, 0.0)]])
def test_too_little_gives_no_interval(means):
    made = rows("critical", means) if means[0][0] else zeros(means)
    assert only(with_intervals(made, 0))["drop_interval"] is None


def zeros(means):
    made = rows("critical", [(1.0, 1.0)] * len(means))
    return [{**row, "mean_before": 0.0, "mean_after": 0.0, "drop": None} for row in made]


def test_the_same_seed_gives_the_same_interval():
    made = rows("critical", [(1.0, 0.03 * share) for share in range(30)])
    assert with_intervals(made, 3) == with_intervals(made, 3)
    assert with_intervals(made, 3) != with_intervals(made, 4)
