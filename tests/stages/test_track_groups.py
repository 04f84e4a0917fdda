"""Where the groups of a track come from."""

import dataclasses

import pytest
from tracked import as_tune, make_place, settings

from safetypin.artifacts import (
    ArtifactMismatchError,
    RunRecord,
    UserError,
    payload_hashes,
    save,
    write_json,
    write_mask,
)
from safetypin.models import load_model, model_id
from safetypin.scores import magnitude, random_scores
from safetypin.select import top_fraction
from safetypin.stages._subject import Subject
from safetypin.stages._track_groups import given_groups, make_groups
from safetypin.stages._track_source import open_source


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def subject(place):
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))


@pytest.fixture(scope="module")
def mask(subject):
    return top_fraction(magnitude(subject.model), 0.03)


@pytest.fixture
def chosen(place, subject):
    """Return the given groups of a config with changes."""

    def choose(run="checkpoints", **changes):
        config = settings(place, run=run, **{"q": None, **changes})
        return given_groups(config, open_source(place / run), subject.identity)

    return choose


def audit(folder, mask, *, cell="critical-q0.02-p0.05", where=None):
    """Write the sets of an audit: two critical ones, and a top beside the second."""
    names = ("critical-q0.01-p0.01", "critical-q0.02-p0.05", "top_utility-q0.02-p0.05")
    files = [f"{name}.mask.safetensors" for name in names]
    for file in files:
        write_mask(folder / "sets" / file, mask)
    hashes = payload_hashes(folder / "sets", files)
    record = {"stage": "sets", "inputs": {}, "result": {}, "seconds": 0.0, "environment": {}}
    RunRecord(files=hashes, **record).write(folder / "sets")
    write_json(folder / "metrics.json", {"verdict": {"cell": cell}, "where": where})
    return folder


def test_nothing_is_given_where_nothing_is_named(chosen):
    assert chosen() is None


def test_a_folder_of_select_gives_its_set_and_shares(chosen, mask, tmp_path):
    save(mask, tmp_path / "set", inputs={"q": 0.02, "p": 0.03})
    given = chosen(groups=str(tmp_path / "set"))
    assert given.masks["critical"].fingerprint == mask.fingerprint
    assert (given.source, given.shares) == ("folder", (0.02, 0.03))


def test_an_audit_gives_the_set_of_its_verdict_and_the_tops_beside_it(chosen, mask, tmp_path):
    given = chosen(groups=str(audit(tmp_path / "audit", mask)))
    assert (given.source, given.name, given.shares) == (
        "audit", "critical-q0.02-p0.05", (0.02, 0.05),
    )  # fmt: skip
    assert set(given.masks) == {"critical", "top_utility"}


@pytest.mark.parametrize("name", ["q0.01-p0.01", "critical-q0.01-p0.01", "q0.01_p0.01"])
def test_another_set_of_an_audit_is_chosen_by_name(name, chosen, mask, tmp_path):
    given = chosen(groups=str(audit(tmp_path / "audit", mask)), set=name)
    assert given.name == "critical-q0.01-p0.01"
    assert set(given.masks) == {"critical"}


def test_without_a_verdict_the_set_that_the_report_looks_into_is_taken(chosen, mask, tmp_path):
    folder = audit(tmp_path / "a", mask, cell=None, where={"cell": "critical-q0.01-p0.01"})
    assert chosen(groups=str(folder)).name == "critical-q0.01-p0.01"


def test_an_unknown_set_names_those_there_are(chosen, mask, tmp_path):
    folder = str(audit(tmp_path / "audit", mask))
    with pytest.raises(UserError, match=r"no set 'q0.1-p0.1'; did you mean critical-q0.01-p0.01"):
        chosen(groups=folder, set="q0.1-p0.1")
    folder = str(audit(tmp_path / "none", mask, cell=None))
    with pytest.raises(UserError, match=r"choose one with --set: critical-q0.01-p0.01, critical-"):
        chosen(groups=folder)


