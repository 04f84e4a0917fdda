"""A preset, a settings file and options become one config, whatever the command."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from safetypin.artifacts import UserError
from safetypin.stages._settings import (
    check_choice,
    check_share,
    join_settings,
    nearest,
    one_or_many,
)


class Small(BaseModel):
    model_config = ConfigDict(extra="forbid")

    preset: Literal["standard", "quick"] = "standard"
    name: str
    size: int = 1
    share: float = 0.5


PRESETS = {"standard": {}, "quick": {"size": 2, "share": 0.1}}


@pytest.fixture
def joined(tmp_path):
    def run(toml=None, preset=None, **options):
        file = None
        if toml is not None:
            file = tmp_path / "small.toml"
            file.write_text(toml)
        return join_settings(
            Small,
            PRESETS,
            preset=preset,
            file=file,
            options=options,
            required={"name": "give it with --name"},
        )

    return run


def test_the_later_of_preset_file_and_options_wins(joined):
    assert joined(name="a").size == 1
    assert joined(name="a", preset="quick").size == 2
    assert joined("size = 3\npreset = 'quick'", name="a").size == 3
    assert joined("size = 3\npreset = 'quick'", name="a", size=4).size == 4
    assert joined("size = 3\npreset = 'quick'", name="a").share == 0.1


def test_none_is_not_given(joined):
    assert joined("name = 'a'\nsize = 3", name=None, size=None).size == 3


def test_the_preset_of_the_options_wins_over_that_of_the_file(joined):
    found = joined("preset = 'quick'", preset="standard", name="a")
    assert (found.preset, found.size) == ("standard", 1)


def test_what_is_required_says_how_to_give_it(joined):
    with pytest.raises(UserError) as raised:
        joined("size = 3")
    expected = "no name was given; give it with --name or as `name` in the TOML file"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("toml", "options", "words"),
    [
        ("nam = 'a'", {"name": "a"}, "small.toml: unknown key 'nam'; did you mean name?"),
        (None, {"name": "a", "sise": 3}, "unknown key 'sise'; did you mean size"),
        ("size = 'big'", {"name": "a"}, "size: Input should be a valid integer"),
        ("preset = 'fast'", {"name": "a"}, "unknown preset 'fast'; choose one of standard, quick"),
        ("[broken", {"name": "a"}, "is no valid TOML"),
    ],
)
def test_a_wrong_setting_says_where_and_what_is_right(joined, toml, options, words):
    with pytest.raises(UserError) as raised:
        joined(toml, **options)
    assert words in str(raised.value)
    assert not str(raised.value).startswith("None")


def test_a_settings_file_that_is_not_utf_8_is_named(joined, tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(b"name = '\xe4'")
    with pytest.raises(UserError, match=r"latin\.toml is no valid TOML"):
        join_settings(Small, PRESETS, preset=None, file=path, options={}, required={})


def test_a_single_value_stands_for_a_list_of_one():
    assert one_or_many(0.5) == (0.5,)
    assert one_or_many("a") == ("a",)
    assert one_or_many([1, 2]) == [1, 2]
    assert one_or_many(None) is None


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 3, float("nan")])
def test_a_share_lies_between_0_and_1(value):
    with pytest.raises(UserError, match="q must be between 0 and 1, got"):
        check_share("q", value)
    check_share("q", 0.5)


def test_a_percentage_is_shown_as_the_fraction_that_it_is():
    with pytest.raises(UserError, match=r"got 3; 3 % is 0\.03"):
        check_share("q", 3)


def test_a_choice_names_the_others():
    check_choice("kind", "a", {"a": 1})
    with pytest.raises(UserError, match="kind 'c' is unknown; choose one of a, b"):
        check_choice("kind", "c", ("a", "b"))


def test_the_nearest_names_are_named_and_no_others():
    assert nearest("freez", ["freeze", "rewind"]) == "; did you mean freeze?"
    assert nearest("zzz", ["freeze", "rewind"]) == ""
