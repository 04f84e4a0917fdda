"""Which set is protected: made here, of `select`, of an audit, of another tuning, or a control."""

import inspect
import json
import shutil
import weakref

import pytest

from end_to_end.comparing import read_metrics
from safetypin.artifacts import UserError, load, read_mask
from safetypin.models import load_model
from safetypin.stages import EVENTS_FILE, Reporter, _tune, _tune_training, tune
from safetypin.stages._tune_columns import spread_note
from safetypin.stages._tune_set import given_set


@pytest.fixture
def protected(tune_settings, tmp_path):
    """Return what `metrics.json` says of the set, and the set, of a tuning of one step."""

    def run(**changes):
        out = tmp_path / "out"
        found = tune(tune_settings(max_steps=1, **changes), out)
        return found["set"], load(out / "set")

    return run


def identity(folder):
    return read_metrics(folder)["model"]["id"]


def test_a_set_of_select_is_taken(protected, staged):
    about, mask = protected(mask=str(staged / "set"))
    given = load(staged / "set")
    assert mask.fingerprint == given.fingerprint == about["fingerprint"]
    assert (about["source"], about["path"]) == ("folder", str(staged / "set"))
    assert about["name"] is about["calibration"] is about.get("scores") is None


def test_of_an_audit_the_set_of_its_verdict_is_taken(protected, finished):
    about, mask = protected(mask=str(finished))
    cell = read_metrics(finished)["verdict"]["cell"]
    assert cell == "critical-q0.01-p0.01"
    assert (about["source"], about["name"]) == ("audit", cell)
    known = read_mask(finished / "sets" / f"{cell}.mask.safetensors")
    assert mask.fingerprint == known.fingerprint


def test_the_folder_of_an_audits_sets_stands_for_the_audit(tune_settings, finished):
    found = [
        given_set(tune_settings(mask=str(folder)), identity(finished))
        for folder in (finished, finished / "sets")
    ]
    assert [given.name for given in found] == ["critical-q0.01-p0.01"] * 2
    assert found[0].mask.fingerprint == found[1].mask.fingerprint


def test_of_another_tuning_its_own_set_is_taken(protected, tuned):
    about, mask = protected(mask=str(tuned))
    assert about["source"] == "tune"
    assert mask.fingerprint == load(tuned / "set").fingerprint


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("q0.01-p0.01", "critical-q0.01-p0.01"),
        ("q0.01_p0.01", "critical-q0.01-p0.01"),
        ("critical-q0.01-p0.01", "critical-q0.01-p0.01"),
        ("top_utility-q0.01-p0.01", "top_utility-q0.01-p0.01"),
        ("top_utility-q0.01_p0.01", "top_utility-q0.01-p0.01"),
    ],
)
def test_another_set_of_an_audit_can_be_named(tune_settings, finished, name, found):
    config = tune_settings(mask=str(finished), set=name)
    given = given_set(config, identity(finished))
    assert given.name == found
    file = finished / "sets" / f"{found}.mask.safetensors"
    assert given.mask.fingerprint == read_mask(file).fingerprint


def test_an_unknown_set_of_an_audit_names_those_there_are(tune_settings, finished):
    config = tune_settings(mask=str(finished), set="q0.1-p0.01")
    with pytest.raises(UserError) as raised:
        given_set(config, identity(finished))
    assert "has no set 'q0.1-p0.01'; did you mean critical-q0.01-p0.01" in str(raised.value)
    assert "with --set: critical-q0.01-p0.01, top_utility-q0.01-p0.01" in str(raised.value)


