"""The page says of each family what is covered; the code must say the same."""

import pytest
import torch

from conftest import CONFIGS, build
from doc_pages import METHODS, bare, table
from safetypin.artifacts import UserError
from safetypin.evaluate import patchable
from safetypin.models import block_weights, coverage, head_sites, input_sites
from safetypin.scores import contrast
from safetypin.select import top_neurons
from safetypin.subspaces import actsvd

ROWS = {bare(name.split()[0]): cells for name, *cells in table(METHODS, "## Architectures")}


def test_every_family_has_a_row():
    assert ROWS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_is_covered_as_the_page_says(family, batch):
    model = build(family)
    weights, found = block_weights(model), coverage(model)
    roles = {weight.role for weight in weights.values()}
    attention, gates, experts, scored, ranked, heads, neurons = ROWS[family]
    assert attention == ("one matrix" if "attn_qkv" in roles else "split")
    assert ("split" in gates) == ("ffn_gate" in roles)
    assert ("one matrix" in gates) == any(role.endswith("ffn_gate_up") for role in roles)
    assert ("up alone" in gates) == (roles & {"ffn_gate", "ffn_up", "ffn_gate_up"} == {"ffn_up"})
    mixture = any(weight.layout == "experts" for weight in weights.values())
    assert experts == ("scored" if mixture else "")
    assert (found.fraction == 1.0) == (scored == "100 %")
    assert ("all but the router" in scored) == bool(found.not_covered)
    assert all("gate" in name for name in found.not_covered)
    left_out = actsvd(model, [batch]).not_covered
    assert ranked == ("all but the experts" if left_out else "all")
    assert all(weights[name].layout == "experts" for name in left_out)
    assert heads == "all"
    assert {site.layer for site in head_sites(model).values()} == {0, 1}
    assert neurons == ("not the experts" if mixture else "all")
    if mixture:
        with pytest.raises(UserError, match="experts"):
            input_sites(weights)
        other = build(family)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.1)
        whole = top_neurons(contrast(model, other, [batch]), 1.0)
        with pytest.raises(UserError, match="are of experts"):
            patchable(model, whole)
    else:
        assert input_sites(weights).keys() == weights.keys()
