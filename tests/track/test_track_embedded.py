"""The drift of the embedded model: its cost, and what a training that knows nothing shows."""

import time

import pytest
import torch

from safetypin.models import adapter_folder, load_model
from safetypin.scores import magnitude
from safetypin.select import matched_random, top_fraction
from safetypin.track import drift, null_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2", dtype="float32", device="cpu")[0]


@pytest.fixture(scope="module")
def groups(model):
    top = top_fraction(magnitude(model), 0.01)
    random = matched_random(top, model, seed=0)
    return {"top": top, "random": random, "matched": matched_random(top, model, seed=1)}


def test_a_checkpoint_takes_well_under_a_minute_of_one_core(model, groups):
    start = time.process_time()
    table = drift(model, adapter_folder(), groups)
    assert time.process_time() - start < 30
    assert table.find("random", "rms_units").trainable_share == 1.0
    assert table.find("random", "rms_units").p_value > 0.001


def test_changes_that_know_nothing_show_nothing_but_in_the_papers_measure(model, groups):
    table = drift(model, null_model(model, 1e-4), groups, num_permutations=199)
    for group in groups:
        for measure in ("rms_units", "norm_ratio", "row_cosine"):
            row = table.find(group, measure)
            assert row.ratio == pytest.approx(1.0, abs=0.005), (group, measure)
            assert row.p_value > 0.01, (group, measure)
    random, top = (table.find(group, "relative_change").value for group in ("random", "top"))
    assert random / top > 20
    assert torch.is_grad_enabled()
