"""The experiment file: scales, arms, settings, and every wrong key by its nearest name."""

import tomllib
from pathlib import Path

import pytest

from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.experiment import is_chain, is_sweep, make_plan, read_experiment
from safetypin.experiment._file import DEFAULT_SCALE, SETTINGS
from safetypin.prompts import PROMPT_SOURCES
from safetypin.stages._tune_data import split

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
# a chain of commands has no arms: see test_chain.py
SHIPPED = [path for path in FILES if not (is_chain(path) or is_sweep(path))]
FILE = """
title = "A title"
hypotheses = "A/B"
seeds = [1, 2, 3]

[arms.held]
protect = "freeze"

[arms.free]
protect = "none"
learning_rate = 1e-3

[settings]
q = 0.02

[scales.small.settings]
model = "smollm2-aligned"
data = "gsm8k-100"
max_steps = 5

[scales.small.arms.free]
num_seeds = 1

[scales.paper]
seeds = [7]

[scales.paper.settings]
model = "owner/large"
data = "alpaca"
q = 0.05
"""


@pytest.fixture
def write(tmp_path):
    def make(text=FILE):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return path

    return make


def refusal(path, *changes, scale=None):
    with pytest.raises(UserError) as refused:
        make_plan(read_experiment(path, scale, changes), Path("out"))
    return str(refused.value)


def test_the_small_scale_is_taken_where_none_is_named(write):
    found = read_experiment(write())
    assert (found.scale, found.seeds) == ("small", (1, 2, 3))
    assert found.settings == {
        "q": 0.02,
        "model": "smollm2-aligned",
        "data": "gsm8k-100",
        "max_steps": 5,
    }


def test_a_scale_wins_over_the_file(write):
    found = read_experiment(write(), "paper")
    assert (found.seeds, found.settings["q"]) == ((7,), 0.05)
    assert "max_steps" not in found.settings


def test_an_arm_beside_takes_the_first_seeds_only(write):
    found = read_experiment(write())
    assert [found.seeds_of(arm) for arm in found.arms] == [(1, 2, 3), (1,)]


def test_a_changed_setting_wins_over_file_scale_and_arm(write):
    found = read_experiment(write(), None, ["q=0.1", "learning_rate=0.5", "model=./mine"])
    assert found.settings["q"] == 0.1
    assert found.settings["learning_rate"] == found.arms[1].settings["learning_rate"] == 0.5
    assert found.settings["model"] == "./mine"


def test_seeds_can_be_changed_too(write):
    assert read_experiment(write(), None, ["seeds=[4, 5]"]).seeds == (4, 5)
    assert read_experiment(write(), None, ["seeds=4"]).seeds == (4,)


def test_a_plan_trains_the_controls_of_a_seed_before_its_arm(write):
    plan = make_plan(read_experiment(write()), Path("out"))
    assert [run.name for run in plan.runs] == ["free-1", "held-1", "held-2", "held-3"]
    assert [run.track is not None for run in plan.runs] == [False, True, True, True]


def test_every_run_holds_and_follows_the_set_that_was_found(write):
    plan = make_plan(read_experiment(write()), Path("out"))
    free, first, second, _ = plan.runs
    assert (free.tune.mask, first.tune.mask) == (None, "out/identify/set")
    assert first.track.groups == "out/identify/set"
    assert (first.track.run, first.track.control) == ("out/held-1/tune", "out/free-1/tune")
    assert second.track.control is None


def test_settings_reach_the_stages_that_know_them(write):
    plan = make_plan(read_experiment(write(), None, ["num_permutations=7"]), Path("out"))
    run = plan.runs[1]
    assert (run.tune.max_steps, run.tune.seed, run.track.num_permutations) == (5, 1, 7)
    assert run.tune.q == run.track.q == plan.identify.q == 0.02
    assert plan.identify.reference == run.tune.model == "smollm2-aligned"


def test_all_runs_draw_the_same_prompts(write):
    plan = make_plan(read_experiment(write(), None, ["sample_seed=9"]), Path("out"))
    assert {run.tune.sample_seed for run in plan.runs} == {9}
    assert {run.track.seed for run in plan.runs if run.track} == {plan.identify.seed} == {9}


