import pytest

from safetypin.artifacts import UserError
from safetypin.stages import TRACK_PRESETS, TrackConfig, make_track_config
from safetypin.stages._track_groups import Given, shares_of


def config(**changes):
    return make_track_config("run", None, None, changes)


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "track.toml"
    file.write_text('preset = "quick"\nnum_attack = 7\nseed = 3\ntargets = "attn_*"\n')
    found = make_track_config("run", None, file, {"seed": 5})
    assert (found.preset, found.num_attack, found.seed) == ("quick", 7, 5)
    assert found.num_permutations == TRACK_PRESETS["quick"]["num_permutations"]
    assert found.targets == ("attn_*",)


@pytest.mark.parametrize("preset", sorted(TRACK_PRESETS))
def test_every_preset_is_valid(preset):
    found = make_track_config("run", preset, None, {})
    assert found.preset == preset
    assert set(TRACK_PRESETS[preset]) <= set(TrackConfig.model_fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": 5}, r"q must be between 0 and 1, got 5; 5 % is 0.05"),
        ({"p": 0.0}, r"p must be between 0 and 1"),
        ({"method": "wander"}, r"method 'wander' is unknown; choose one of .*wanda"),
        ({"group": "column"}, r"group 'column' is unknown"),
        ({"counted": "none"}, r"counted 'none' is unknown"),
        ({"set": "q0.01-p0.01"}, r"name the audit with --groups"),
        ({"rescore": False, "control": "other"}, r"--no-rescore leaves them out"),
        ({"num_permutations": 0}, r"num_permutations: .*greater than or equal to 1"),
        ({"judge": "nobody"}, r"nobody"),
        ({"refrence": "x"}, r"unknown key 'refrence'; did you mean reference"),
    ],
)
def test_a_wrong_value_is_refused_with_what_holds(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_without_a_run_it_is_said_how_to_name_one():
    with pytest.raises(UserError, match=r"no run was given; name a run of `safetypin tune` or a"):
        make_track_config(None, None, None, {})


@pytest.mark.parametrize(
    ("changes", "own", "expected"),
    [
        ({}, None, (0.01, 0.01)),
        ({}, (0.02, 0.05), (0.02, 0.05)),
        ({"p": 0.03}, (0.02, 0.05), (0.02, 0.03)),
        ({"q": 0.04}, (0.02, 0.05), (0.04, 0.04)),
        ({"q": 0.04, "p": 0.03}, None, (0.04, 0.03)),
    ],
)
def test_shares_are_those_asked_for_else_those_of_the_given_set(changes, own, expected, tmp_path):
    given = own and Given(masks={}, source="audit", path=tmp_path, name=None, shares=own)
    assert shares_of(config(**changes), given) == expected
