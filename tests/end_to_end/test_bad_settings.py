"""Wrong values of settings: what is right, exit code 2, and nothing written."""

import pytest


def test_a_share_given_in_percent_is_told_from_a_fraction(refused):
    text = refused(q=3)
    assert "q must be between 0 and 1, got 3; 3 % is 0.03" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p": 5}, "p must be between 0 and 1, got 5; 5 % is 0.05"),
        ({"q": 0}, "q must be between 0 and 1, got 0"),
        ({"q": -0.01}, "q must be between 0 and 1, got -0.01"),
        ({"q": "nan"}, "q must be between 0 and 1, got nan"),
        ({"q": ","}, "q is an empty list"),
        ({"q": "a,b"}, "'a,b' is no list of numbers such as 0.01,0.02"),
        ({"judge": "phrase"}, "no judge 'phrase'; nearest: phrases"),
        (
            {"method": "snap"},
            "method 'snap' is unknown; choose one of magnitude, magnitude-difference, random, snip",
        ),
        ({"group": "column"}, "group 'column' is unknown; choose one of row, matrix, layer, model"),
        ({"counted": "some"}, "counted 'some' is unknown; choose one of response"),
        ({"reduction": "max"}, "reduction"),
        ({"controls": "rndom"}, "unknown control 'rndom'; known are random, matched, top_utility"),
        ({"dtype": "float8"}, "unknown dtype 'float8'; choose one of auto"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"num_attack": 0}, "num_attack"),
        ({"num_attack": "many"}, "Invalid value for '--num-attack'"),
        ({"min_asr_rise": 50}, "min_asr_rise"),
        ({"targets": "no_such_layer"}, "no_such_layer"),
        ({"attack": "advbenc"}, "no prompt source 'advbenc'; did you mean advbench"),
    ],
)
def test_a_wrong_value_says_what_is_right(refused, changes, words):
    assert words in refused(**changes)


def test_fail_if_brittle_is_a_fraction(refused):
    text = refused("--fail-if-brittle", "3")
    assert "--fail-if-brittle must be in (0, 1], got 3; 1 % is 0.01" in text


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("num_atack = 3", "audit.toml: unknown key 'num_atack'; did you mean num_attack"),
        ("zzz = 3", "audit.toml: unknown key 'zzz'"),
        ("q = {}", "q: Input should be a valid tuple"),
        ("q = [3]", "q must be between 0 and 1, got 3; 3 % is 0.03"),
        ("[broken", "audit.toml is no valid TOML"),
        ("model = 3\n[nested]\nq = 1", "unknown key 'nested'"),
        ("batch_size = 'big'", "batch_size: Input should be a valid integer"),
    ],
)
def test_a_wrong_settings_file_says_where(refused, tmp_path, toml, words):
    path = tmp_path / "audit.toml"
    path.write_text(toml)
    assert words in refused("--config", path, q=None, batch_size=None)


@pytest.mark.parametrize("toml", ["preset = 'fast'", "preset = ['fast']"])
def test_an_unknown_preset_names_those_there_are(command, place, tmp_path, toml):
    path = tmp_path / "audit.toml"
    path.write_text(toml)
    ended = command("audit", place / "model", "--config", path, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "'fast'" in ended.text
    assert "choose one of quick, standard, paper" in ended.text


def test_a_missing_settings_file_is_named(refused, tmp_path):
    assert "no settings file" in refused("--config", tmp_path / "none.toml")
    assert "cannot be read" in refused("--config", tmp_path)
