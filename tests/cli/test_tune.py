"""The options of `safetypin tune`: one for every setting, and the later wins."""

import inspect

import pytest
from pydantic_core import PydanticUndefined

from safetypin.artifacts import UserError
from safetypin.cli import _tune, app
from safetypin.intervene import PROTECTIONS, Training
from safetypin.stages import GAUGES, TUNE_PRESETS, TuneConfig, make_tune_config

GIVEN = {"data": "alpaca", "protect": "freeze"}
OTHER = {
    "model": "other",
    "preset": "paper",
    "dtype": "float32",
    "device": "cpu",
    "system": "be brief",
    "data": "gsm8k",
    "num_data": 7,
    "eval_data": "gsm8k",
    "protect": "rewind",
    "mask": "runs/set",
    "set": "q0.01-p0.01",
    "control": "random",
    "max_steps": 3,
    "learning_rate": 0.5,
    "optimizer": "sgd",
    "schedule": "cosine",
    "precision": "bf16",
    "save_steps": 5,
    "report_to": ("none_installed",),
    "judge": "prefix",
    "judge_options": ("a=1",),
    "method": "wanda",
    "reduction": "sum",
    "targets": ("q_proj", "k_proj"),
    "group": "row",
    "p": 0.02,
    "gates": ("asr<=0.1", "perplexity<=20"),
}
# what one setting needs beside it
NEEDS = {
    "judge_options": {"judge": "openai:http://localhost:1", "judge_options": ("model=m",)},
    "set": {"mask": "runs/audit", "set": "q0.01-p0.01"},
    "any_model": {"mask": "runs/audit", "any_model": True},
    "counted": {"method": "wanda", "counted": "all"},
    "exact_match_tokens": {"exact_match": True, "exact_match_tokens": 9},
    "train_others": {"protect": "warp", "train_others": True},
    "draw_seed": {"protect": "warp", "importance": "random", "draw_seed": 7},
    **{
        name: {"protect": "warp", name: value}
        for name, value in {
            "rotation": "random",
            "importance": "bottom",
            "form": "column",
            "keep_group": "model",
            "keep_ratio": 0.2,
            "layers": "last",
            "basis_counted": "response",
        }.items()
    },
    **{
        name: {"protect": "lora-column", name: value}
        for name, value in {
            "lora_rank": 4,
            "lora_alpha": 8.0,
            "lora_dropout": 0.1,
            "lora_targets": ("k_proj", "o_proj"),
            "lora_coverage": 0.5,
        }.items()
    },
}
# checked against what is installed, so it is tested where it is refused
FIELDS = sorted(set(TuneConfig.model_fields) - {"report_to"})
RENAMED = {"judge_options": "--judge-option", "gates": "--gate"}


def another(name):
    """Return values that differ from the default of one field."""
    if name in NEEDS:
        return NEEDS[name]
    if name in OTHER:
        return {name: OTHER[name]}
    default = TuneConfig.model_fields[name].default
    assert default is not PydanticUndefined
    if isinstance(default, bool):
        return {name: not default}
    if isinstance(default, int):
        return {name: default + 3}
    if isinstance(default, float):
        return {name: default + 0.01}
    return {name: f"{default}.txt"}


def as_options(name, value):
    option = RENAMED.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if name in RENAMED:
        return [word for one in value for word in (option, one)]
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [shown] if name == "model" else [option, shown]


