"""A chain of commands from a file: what is read, what refers to what, and what is wrong."""

import re
from pathlib import Path

import pytest

from safetypin.artifacts import UserError
from safetypin.experiment import is_chain, read_chain

FILE = Path(__file__).parents[2] / "experiments" / "contrast-guard.toml"
GOOD = """
title = "t"
[settings]
reference = "r"
[steps.first]
command = "contrast"
[steps.second]
command = "patch"
neurons = "@first"
[scales.small.settings]
model = "m"
[scales.large]
settings = { model = "M" }
steps = { second = { num_attack = 7 } }
"""


def write(tmp_path, text):
    path = tmp_path / "chain.toml"
    path.write_text(text)
    return path


def test_a_step_reads_what_an_earlier_one_has_left(tmp_path):
    chain = read_chain(write(tmp_path, GOOD), "large", ["num_random=1"], tmp_path / "out")
    first, second = chain.steps
    assert (first.config.model, first.config.reference) == ("M", "r")
    assert second.config.neurons == str(tmp_path / "out" / "first")
    assert (second.config.num_attack, second.config.num_random) == (7, 1)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_experiment_of_the_project_is_valid_at_both_scales(scale, tmp_path):
    assert is_chain(FILE)
    chain = read_chain(FILE, scale, [], tmp_path)
    assert [step.command for step in chain.steps] == ["contrast", "contrast", "patch"] + [
        "guard"
    ] * 2
    assert not is_chain(FILE.with_name("frozen-regime.toml"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"@first"', '"@frist"', "'@frist' names no earlier step; did you mean first"),
        ('"patch"', '"pach"', "has the command 'pach'; choose one of contrast, patch, guard"),
        ("neurons =", "nerons =", "unknown key 'nerons' in [steps.second]; did you mean neurons"),
        ("[settings]", "[setings]", "unknown key 'setings'"),
        ("num_attack = 7", "num_attack = 0", "step 'second'"),
        ("second = {", "third = {", "unknown key 'third' in [scales.large]"),
        ("num_attack = 7", "test_fraction = 0.5", "unknown key 'test_fraction' in [scales.large."),
        ('title = "t"', "", "title: Field required"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, old, new, said):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match=re.escape(said)):
        read_chain(path, "large", [], tmp_path / "out")


def test_an_unknown_scale_or_setting_is_named(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(UserError, match="has no scale 'tiny'; choose one of small, large"):
        read_chain(path, "tiny", [], tmp_path)
    with pytest.raises(UserError, match="'num_atack=3' is no setting"):
        read_chain(path, None, ["num_atack=3"], tmp_path)
