"""Every option of tune and track changes something, or is refused with words.

What "changes something" means here: the setting is read while the run works. The run gets a config
that notes what is asked of it; what nobody asked for must be refused where a person gives it.
"""

import inspect

import pytest

from safetypin.artifacts import UserError
from safetypin.cli._track import track as track_command
from safetypin.cli._tune import tune as tune_command
from safetypin.stages import (
    TrackConfig,
    TuneConfig,
    idle_track_options,
    idle_tune_options,
    make_track_config,
    make_tune_config,
    refuse_idle,
    track,
    tune,
)

RENAMED = {"gate": "gates", "judge_option": "judge_options"}
# of the command itself; every run has them
OWN = {"model", "run", "out", "preset", "config", "quiet", "verbose"}


def settings_of(command):
    """Return the settings that a command has an option for."""
    names = set(inspect.signature(command).parameters) - OWN
    return {RENAMED.get(name, name) for name in names}


def noting(kind):
    """Return a config class that notes which of its fields are read."""

    class Noting(kind):
        def __getattribute__(self, name):
            if name in kind.model_fields:
                read.add(name)
            return super().__getattribute__(name)

    read = set()
    return Noting, read


def read_by(kind, config, run, folder):
    """Return the settings that a run reads."""
    noted, read = noting(kind)
    run(noted.model_construct(**{n: getattr(config, n) for n in kind.model_fields}), folder)
    return read


def names_of(idle):
    return {name for rule in idle for name in rule.names}


TUNES = {
    "none": {"protect": "none"},
    "lora": {"protect": "lora"},
    "freeze, a set that is made": {"protect": "freeze"},
    "freeze, a given set": {"protect": "freeze", "mask": "tuned"},
    "lora-column, a given set": {"protect": "lora-column", "mask": "tuned"},
    "warp": {"protect": "warp"},
    "warp, a given basis": {"protect": "warp", "mask": "warped"},
    "warp-lora, nothing drawn": {"protect": "warp-lora", "rotation": "identity"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNES)
def test_every_option_of_tune_is_read_or_refused(name, tune_settings, request, tmp_path):
    changes = dict(TUNES[name])
    if "mask" in changes:
        changes["mask"] = str(request.getfixturevalue(changes["mask"]))
    config = tune_settings(**changes)
    read = read_by(TuneConfig, config, tune, tmp_path / "out")
    idle = names_of(idle_tune_options(config))
    for left in settings_of(tune_command) - read - idle:
        # wrong in a file too: the settings themselves refuse it
        with pytest.raises(UserError, match=f"--{left}"):
            tune_settings(**changes, **{left: "random"})


@pytest.fixture(scope="module")
def warped(tune_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warped") / "run"
    tune(tune_settings(protect="warp"), folder)
    return folder


@pytest.fixture
def track_settings(tune_values, tuned):
    shared = {k: v for k, v in tune_values.items() if k in TrackConfig.model_fields}

    def make(**changes):
        values = shared | {"num_permutations": 19, "num_safety": 16, "num_utility": 16} | changes
        return make_track_config(values.pop("run", str(tuned)), None, None, values)

    return make


TRACKS = {
    "a run of tune": {},
    "a run of tune, without scores": {"rescore": False},
    "another run, a given set": {"other": True, "groups": "tuned"},
    "checkpoints alone": {"run": "training/model"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKS)
def test_every_option_of_track_is_read_or_refused(
    name, tuned, place, track_settings, tune_settings, tmp_path
):
    changes = dict(TRACKS[name])
    if changes.pop("other", False):
        tune(tune_settings(protect="none"), tmp_path / "free")
        changes |= {"run": str(tmp_path / "free"), "groups": str(tuned)}
    if "run" in changes and name == "checkpoints alone":
        changes |= {"run": str(tuned / changes["run"]), "reference": str(place / "model")}
    config = track_settings(**changes)
    read = read_by(TrackConfig, config, track, tmp_path / "out")
    idle = names_of(idle_track_options(config))
    for left in settings_of(track_command) - read - idle:
        with pytest.raises(UserError, match=f"--{left}"):
            track_settings(**changes, **{left: "random"})


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"protect": "none"}, {"lora_rank": 4}, "--lora-rank would do nothing: it belongs to "),
        ({"protect": "none"}, {"q": 0.1}, "--q would do nothing: --protect none needs no set"),
        ({"protect": "freeze"}, {"keep_ratio": 0.1}, "it belongs to --protect warp or warp-lora"),
        ({"protect": "freeze"}, {"any_model": True}, "no set of another model is given"),
        ({"protect": "freeze"}, {"counted": "all"}, "only Wanda and SparseGPT count"),
        ({"protect": "freeze", "method": "wanda"}, {"reduction": "sum"}, "only SNIP has a loss"),
        ({"protect": "freeze", "method": "random"}, {"score_batch_size": 2}, "reads no prompts"),
        ({"protect": "lora"}, {"lora_coverage": 0.5}, "lora-column or warp-lora, and this is lora"),
        ({"protect": "warp"}, {"utility": "x"}, "scores coefficients, by safety alone"),
        ({"protect": "warp", "form": "column"}, {"keep_group": "model"}, "in each matrix"),
        ({"protect": "warp", "rotation": "random"}, {"basis_counted": "all"}, "reads no inputs"),
        ({"protect": "warp"}, {"draw_seed": 1}, "nothing here is drawn at random"),
        ({"protect": "none"}, {"epochs": 2.0}, "the training ends after 6 steps (max_steps)"),
        ({"protect": "none"}, {"exact_match_tokens": 9}, "without --exact-match"),
        ({"protect": "none", "eval_data": "x"}, {"eval_fraction": 0.2}, "those of --eval-data"),
        ({"protect": "none", "eval_fraction": 0}, {"num_task": 5}, "eval_fraction 0 holds no exam"),
        ({"protect": "none", "eval_fraction": 0}, {"exact_match": True}, "holds no examples out"),
        ({"protect": "none", "schedule": "constant"}, {"warmup_ratio": 0.1}, "has no warm-up"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused_with_the_reason(
    changes, given, said, tune_settings
):
    config = tune_settings(**changes, **{k: v for k, v in given.items() if v != "x"})
    with pytest.raises(UserError, match="would do nothing") as error:
        refuse_idle(given, idle_tune_options(config))
    assert said in str(error.value)
    assert str(error.value).endswith("; leave it out")


def test_epochs_take_the_place_of_the_steps_of_a_preset():
    given = {"data": "gsm8k", "protect": "none"}
    assert make_tune_config("m", "quick", None, given).max_steps == 25
    config = make_tune_config("m", "quick", None, given | {"epochs": 1.0})
    assert (config.max_steps, config.epochs) == (None, 1.0)
    refuse_idle({"epochs": 1.0}, idle_tune_options(config))


def test_beside_a_given_set_nothing_that_makes_one_is_taken(tuned, tune_refused):
    assert f"the set is there already, in {tuned}, so nothing is scored" in tune_refused(
        mask=tuned, safety=None, num_safety=None, utility=None, num_utility=None, q=0.02
    )


def test_a_file_may_hold_settings_that_this_run_does_not_need(tuned, command, tune_words, tmp_path):
    (tmp_path / "all.toml").write_text("q = 0.02\nlora_rank = 4\n")
    none = dict.fromkeys(("safety", "num_safety", "utility", "num_utility"))
    words = tune_words(tmp_path / "out", protect="none", **none)
    ended = command(*words, "--config", tmp_path / "all.toml", "--quiet")
    assert ended.code == 0, ended
