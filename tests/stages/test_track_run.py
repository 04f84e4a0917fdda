"""`track` as a whole, on a tiny model whose changes are known."""

import dataclasses
import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from tracked import STEPS, Q, as_tune, make_place, settings
from transformers import LlamaForCausalLM

from safetypin.artifacts import UserError, load, read_json, save, write_json
from safetypin.stages import EVENTS_FILE, Reporter, read_set, track
from safetypin.stages._track_scoring import TrackScores

FILES = {
    "metrics.json", "examples.json", "drift.parquet", "dynamics.parquet", "histograms.parquet",
    "overlap.parquet",
    "report.html",
}  # fmt: skip


class Watched(Reporter):
    """A reporter that knows what was said and how much was done when the end was declared."""

    at_the_end = None

    def finish(self):
        self.at_the_end = self.progress
        super().finish()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """The folder of a track of two checkpoints, its metrics and its reporter."""
    out = tmp_path_factory.mktemp("finished") / "run"
    reporter = Watched(quiet=True, events=out / EVENTS_FILE)
    return out, track(settings(place), out, reporter=reporter), reporter


@pytest.fixture(scope="module")
def tuned(place, tmp_path_factory):
    """A finished run of `tune` that held a set."""
    return as_tune(place, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Draw nothing but for `finished`, which is made before this holds."""
    monkeypatch.setattr("safetypin.stages._track_write.write_track_report", lambda folder: folder)


def rows_of(metrics, **wanted):
    rows = metrics["drift"]["rows"]
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_a_track_leaves_metrics_tables_figures_and_a_report(finished):
    out, metrics, _ = finished
    assert {path.name for path in out.iterdir() if path.is_file()} - {EVENTS_FILE, ".lock"} == FILES
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8")) == metrics
    assert {path.suffix for path in (out / "figures").iterdir()} == {".png", ".svg"}
    assert "Safety" in (out / "report.html").read_text(encoding="utf-8")


def test_all_work_that_was_announced_was_done(finished):
    assert finished[2].at_the_end == pytest.approx(1.0)


def test_the_scores_are_gone_but_for_their_counts(finished):
    out, metrics, _ = finished
    assert not (out / "scores-safety").exists()
    assert metrics["scores"]["safety"] == {"num_examples": 10, "num_tokens": 80}


def test_every_group_has_a_row_at_every_step_and_drift_grows(finished):
    _, metrics, _ = finished
    groups = [group["group"] for group in metrics["groups"]]
    assert groups == ["critical", "top_safety", "top_utility", "random", "matched"]
    for group in groups:
        first, last = rows_of(metrics, group=group, measure="rms_units")
        assert (first["step"], last["step"]) == STEPS
        assert 0 < first["value"] < last["value"]
        assert last["num_trainable"] == last["num_weights"]


def test_drift_is_the_mean_change_in_units_of_the_matrix(finished, place):
    out, metrics, _ = finished
    mask = read_set(out / "groups", "critical")
    before = LlamaForCausalLM.from_pretrained(place / "model")
    after = LlamaForCausalLM.from_pretrained(place / "checkpoints" / "checkpoint-10")
    changes = []
    for name, members in mask.tensors.items():
        old, new = (model.get_parameter(name).detach() for model in (before, after))
        changes.append(((new - old).abs() / old.square().mean().sqrt())[members])
    (row,) = rows_of(metrics, group="critical", measure="rms_units", step=STEPS[-1])
    assert row["value"] == pytest.approx(float(torch.cat(changes).mean()), rel=1e-5)


def test_changes_that_know_nothing_of_the_sets_are_no_drift(finished):
    _, metrics, _ = finished
    for row in rows_of(metrics, measure="rms_units", step=STEPS[-1]):
        assert row["ratio"] == pytest.approx(1.0, abs=0.25)
        assert row["p_corrected"] > 0.05
    assert metrics["findings"][1]["answer"] == "no difference shown"


def test_the_sets_before_overlap_with_themselves_where_nothing_changed(place, tmp_path):
    metrics = track(settings(place, run="model"), tmp_path / "same")
    for row in metrics["overlap"]["rows"]:
        assert row["share"] == row["jaccard"] == 1.0
        assert row["num_both"] == row["num_before"] == row["num_after"]
    for row in metrics["dynamics"]["rows"]:
        if row["model"] == "tuned":
            assert row["drop"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["outcome"]["paired"]["asr"]["value"] == 0
    assert rows_of(metrics, group="critical", measure="rms_units")[0]["value"] is None


def test_the_tables_hold_every_part_of_the_model(finished):
    out, _, _ = finished
    drift = pq.read_table(out / "drift.parquet")
    assert set(drift["level"].to_pylist()) == {"all", "layer", "role", "matrix"}
    assert set(drift["step"].to_pylist()) == set(STEPS)
    dynamics = pq.read_table(out / "dynamics.parquet")
    assert set(dynamics["model"].to_pylist()) == {"tuned", "noise"}
    assert set(dynamics["score"].to_pylist()) == {"safety", "utility"}
    overlap = pq.read_table(out / "overlap.parquet")
    assert set(overlap["group"].to_pylist()) == {"critical", "top_safety", "top_utility"}
    assert set(overlap["level"].to_pylist()) == {"all", "layer", "role", "matrix"}


def test_histograms_count_every_weight_of_a_group_in_every_part(finished):
    out, metrics, _ = finished
    table = pq.read_table(out / "histograms.parquet").to_pylist()
    assert {row["model"] for row in table} == {"tuned", "noise"}
    assert {row["score"] for row in table} == {"safety", "utility"}
    sizes = {group["group"]: group["num_selected"] for group in metrics["groups"]}
    whole = [row for row in table if row["layer"] is None and row["role"] is None]
    assert {row["group"] for row in whole} == set(sizes)
    for row in whole:
        for when in ("before", "after"):
            if row["model"] == "tuned":
                assert sum(row[when]) + row[f"zeros_{when}"] == sizes[row["group"]]


def test_maps_of_scores_and_overlap_are_those_of_the_matrices(finished):
    out, metrics, _ = finished
    scores = next(m for m in metrics["dynamics"]["maps"] if m["score"] == "safety")
    overlap = next(m for m in metrics["overlap"]["maps"] if m["group"] == "critical")
    for found, file, name, wanted in (
        (scores, "dynamics", "mean_before", {"model": "tuned", "score": "safety"}),
        (overlap, "overlap", "share", {}),
    ):
        wanted = wanted | {"level": "matrix", "group": "critical"}
        rows = [
            row
            for row in pq.read_table(out / f"{file}.parquet").to_pylist()
            if wanted.items() <= row.items()
        ]
        values = {(r["layer"], r["role"].rpartition(".")[2]): r[name] for r in rows}
        assert values
        for layer, line in zip(found["layers"], found[name], strict=True):
            for module, value in zip(found["modules"], line, strict=True):
                assert value == values.get((layer, module))
    for name in ("scores-map", "rank-changes", "overlap-map", "scores-utility-critical"):
        assert (out / "figures" / f"{name}.png").exists()


def test_scores_by_layer_and_matrix_are_kept_of_every_set_that_scores_cut(finished):
    out, metrics, _ = finished
    sets = ("critical", "top_safety", "top_utility")
    kinds = {(group, score) for group in sets for score in ("safety", "utility")}
    assert {(one["group"], one["score"]) for one in metrics["dynamics"]["maps"]} > kinds
    found = metrics["dynamics"]["by_layer"]
    assert {(row["group"], row["score"]) for row in found} == kinds
    rows = pq.read_table(out / "dynamics.parquet").to_pylist()
    by_layer = [row for row in rows if row["level"] == "layer" and row["group"] in sets]
    assert found == [{key: row[key] for key in found[0]} for row in by_layer]


def test_the_tops_can_be_wider_than_the_shares_of_the_set(finished, place, tmp_path):
    _, narrow, _ = finished
    wide = track(settings(place, top=0.3), tmp_path / "wide")
    found = {
        name: {group["group"]: group for group in metrics["groups"]}
        for name, metrics in (("narrow", narrow), ("wide", wide))
    }
    for group in ("top_safety", "top_utility"):
        assert found["wide"][group]["fraction"] == pytest.approx(0.3, abs=0.01)
        assert found["narrow"][group]["fraction"] < 0.3
    same = [found[name]["critical"]["fingerprint"] for name in ("narrow", "wide")]
    assert same[0] == same[1]
    assert wide["set"]["top"] == 0.3
    rows = {row["group"]: row for row in wide["overlap"]["rows"]}
    assert rows["top_safety"]["num_after"] == found["wide"]["top_safety"]["num_selected"]


def test_the_outcome_is_measured_here_where_nobody_did(finished):
    out, metrics, _ = finished
    assert metrics["outcome"]["is_evaluated_here"]
    assert metrics["outcome"]["after"]["refusal"]["num_judged"] == 6
    assert metrics["prompts"]["attack"]["num_prompts"] == 6
    rows = json.loads((out / "examples.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 12


def test_the_same_command_again_computes_nothing(finished, place, tmp_path):
    out, metrics, _ = finished
    again = shutil.copytree(out, tmp_path / "again")
    found = track(settings(place), again)
    stages = found["run"].pop("stages")
    assert stages
    assert all(stage["reused"] for stage in stages)
    assert {**found, "run": None} == {**metrics, "run": None}


def test_a_track_that_was_cut_off_goes_on(finished, place, tmp_path):
    out, metrics, _ = finished
    part = shutil.copytree(out, tmp_path / "part")
    for name in ("rescored", "overlap"):
        shutil.rmtree(part / name)
    (part / "metrics.json").unlink()
    found = track(settings(place), part)
    reused = {stage["name"]: stage["reused"] for stage in found["run"]["stages"]}
    # the scores are made again, for the stage that still has to read them
    assert {name for name, was in reused.items() if not was} == {
        "scores-safety", "scores-utility", "rescored", "overlap",
    }  # fmt: skip
    assert found["dynamics"] == metrics["dynamics"]
    assert found["overlap"] == metrics["overlap"]


def test_without_scores_only_a_given_set_is_followed(place, tuned, tmp_path):
    with pytest.raises(UserError, match=r"without scores there is no set to follow"):
        track(settings(place, rescore=False), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    chosen = settings(place, rescore=False, groups=str(tuned / "set"))
    metrics = track(chosen, tmp_path / "given")
    assert metrics["dynamics"] is metrics["overlap"] is metrics["scores"] is None
    assert [group["group"] for group in metrics["groups"]] == ["critical", "random", "matched"]
    assert not (tmp_path / "given" / "dynamics.parquet").exists()


def test_a_run_of_tune_says_its_reference_its_set_and_its_outcome(tuned, place, tmp_path):
    chosen = settings(place, reference=None, q=None).model_copy(update={"run": str(tuned)})
    metrics = track(chosen, tmp_path / "out")
    assert metrics["reference"]["name"] == str(place / "model")
    assert metrics["tuned"]["protection"] == "freeze"
    assert not metrics["outcome"]["is_evaluated_here"]
    assert not (tmp_path / "out" / "before").exists()
    held = load(tuned / "set")
    assert metrics["groups"][0]["fingerprint"] == held.fingerprint
    assert metrics["set"] | {"name": None} == {
        "source": "tune", "path": str(tuned), "name": None, "q": 0.01, "p": 0.01, "top": None,
        "group": "matrix",
    }  # fmt: skip


def test_what_was_held_is_not_trainable_and_never_drift_zero(tuned, place, tmp_path):
    chosen = settings(place, reference=None).model_copy(update={"run": str(tuned)})
    metrics = track(chosen, tmp_path / "out")
    (row,) = rows_of(metrics, group="critical", measure="rms_units")
    assert row["value"] is None
    assert row["num_trainable"] == 0
    answers = {finding["question"][:6]: finding["answer"] for finding in metrics["findings"]}
    assert answers["A or B"] in ("A supported", "B supported", "undecided")
    assert answers["C or D"] == "not asked"


def rotated(tuned, folder, protect="warp"):
    """Return a copy of a run of `tune` that held coefficients in a basis."""
    shutil.copytree(tuned, folder)
    mask = load(folder / "set")
    shutil.rmtree(folder / "set")
    save(dataclasses.replace(mask, space="0123abcd"), folder / "set")
    metrics = read_json(folder / "metrics.json")
    write_json(folder / "metrics.json", metrics | {"protect": {"kind": protect}})
    return folder


def test_a_set_in_a_rotated_basis_is_refused_before_a_model_is_scored(place, tuned, tmp_path):
    folder = rotated(tuned, tmp_path / "warp")
    with pytest.raises(UserError, match=r"coefficients in the basis 0123abcd.*leave --groups out"):
        track(settings(place, groups=str(folder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    chosen = settings(place, reference=None, rescore=False).model_copy(update={"run": str(folder)})
    with pytest.raises(UserError, match=r"without scores there is no set to follow"):
        track(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_a_run_in_a_rotated_basis_the_set_is_made_from_scores(place, tuned, tmp_path):
    folder = rotated(tuned, tmp_path / "warp")
    chosen = settings(place, reference=None).model_copy(update={"run": str(folder)})
    metrics = track(chosen, tmp_path / "out")
    assert metrics["set"]["source"] == "made here"
    assert any("rotated basis (--protect warp)" in note for note in metrics["notes"])
    (row,) = rows_of(metrics, group="critical", measure="rms_units")
    assert row["num_trainable"] == row["num_weights"]


def test_models_are_compared_in_the_precision_of_the_reference(place, tmp_path, monkeypatch):
    base = LlamaForCausalLM.from_pretrained(place / "model", dtype=torch.bfloat16)
    shutil.copytree(place / "model", tmp_path / "base")
    base.save_pretrained(tmp_path / "base")
    scored, score = {}, TrackScores.score_tuned

    def noted(self, name, source, subject, groups):
        scored[name] = subject.model.dtype
        return score(self, name, source, subject, groups)

    monkeypatch.setattr(TrackScores, "score_tuned", noted)
    control = str(place / "checkpoints" / "checkpoint-5")
    chosen = settings(place, reference=str(tmp_path / "base"), dtype="checkpoint", control=control)
    metrics = track(chosen, tmp_path / "out")
    assert metrics["reference"]["dtype"] == "bfloat16"
    assert scored == {"rescored": torch.bfloat16, "control": torch.bfloat16}


def test_a_control_run_stands_beside_the_overlap(place, tmp_path):
    control = str(place / "checkpoints" / "checkpoint-5")
    metrics = track(settings(place, control=control), tmp_path / "out")
    assert metrics["control"]["path"] == control
    for row in metrics["overlap"]["rows"]:
        assert 0 <= row["control_share"] <= 1
    models = {row["model"] for row in metrics["dynamics"]["rows"]}
    assert models == {"tuned", "control", "noise"}


def test_an_adapter_reaches_only_its_targets(place, tmp_path):
    metrics = track(settings(place, run="adapter"), tmp_path / "out")
    assert metrics["tuned"]["kind"] == "peft"
    (row,) = rows_of(metrics, group="critical", measure="rms_units")
    assert 0 < row["num_trainable"] < row["num_weights"]
    roles = {row["role"]: row for row in metrics["drift"]["roles"] if row["group"] == "critical"
             and row["measure"] == "rms_units"}  # fmt: skip
    for role, found in roles.items():
        assert (found["value"] is None) == (role.rpartition(".")[2] not in ("q_proj", "v_proj"))


def test_kept_scores_stay(place, tmp_path):
    track(settings(place, keep_scores=True), tmp_path / "out")
    assert (tmp_path / "out" / "scores-safety" / "half-0.safetensors").exists()


def test_the_share_of_the_sets_is_what_was_asked_for(finished):
    _, metrics, _ = finished
    assert (metrics["set"]["q"], metrics["set"]["p"]) == (Q, Q)
    top = next(group for group in metrics["groups"] if group["group"] == "top_safety")
    assert top["fraction"] == pytest.approx(Q, abs=1e-3)


def test_a_folder_without_checkpoints_is_refused_before_anything_is_made(place, tmp_path):
    (tmp_path / "empty").mkdir()
    chosen = settings(place).model_copy(update={"run": str(tmp_path / "empty")})
    with pytest.raises(UserError, match=r"no checkpoint in .*empty"):
        track(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_nobody_need_a_reference(place, tmp_path):
    with pytest.raises(UserError, match=r"nothing says what it began with; name that model with"):
        track(settings(place, reference=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_control_of_another_model_is_refused(place, tuned, tmp_path):
    other = shutil.copytree(tuned, tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text(encoding="utf-8"))
    metrics["model"]["id"] = "model#ffffffffffff"
    (other / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(UserError, match=r"began with model#ffffffffffff.*a control needs the same"):
        track(settings(place, control=str(other)), tmp_path / "out")


def test_a_model_that_changed_since_it_was_evaluated_is_refused(tuned, place, tmp_path):
    run = shutil.copytree(tuned, tmp_path / "run")
    shutil.copy(place / "checkpoints" / "checkpoint-10" / "model.safetensors",
                run / "training" / "model")  # fmt: skip
    chosen = settings(place, reference=None).model_copy(update={"run": str(run)})
    with pytest.raises(UserError, match=r"is loaded as .*, but the run evaluated .*#"):
        track(chosen, tmp_path / "out")


def test_prompts_that_are_scored_and_evaluated_on_are_refused(place, tmp_path):
    chosen = settings(place, attack=str(place / "safety.jsonl"))
    with pytest.raises(UserError, match=r"safety prompts to score on and the attack prompts to"):
        track(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_inside_the_utility_top_leaves_nothing_to_follow(place, tmp_path):
    with pytest.raises(UserError, match=r"so there is nothing to follow; take a larger --q"):
        track(settings(place, method="magnitude"), tmp_path / "out")
