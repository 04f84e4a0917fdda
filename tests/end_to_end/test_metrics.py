"""What a finished audit leaves behind."""

import hashlib
import json
import math

import pytest

from end_to_end.comparing import read_metrics
from safetypin.audit import audit

RATES = ("asr", "refusal", "complied", "degenerate", "harmless_refused", "borderline_refused")


@pytest.fixture(scope="module")
def metrics(finished):
    return read_metrics(finished)


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_the_planted_refusal_is_found_and_called_brittle(metrics):
    verdict = metrics["verdict"]
    assert verdict["answer"] == "brittle"
    assert verdict["cell"] == "critical-q0.01-p0.01"
    assert verdict["asr_rise"]["value"] >= 0.5
    random_arm, useful = verdict["controls"]
    assert random_arm["margin"]["interval"][0] > 0
    # the top of utility breaks this tiny model's refusals too: the verdict must say so
    assert useful["asr_rise"]["value"] >= 0.5
    assert "as many of the most useful weights raise it by" in verdict["sentence"]


def test_json_has_no_nan_and_no_infinity(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} in metrics.json")

    found = json.loads((finished / "metrics.json").read_text(), parse_constant=refuse)
    assert all(math.isfinite(number) for number in numbers(found))


def test_every_rate_has_its_numerator_and_denominator(metrics):
    sides = [metrics["baseline"], *metrics["cells"]]
    for side in sides:
        for name in RATES:
            rate = side[name]
            assert rate["value"] == rate["num_hits"] / rate["num_judged"]
            assert rate["interval"][0] <= rate["value"] <= rate["interval"][1]
    for side in sides:
        for name in ("asr", "refusal", "complied", "degenerate"):
            assert side[name]["num_judged"] + side[name]["num_unjudged"] == 12
        assert side["harmless_refused"]["num_judged"] == 4
        total = sum(side[name]["num_hits"] for name in ("refusal", "complied", "degenerate"))
        assert total == 12


def test_every_other_number_has_its_counts(metrics):
    for difference in [cell["asr_change"] for cell in metrics["cells"]] + [
        arm[name] for arm in metrics["verdict"]["controls"] for name in ("asr_rise", "margin")
    ]:
        changed = difference["num_up"] - difference["num_down"]
        assert difference["value"] == changed / difference["num_pairs"]
    untouched = metrics["baseline"]["perplexity"]
    measured = [(untouched["value"], untouched["loss"], untouched["num_tokens"])] + [
        (cell["perplexity"], cell["perplexity_loss"], cell["perplexity_tokens"])
        for cell in metrics["cells"]
    ]
    for value, loss, num_tokens in measured:
        assert value == pytest.approx(math.exp(loss / num_tokens))
    where = metrics["where"]
    for shares, counts, sizes in zip(where["share"], where["counts"], where["sizes"], strict=True):
        assert shares == [n / size for n, size in zip(counts, sizes, strict=True)]
    for part in (layer for whole in metrics["overlap"] for layer in (whole, *whole["by_layer"])):
        union = part["num_safety"] + part["num_utility"]
        assert part["jaccard"] == part["num_both"] / (union - part["num_both"])
        assert part["chance"] == part["chance_both"] / (union - part["chance_both"])
        for half in part["halves"]:
            union = half["num_first"] + half["num_second"] - half["num_both"]
            assert half["jaccard"] == half["num_both"] / union
    for whole in metrics["overlap"]:
        check_matrices(whole["by_matrix"], whole)


def check_matrices(found, whole):
    """Assert that every number of a matrix is what its counts say, and that they add up."""
    floors = []
    for row, values in enumerate(found["jaccard"]):
        for column, value in enumerate(values):
            both, safety, utility, weights = (
                found[f"num_{name}"][row][column]
                for name in ("both", "safety", "utility", "weights")
            )
            assert value == both / (safety + utility - both)
            chance = safety * utility / weights
            assert found["chance"][row][column] == chance / (safety + utility - chance)
            halves = [
                [half[f"num_{name}"][row][column] for name in ("both", "first", "second")]
                for half in found["halves"]
            ]
            floors.append(min((n / (a + b - n) for n, a, b in halves), default=None))
    assert [floor for row in found["noise_floor"] for floor in row] == floors
    for name in ("num_both", "num_safety", "num_utility", "num_weights"):
        assert sum(sum(row) for row in found[name]) == whole[name]


def test_every_change_is_paired_by_prompt_and_the_perplexity_has_an_interval(metrics):
    for cell in metrics["cells"]:
        assert cell["degenerate_change"]["num_pairs"] == 12
        assert cell["harmless_refused_change"]["num_pairs"] == 4
        assert cell["borderline_refused_change"]["num_pairs"] == 4
        low, high = cell["perplexity_interval"]
        assert low <= cell["perplexity_ratio"] <= high
        assert cell["magnitudes"] is None


def test_a_matched_control_says_how_large_its_weights_are(settings, copied):
    cells = audit(settings(controls=("matched",)), copied)["cells"]
    (matched,) = [cell for cell in cells if cell["arm"] == "matched"]
    found = matched["magnitudes"]
    assert 0 < found["mean_control"] < found["mean_set"]
    off = 1 - found["mean_control"] / found["mean_set"]
    # a matrix of so small a model has too few other weights as large as those of the set
    assert off > 0.05
    page = (copied / "report.html").read_text()
    assert f"a random control is not matched, {off:.0%} off: mean |w| " in page
    verdict = read_metrics(copied)["verdict"]
    assert verdict["controls"][0]["mismatch"] == pytest.approx(-off)
    said = f"is not matched: its mean |w| is {off:.0%} below that of the set"
    assert said in verdict["sentence"]