def as_toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Return the config that a command line arrives at."""

    class Enough(Exception):
        pass

    def stop(config, out, *, reporter):
        raise Enough(config)

    def run(*words):
        monkeypatch.setattr(_tune, "run_tune", stop)
        with pytest.raises(Enough) as stopped:
            app(["tune", *words, "--out", str(tmp_path / "out")], standalone_mode=False)
        return stopped.value.args[0]

    return run


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_its_own_option(configured, name):
    values = GIVEN | another(name)
    words = [word for key, value in values.items() for word in as_options(key, value)]
    config = configured(*([] if name == "model" else ["smollm2"]), *words)
    plain = make_tune_config("smollm2", None, None, GIVEN)
    for key, value in another(name).items():
        assert getattr(config, key) == value
        assert getattr(plain, key) != value


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_stand_in_the_settings_file(configured, tmp_path, name):
    values = GIVEN | another(name)
    path = tmp_path / "tune.toml"
    path.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in values.items()))
    config = configured(*([] if name == "model" else ["smollm2"]), "--config", str(path))
    for key, value in values.items():
        assert getattr(config, key) == value


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"model", "preset", *NEEDS}))
def test_an_option_wins_over_the_settings_file(configured, tmp_path, name):
    plain = make_tune_config("m", "quick", None, GIVEN)
    value = another(name)[name]
    path = tmp_path / "tune.toml"
    values = {"model": "m", "preset": "quick"} | GIVEN | {name: value}
    path.write_text("".join(f"{key} = {as_toml(found)}\n" for key, found in values.items()))
    assert getattr(configured("--config", str(path)), name) == value
    default = getattr(plain, name)
    if default not in (None, ()):
        config = configured("--config", str(path), *as_options(name, default))
        assert getattr(config, name) == default


def test_the_command_has_an_option_for_every_setting_and_for_nothing_else():
    names = set(inspect.signature(_tune.tune).parameters)
    ours = {"out", "config", "quiet", "verbose"}
    renamed = {"judge_option": "judge_options", "gate": "gates"}
    assert {renamed.get(name, name) for name in names} - ours == set(TuneConfig.model_fields)


def test_the_defaults_of_the_training_are_the_documents():
    assert make_tune_config("m", None, None, GIVEN).training == Training()


@pytest.mark.parametrize("name", sorted(TUNE_PRESETS))
def test_every_preset_is_valid_and_recorded(name):
    config = make_tune_config("m", name, None, GIVEN)
    assert config.preset == name
    for key, value in TUNE_PRESETS[name].items():
        assert getattr(config, key) == value


def test_settings_written_by_metrics_read_back():
    config = make_tune_config("m", "quick", None, GIVEN | {"gates": ("asr<=0.1",), "p": 0.02})
    assert TuneConfig(**config.model_dump(mode="json")) == config


def test_settings_cannot_be_changed_once_they_are_checked():
    config = make_tune_config("m", None, None, GIVEN)
    with pytest.raises(ValueError, match="frozen"):
        config.protect = "none"


@pytest.mark.parametrize(
    ("protect", "how"),
    [("sn-tune", "--method ablation`"), ("rsn-tune", "--method ablation --foundation SET`")],
)
def test_neurons_are_trained_only_where_a_set_of_them_is_given(protect, how):
    """The set that is made here is of single weights, wherever they lie."""
    said = f"--protect {protect} needs a set of neurons; make one with `safetypin contrast MODEL "
    with pytest.raises(UserError, match=f"{said}{how} and name its folder with --mask"):
        make_tune_config("m", None, None, GIVEN | {"protect": protect})
    given = GIVEN | {"protect": protect, "mask": "runs/contrast"}
    assert not make_tune_config("m", None, None, given).makes_set


@pytest.mark.parametrize("protect", [k for k, v in PROTECTIONS.items() if not v.needs_neurons])
def test_a_set_is_made_only_where_one_is_needed_and_none_is_given(protect):
    needs = PROTECTIONS[protect].needs_mask
    config = make_tune_config("m", None, None, GIVEN | {"protect": protect})
    assert config.makes_set is needs
    if needs:
        config = make_tune_config("m", None, None, GIVEN | {"protect": protect, "mask": "x"})
        assert not config.makes_set


def test_the_share_of_utility_is_that_of_safety_where_none_is_given():
    assert make_tune_config("m", None, None, GIVEN | {"q": 0.02}).shares == (0.02, 0.02)
    assert make_tune_config("m", None, None, GIVEN | {"q": 0.02, "p": 0.05}).shares == (0.02, 0.05)


SWITCHES = [name for name, field in TuneConfig.model_fields.items() if field.annotation is bool]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_the_settings_file_turns_on_is_turned_off_by_its_no(
    configured, tmp_path, name
):
    path = tmp_path / "tune.toml"
    values = {"model": "m"} | GIVEN | another(name)
    path.write_text("".join(f"{key} = {as_toml(found)}\n" for key, found in values.items()))
    assert getattr(configured("--config", str(path)), name) is True
    off = f"--no-{name.replace('_', '-')}"
    assert getattr(configured("--config", str(path), off), name) is False


def test_the_switches_are_those_that_are_known():
    assert {"plain", "exact_match", "any_model", "train_others"} < set(SWITCHES)


def help_of(name):
    from typer.main import get_command

    return {p.name: p.help for p in get_command(app).commands["tune"].params}[name]


def test_the_help_of_gates_says_what_a_perplexity_is_on():
    text = help_of("gate")
    assert "perplexity and perplexity_ratio are on plain text" in text
    assert "task_loss and task_perplexity_ratio on the task" in text


def test_the_help_of_checkpoints_says_when_the_ones_to_go_on_from_are_made():
    assert "made after a minute, then every ten, and removed at the end" in help_of("save_steps")


def test_help_names_every_protection_and_every_gauge():
    from typer.testing import CliRunner

    text = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "300"}).output
    for name in (*PROTECTIONS, *GAUGES):
        assert name in text