WRONG = {
    ("seeds = [1", "sedes = [1"): "unknown key 'sedes'; did you mean seeds",
    ("q = 0.02", "qq = 0.02"): "unknown key 'qq' in [settings]; did you mean q",
    ("max_steps = 5", "max_step = 5"): "unknown key 'max_step' in [scales.small.settings]; did you",
    ("num_seeds = 1", "num_sed = 1"): "unknown key 'num_sed' in [scales.small.arms.free]; did you",
    ("[scales.small.arms.free]", "[scales.small.arms.fre]"): "unknown key 'fre' in [scales.small];",
    (
        "[scales.paper]\nseeds",
        "[scales.paper]\nsaeds",
    ): "unknown key 'saeds' in [scales.paper];",
    ('[arms.free]\nprotect = "none"', "[arms.free]"): "[arms.free] has no key 'protect'",
    ("q = 0.02", "seed = 3"): "'seed' in [settings] is for the experiment to say",
    ('protect = "freeze"', 'protect = "freeze"\nmask = "x"'): "'mask' in [arms.held] is for the",
    ('"A/B"', '"A/C"'): "hypotheses: Input should be 'A/B', 'C/D' or 'protections'",
    ("seeds = [1, 2, 3]", "seeds = []"): "seeds: Tuple should have at least 1 item",
    ("seeds = [1, 2, 3]", 'seeds = ["one"]'): "seeds.0: Input should be a valid integer",
    ("num_seeds = 1", "num_seeds = 0"): "arms.1.num_seeds: Input should be greater than or equal",
    (
        'protect = "freeze"',
        'protect = "frezze"',
    ): "protect 'frezze' is unknown; choose one of",
    ("q = 0.02", "q = 2.0"): "q must be between 0 and 1, got 2; 2 % is 0.02",
    ('data = "gsm8k-100"\nmax', "max"): "no data was given",
    ("title = ", "title = ="): "is no valid TOML",
}


@pytest.mark.parametrize(("change", "said"), WRONG.items(), ids=[new for _, new in WRONG])
def test_what_is_wrong_in_a_file_is_said(write, change, said):
    text = FILE.replace(*change, 1)
    assert text != FILE
    assert said in refusal(write(text))


def test_an_unknown_scale_names_those_there_are(write):
    assert "has no scale 'large'; choose one of small, paper" in refusal(write(), scale="large")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("q", "--set 'q' is no setting; write it as name=value"),
        ("num_atack=3", "--set: unknown setting 'num_atack'; did you mean num_attack"),
        ("mask=x", "--set: unknown setting 'mask'"),
        ("q=much", "q: Input should be a valid number"),
    ],
)
def test_what_is_wrong_in_a_change_is_said(write, given, said):
    assert said in refusal(write(), given)


def test_a_missing_file_names_those_there_are(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    said = refusal(Path("experiments/frozen.toml"))
    assert said.startswith("no experiment file experiments/frozen.toml; there are experiments/")
    assert "experiments/frozen-regime.toml" in said


def test_a_folder_in_place_of_a_file_is_said(tmp_path):
    assert "cannot be read" in refusal(tmp_path)


def test_every_experiment_of_the_source_documents_is_shipped():
    names = {path.stem for path in SHIPPED}
    assert names >= {"frozen-regime", "frozen-lora", "unfrozen-drift"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_shipped_experiment_has_both_scales_and_three_seeds(path, scale):
    found = read_experiment(path, scale)
    make_plan(found, Path("out"))
    assert len(found.seeds) >= 3
    model = {"small": "smollm2-aligned", "paper": "meta-llama/Llama-2-7b-chat-hf"}[scale]
    assert found.settings["model"] == model
    sources = ("data", "attack", "safety", "utility", "harmless", "borderline", "text")
    assert {found.settings[name] for name in sources if name in found.settings} <= set(
        PROMPT_SOURCES
    )


@pytest.mark.parametrize("name", ["frozen-regime", "warp-gsm8k"])
def test_the_paper_scale_trains_on_the_documents_thousand_examples(name):
    path = Path(__file__).parents[2] / "experiments" / f"{name}.toml"
    for run in make_plan(read_experiment(path, "paper"), Path("out")).runs:
        pool = PromptSet(
            name="data",
            prompts=tuple(
                Prompt(text=f"add {number}", response="done") for number in range(run.tune.num_data)
            ),
        )
        train, task = split(pool, run.tune.eval_fraction, run.tune.num_task, run.tune.sample_seed)
        assert (len(train), len(task)) == (1000, 100)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_small_scale_needs_nothing_from_the_network(path):
    values = tomllib.loads(path.read_text())["scales"][DEFAULT_SCALE]
    assert not values.get("takes") or " minutes on " in values["takes"]
    assert values["settings"]["data"] == "gsm8k-100"
    assert set(values["settings"]) <= SETTINGS


def test_only_arms_in_a_basis_keep_scores_for_each_other():
    path = Path(__file__).parents[2] / "experiments" / "warp-gsm8k.toml"
    plan = make_plan(read_experiment(path, "small", []), Path("out"))
    kept = {run.tune.protect: run.tune.keep_scores for run in plan.runs}
    assert kept == {"warp": True, "none": False}
