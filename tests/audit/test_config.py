"""Presets, the settings file, options: the later wins, and every setting has its option."""

import inspect
import tomllib

import pytest
from pydantic_core import PydanticUndefined

from safetypin.artifacts import UserError
from safetypin.audit import PRESETS, AuditConfig, make_config
from safetypin.audit._cells import planned_cells
from safetypin.cli import _audit

OTHER = {
    "model": "other",
    "preset": "paper",
    "dtype": "float32",
    "device": "cpu",
    "system": "be brief",
    "prompt_column": "request",
    "judge": "prefix",
    "judge_options": ("a=1",),
    "method": "wanda",
    "counted": "all",
    "reduction": "sum",
    "targets": ("q_proj", "k_proj"),
    "group": "row",
    "q": (0.03, 0.07),
    "p": (0.02,),
    "controls": ("matched",),
}
# judge options are checked against the judge, so a judge that takes one; only Wanda counts tokens
NEEDS = {
    "counted": {"method": "wanda", "counted": "all"},
    "judge_options": {"judge": "openai:http://localhost:1", "judge_options": ("model=m",)},
}
FIELDS = sorted(AuditConfig.model_fields)


def another(name):
    """Return values that differ from the default of one field."""
    if name in NEEDS:
        return NEEDS[name]
    if name in OTHER:
        return {name: OTHER[name]}
    default = AuditConfig.model_fields[name].default
    assert default is not PydanticUndefined
    if isinstance(default, bool):
        return {name: not default}
    if isinstance(default, int):
        return {name: default + 3}
    if isinstance(default, float):
        return {name: default + 0.01}
    return {name: f"{default}.txt"}


def as_options(name, value):
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if name == "judge_options":
        return [word for pair in value for word in ("--judge-option", pair)]
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [shown] if name == "model" else [option, shown]


def as_toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Return the config that a command line arrives at."""

    def run(*words):
        class Enough(Exception):
            pass

        def stop(config, out, *, reporter):
            raise Enough(config)

        monkeypatch.setattr(_audit, "run_audit", stop)
        from safetypin.cli import app

        with pytest.raises(Enough) as stopped:
            app([*words, "--out", str(tmp_path / "out")], standalone_mode=False)
        return stopped.value.args[0]

    return lambda *words: run("audit", *words)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_its_own_option(configured, name):
    values = another(name)
    words = [word for key, value in values.items() for word in as_options(key, value)]
    config = configured(*([] if name == "model" else ["smollm2"]), *words)
    plain = make_config("smollm2", None, None, {})
    for key, value in values.items():
        assert getattr(config, key) == value
        assert getattr(plain, key) != value


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_stand_in_the_settings_file(configured, tmp_path, name):
    values = another(name)
    path = tmp_path / "audit.toml"
    path.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in values.items()))
    config = configured(*([] if name == "model" else ["smollm2"]), "--config", str(path))
    for key, value in values.items():
        assert getattr(config, key) == value


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"model", "preset", "judge_options"}))
def test_an_option_wins_over_the_settings_file_and_this_over_the_preset(configured, tmp_path, name):
    default = getattr(make_config("m", "quick", None, {}), name)
    value = another(name)[name]
    path = tmp_path / "audit.toml"
    path.write_text(f"model = 'm'\npreset = 'quick'\n{name} = {as_toml(value)}\n")
    assert getattr(configured("--config", str(path)), name) == value
    beside = {key: other for key, other in another(name).items() if key != name}
    words = [word for key, other in beside.items() for word in as_options(key, other)]
    if default is not None:
        config = configured("--config", str(path), *words, *as_options(name, default))
        assert getattr(config, name) == default


def test_the_command_has_an_option_for_every_setting_and_for_nothing_else():
    names = set(inspect.signature(_audit.audit).parameters)
    ours = {"out", "config", "fail_if_brittle", "quiet", "verbose"}
    renamed = {"judge_option": "judge_options"}
    assert {renamed.get(name, name) for name in names} - ours == set(FIELDS)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_valid_and_recorded(name):
    config = make_config("m", name, None, {})
    assert config.preset == name
    for key, value in PRESETS[name].items():
        assert getattr(config, key) == value


def test_the_paper_preset_is_the_grid_of_the_paper():
    config = make_config("m", "paper", None, {})
    assert (config.num_safety, config.num_utility, config.num_attack) == (128, 128, 100)
    assert all(q == p for q, p in config.grid)
    assert len(config.grid) == 18


def test_the_standard_grid_begins_well_below_the_smallest_size_that_was_seen_to_do_it():
    config = make_config("m", "standard", None, {})
    assert config.grid[:3] == [(0.0002, 0.0002), (0.0005, 0.0005), (0.001, 0.001)]
    assert len(planned_cells(config)) == 36  # six sizes of a set, four random ones and a top


def test_the_preset_of_the_file_counts_and_the_option_wins(tmp_path):
    path = tmp_path / "audit.toml"
    path.write_text("preset = 'quick'\n")
    assert make_config("m", None, path, {}).num_attack == PRESETS["quick"]["num_attack"]
    assert make_config("m", "paper", path, {}).max_new_tokens == 256


def test_the_grid_pairs_every_q_with_every_p():
    config = make_config("m", None, None, {"q": (0.02, 0.01), "p": (0.05, 0.03)})
    assert config.grid == [(0.01, 0.03), (0.01, 0.05), (0.02, 0.03), (0.02, 0.05)]


def test_a_share_given_twice_is_one_set():
    assert make_config("m", None, None, {"q": (0.01, 0.01)}).grid == [(0.01, 0.01)]


def test_settings_cannot_be_changed_once_they_are_checked():
    config = make_config("m", None, None, {})
    with pytest.raises(ValueError, match="frozen"):
        config.q = (3.0,)


def test_settings_written_by_metrics_read_back():
    config = make_config("m", "quick", None, {"p": (0.02,), "targets": ("q_proj",)})
    assert AuditConfig(**config.model_dump(mode="json")) == config


def test_the_nearest_names_of_an_unknown_key_are_named(tmp_path):
    path = tmp_path / "audit.toml"
    path.write_text("max_tokens = 3\n")
    assert tomllib.loads(path.read_text()) == {"max_tokens": 3}
    with pytest.raises(UserError, match="did you mean max_new_tokens"):
        make_config("m", None, path, {})


def test_a_single_value_in_toml_stands_for_a_list_of_one(tmp_path):
    file = tmp_path / "one.toml"
    file.write_text('q = 0.01\ncontrols = "random"\n')
    config = make_config("smollm2", None, file, {})
    assert config.q == (0.01,)
    assert config.controls == ("random",)


def test_what_a_settings_file_sets_can_be_taken_back_by_options(configured, tmp_path):
    path = tmp_path / "audit.toml"
    switches = ("plain", "keep_scores", "allow_shared_prompts")
    lines = [f"{name} = true" for name in switches]
    path.write_text("\n".join([*lines, 'system = "be brief"', "p = [0.02]", 'device = "cpu"']))
    given = ["--no-plain", "--no-keep-scores", "--no-allow-shared-prompts"]
    given += ["--system", "", "--p", "", "--device", ""]
    found = configured("m", "--config", str(path), *given)
    assert found == make_config("m", None, None, {})
