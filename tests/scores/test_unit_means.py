"""Mean activations of units, against a loop that keeps everything."""

import pytest
import torch
from test_contrast import activations

from conftest import build, examples, make_batches
from safetypin.artifacts import UserError
from safetypin.scores import unit_means


@pytest.mark.parametrize("site", ["neuron", "residual"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_mean_is_over_all_counted_tokens(family, site):
    model = build(family)
    batch = make_batches(examples(5))[0]
    found = unit_means(model, make_batches(examples(5), batch_size=2), site=site)
    for name, rows in activations(model, batch, site).items():
        expected = rows[batch.counted].mean(dim=0)
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_units_of_experts_and_nothing_counted_are_errors():
    with pytest.raises(UserError, match="are of experts; use a set at site residual"):
        unit_means(build("mixtral"), make_batches(examples(2)))
    batch = make_batches(examples(2))[0]
    batch.counted[:] = False
    with pytest.raises(UserError, match="no token is counted"):
        unit_means(build("llama"), [batch])