def test_an_audit_whose_verdict_names_no_set_asks_for_one(tune_settings, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "undecided")
    found = read_metrics(folder)
    found["verdict"]["cell"] = None
    (folder / "metrics.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"names no set; choose one with --set: critical-q0\.01-p0"):
        given_set(tune_settings(mask=str(folder)), identity(finished))


def test_an_audit_of_another_model_is_refused(tune_settings, finished):
    with pytest.raises(UserError, match=r"is of model#.*the model is other#000"):
        given_set(tune_settings(mask=str(finished)), "other#000")
    config = tune_settings(mask=str(finished), any_model=True)
    assert given_set(config, "other#000").mask.num_selected


def test_a_set_is_only_named_of_an_audit(tune_settings, staged):
    config = tune_settings(mask=str(staged / "set"), set="q0.01-p0.01")
    with pytest.raises(
        UserError, match=r"--set chooses one of an audit's sets, but .* is no audit"
    ):
        given_set(config, load(staged / "set").model_id)


@pytest.mark.parametrize("control", ["random", "matched"])
def test_as_many_other_weights_can_be_protected_as_a_control(protected, tuned, control):
    about, mask = protected(mask=str(tuned / "set"), control=control)
    original = load(tuned / "set")
    assert about["control"] == control
    assert (mask & original).num_selected == 0
    for name, members in mask.tensors.items():
        assert members.sum() == original.tensors[name].sum(), name


def test_a_control_of_a_set_that_is_made_here(protected, tuned):
    about, mask = protected(control="random", sample_seed=0)
    assert (about["source"], about["control"]) == ("made here", "random")
    assert mask.num_selected == load(tuned / "set").num_selected
    assert (mask & load(tuned / "set")).num_selected == 0


def test_the_set_that_is_made_here_is_that_of_score_and_select(tuned, staged):
    # both begin with the same 16 prompts and answers of a kind
    assert load(tuned / "set").fingerprint == load(staged / "set").fingerprint


def test_an_empty_set_is_an_error_that_says_what_to_change(tune_settings, tmp_path):
    config = tune_settings(method="magnitude")
    with pytest.raises(UserError, match=r"lies inside the top 0\.01 of the utility scores"):
        tune(config, tmp_path / "out")
    assert not (tmp_path / "out" / "set").exists()


def test_scores_are_kept_where_they_are_asked_for(tune_settings, tmp_path):
    tune(tune_settings(max_steps=1, keep_scores=True), tmp_path / "out")
    for name in ("safety", "utility"):
        assert load(tmp_path / "out" / f"scores-{name}").num_examples == 16


def test_a_set_with_a_weight_in_every_column_is_told_before_it_is_made_and_after(
    tune_settings, tmp_path
):
    events = tmp_path / "out" / EVENTS_FILE
    columns = {"protect": "lora-column", "q": 0.9, "p": 0.01, "max_steps": 1}
    with pytest.raises(UserError) as raised:
        tune(
            tune_settings(**columns), tmp_path / "out", reporter=Reporter(events=events, quiet=True)
        )
    for way_on in ("--protect lora-entry", "--lora-coverage 0.5", "a smaller set"):
        assert way_on in str(raised.value)
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    (note,) = (n for n, row in enumerate(rows) if "lora-column keeps off" in row.get("text", ""))
    stages = {row["name"]: n for n, row in enumerate(rows) if row["event"] == "stage"}
    assert note < stages["scores-safety"] < stages["set"]
    assert "it would leave 0.0% of the adapters' inputs" in rows[note]["text"]
    # the way on that it names scores nothing again
    found = tune(tune_settings(**columns, lora_coverage=0.5), tmp_path / "out")
    assert {stage["name"]: stage["reused"] for stage in found["run"]["stages"]}["set"]


def test_where_a_spread_set_leaves_columns_nothing_is_said(tune_settings, place):
    model, _ = load_model(str(place / "model"), device="cpu")
    # of q_proj, 32 by 32, a hundredth leaves 0.99 ** 32 of the columns; of v_proj, 16 by 32, more
    assert spread_note(tune_settings(protect="lora-column"), model) is None
    assert spread_note(tune_settings(protect="lora-column", q=0.5), model)
    for other in ({"protect": "lora-entry"}, {"protect": "lora-column", "lora_coverage": 0.5}):
        assert spread_note(tune_settings(**other, q=0.5), model) is None


def test_no_set_is_in_memory_while_the_model_is_trained(
    tune_settings, tuned, tmp_path, monkeypatch
):
    sets, alive = [], []

    def noting(read):
        def noted(*given):
            found = read(*given)
            sets.append(weakref.ref(getattr(found, "mask", found)))
            return found

        return noted

    class Looking(Reporter):
        def detail(self, text):
            if text.startswith("step "):
                alive.append([one() for one in sets if one() is not None])

    for name in ("given_set", "read_protected"):
        monkeypatch.setattr(_tune, name, noting(getattr(_tune, name)))
    # the checks of shapes that the tests put around it would keep what they checked
    monkeypatch.setattr(_tune_training, "finetune", inspect.unwrap(_tune_training.finetune))
    config = tune_settings(mask=str(tuned / "set"), max_steps=1)
    tune(config, tmp_path / "out", reporter=Looking(quiet=True))
    assert len(sets) >= 2
    assert alive == [[]]
