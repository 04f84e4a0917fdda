"""The spread over seeds."""

import pytest
from scipy import stats

from safetypin.experiment import spread


def test_a_spread_of_a_worked_example():
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.sd) == (2.0, 1.0)
    # t(0.975, 2) = 4.303; 4.303 / sqrt(3) = 2.484
    assert found.interval == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)


def test_the_interval_is_that_of_the_t_test():
    values = [0.31, 0.29, 0.44, 0.38]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert spread(values).interval == pytest.approx((theirs.low, theirs.high))


def test_one_value_has_no_spread():
    found = spread([1.0], [(0.0, 2.0)])
    assert (found.mean, found.sd, found.interval, found.whole) == (1.0, None, None, None)


def test_nothing_has_no_mean():
    assert spread([None, None]).mean is None


def test_the_whole_interval_covers_every_run():
    found = spread([1.0, 1.0], [(0.5, 1.2), [0.9, 3.0]])
    assert found.interval == (1.0, 1.0)
    assert found.whole == (0.5, 3.0)


def test_the_whole_interval_is_none_where_a_run_has_none():
    assert spread([1.0, 1.0], [(0.5, 1.2), None]).whole is None
    assert spread([1.0, None, 1.0], [(0.5, 1.2)] * 3).whole is None


def test_a_spread_is_json():
    found = spread([1.0, 3.0], [(0.0, 2.0), (2.0, 4.0)]).to_json()
    assert found["values"] == [1.0, 3.0]
    assert found["whole"] == found["interval"] == pytest.approx([2 - 12.7062, 2 + 12.7062], 1e-4)