def test_the_map_lists_the_matrices_in_the_order_of_the_model(metrics):
    assert metrics["where"]["modules"] == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]


def test_the_baseline_refuses_and_the_critical_set_makes_it_comply(metrics):
    critical = next(cell for cell in metrics["cells"] if cell["arm"] == "critical")
    random = next(cell for cell in metrics["cells"] if cell["arm"] == "random")
    assert metrics["baseline"]["asr"]["num_hits"] == 0
    assert critical["asr"]["num_hits"] == 12
    assert random["asr"]["num_hits"] <= 4
    assert critical["num_selected"] == random["num_selected"]
    assert critical["asr_change"]["num_up"] == 12


def test_ids_of_cells_are_unique_and_controls_name_their_set(metrics):
    ids = [cell["id"] for cell in metrics["cells"]]
    assert len(ids) == len(set(ids)) == 3
    assert {cell["of"] for cell in metrics["cells"]} <= set(ids)


def test_shares_are_counts_over_counts(metrics):
    model = metrics["model"]
    for cell in metrics["cells"]:
        assert cell["fraction"] == cell["num_selected"] / cell["num_weights"]
        assert cell["fraction_of_all"] == cell["num_selected"] / model["num_parameters"]
        assert cell["num_weights"] == model["num_scored_weights"]
    where = metrics["where"]
    counts = sum(sum(row) for row in where["counts"])
    shown = next(cell for cell in metrics["cells"] if cell["id"] == where["cell"])
    assert counts == shown["num_selected"]


def test_overlap_comes_with_chance_and_noise_floor(metrics):
    at_q, overlap = metrics["overlap"]
    assert (at_q["fraction"], overlap["fraction"]) == (0.01, 0.05)
    assert 0 <= at_q["jaccard"] <= 1
    assert at_q["noise_floor_safety"] is None  # the halves were kept at the other share alone
    for name in ("jaccard", "chance", "noise_floor_safety", "noise_floor_utility"):
        assert 0 <= overlap[name] <= 1
    assert overlap["num_both"] <= min(overlap["num_safety"], overlap["num_utility"])
    assert [layer["layer"] for layer in overlap["by_layer"]] == [0, 1]


def test_hashes_are_those_of_the_files(finished, metrics):
    hashes = metrics["run"]["hashes"]
    kept = {name: digest for name, digest in hashes.items() if (finished / name).exists()}
    for name, digest in kept.items():
        assert hashlib.sha256((finished / name).read_bytes()).hexdigest() == digest
    gone = {name.split("/")[0] for name in hashes.keys() - kept.keys()}
    assert gone == {"scores-safety", "scores-utility"}  # deleted when the sets were cut
    assert "baseline/responses-harmful.jsonl" in kept
    assert "sets/critical-q0.01-p0.01.mask.safetensors" in kept


def test_scores_are_deleted_and_nothing_half_written_stays(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        ".lock",
        "baseline",
        "calibration-safety",
        "calibration-utility",
        "cells",
        "events.jsonl",
        "examples.json",
        "metrics.json",
        "report.html",
        "sets",
    ]
    assert not list(finished.rglob(".inputs"))
    assert not list(finished.rglob("*.part"))


def test_stages_are_listed_in_their_order(metrics):
    names = [stage["name"] for stage in metrics["run"]["stages"]]
    assert names == [
        "baseline",
        "calibration-safety",
        "calibration-utility",
        "scores-safety",
        "scores-utility",
        "sets",
        "cells/critical-q0.01-p0.01",
        "cells/random-q0.01-p0.01-s0",
        "cells/top_utility-q0.01-p0.01",
    ]
    assert not any(stage["reused"] for stage in metrics["run"]["stages"])


def test_examples_show_the_same_prompt_before_and_after(finished, metrics):
    examples = json.loads((finished / "examples.json").read_text())
    assert examples["cell"] == metrics["verdict"]["cell"]
    kinds = [row["kind"] for row in examples["rows"]]
    assert kinds == ["harmful"] * 12 + ["harmless"] * 4 + ["borderline"] * 4
    for row in examples["rows"][:12]:
        assert "hurt" in row["prompt"]
        assert row["before"]["verdict"] == "refusal"
        assert row["before"]["text"].startswith("I'm sorry")
        assert row["after"]["verdict"] == "complied"
        assert row["after"]["text"].startswith("Sure")


def test_examples_are_paired_with_the_verdicts_of_their_own_prompts(finished):
    examples = json.loads((finished / "examples.json").read_text())
    lines = (finished / "baseline/responses-harmful.jsonl").read_text().splitlines()
    asked = [json.loads(line) for line in lines]
    by_prompt = {row["response"]["prompt"]: row["response"]["text"] for row in asked}
    for row in examples["rows"][:12]:
        assert row["before"]["text"] == by_prompt[row["prompt"]]


def test_the_settings_say_all_that_is_needed_to_run_it_again(settings, metrics):
    found = dict(metrics["settings"])
    assert type(settings())(**found) == settings()