def test_a_tune_gives_what_it_held_also_without_being_named(place, chosen, subject, tmp_path):
    held = as_tune(place, place / "held")
    assert chosen(run="held").source == "tune"
    assert chosen(groups=str(held)).masks["critical"].num_selected


def test_a_random_set_that_was_held_is_not_the_one_in_question(place, chosen):
    as_tune(place, place / "control", control="matched")
    assert chosen(run="control") is None


def test_a_folder_that_is_not_there_is_refused(chosen, tmp_path):
    with pytest.raises(UserError, match=r"no folder '.*nowhere'; --groups takes a folder of"):
        chosen(groups=str(tmp_path / "nowhere"))


def test_a_set_cannot_be_chosen_of_what_is_no_audit(chosen, mask, tmp_path):
    save(mask, tmp_path / "set")
    with pytest.raises(UserError, match=r"but .*set is no audit"):
        chosen(groups=str(tmp_path / "set"), set="q0.01-p0.01")


def test_an_empty_set_is_refused(chosen, mask, tmp_path):
    save(mask - mask, tmp_path / "set")
    with pytest.raises(UserError, match=r"is empty, so there is nothing to follow"):
        chosen(groups=str(tmp_path / "set"))


@pytest.mark.parametrize("kind", ["select", "audit", "tune"])
def test_a_set_in_a_rotated_basis_is_refused_with_what_can_be_given_instead(
    kind, chosen, mask, tmp_path
):
    rotated = dataclasses.replace(mask, space="0123abcd")
    if kind == "audit":
        audit(tmp_path / kind, rotated)
    else:
        save(rotated, tmp_path / kind / ("set" if kind == "tune" else ""))
    with pytest.raises(UserError, match=r"coefficients in the basis 0123abcd.*leave --groups out"):
        chosen(groups=str(tmp_path / kind))


@pytest.mark.parametrize("kind", ["select", "audit"])
def test_a_set_of_another_model_is_refused_unless_any_will_do(
    kind, chosen, mask, subject, tmp_path
):
    foreign = dataclasses.replace(mask, model_id="other#ffffffffffff")
    folder = tmp_path / kind
    if kind == "audit":
        audit(folder, foreign)
    else:
        save(foreign, folder)
    with pytest.raises(ArtifactMismatchError, match=r"is of other#ffffffffffff"):
        chosen(groups=str(folder))
    given = chosen(groups=str(folder), any_model=True)
    assert given.masks["critical"].model_id == subject.identity


def test_controls_have_as_many_weights_in_every_matrix(place, chosen, mask, subject, tmp_path):
    save(mask, tmp_path / "set")
    config = settings(place, rescore=False, groups=str(tmp_path / "set"))
    given = chosen(groups=str(tmp_path / "set"))
    output = make_groups(tmp_path / "groups", subject, given, None, config)
    counts = {name: group["num_selected"] for name, group in output.result["groups"].items()}
    assert counts == dict.fromkeys(("critical", "random", "matched"), mask.num_selected)
    assert sorted(output.files) == sorted(path.name for path in (tmp_path / "groups").iterdir())


def test_a_given_set_that_the_scores_would_not_choose_is_told(
    place, chosen, mask, subject, tmp_path
):
    save(mask, tmp_path / "set")
    config = settings(place, groups=str(tmp_path / "set"), q=0.05, p=0.01)
    given = chosen(groups=str(tmp_path / "set"))
    safety, utility = magnitude(subject.model), random_scores(subject.model, seed=3)
    scores = {"safety": [safety] * 3, "utility": [utility] * 3}
    (note,) = make_groups(tmp_path / "one", subject, given, scores, config).result["notes"]
    own = top_fraction(safety, 0.05) - top_fraction(utility, 0.01)
    assert f"was given, {mask.num_selected:,} weights" in note
    assert f"choose {own.num_selected:,}, of which {(own & mask).num_selected:,} are in it" in note
    save(own, tmp_path / "own")
    given = chosen(groups=str(tmp_path / "own"))
    assert make_groups(tmp_path / "two", subject, given, scores, config).result["notes"] == []
