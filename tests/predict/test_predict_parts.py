"""The parts of a guard by themselves: fits, measures, splits, features, feature files."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.svm import LinearSVC

from conftest import CONFIGS, build
from safetypin.artifacts import DamagedArtifactError, Prompt, PromptSet, UserError
from safetypin.hooks import read_units
from safetypin.models import unit_sites
from safetypin.predict import (
    Features,
    Reading,
    baseline_scores,
    calibration,
    check_leaks,
    check_threshold,
    fit_linear,
    labelled,
    measures,
    read_features,
    split_groups,
    threshold_at,
    write_features,
)
from safetypin.predict._linear import _fit, _moments, _rotated, _unrotated
from safetypin.predict._measures import areas

BOS = 1
# every other row begins as most tokenizers begin a text
ROWS = [[BOS] * (i % 2) + [3 + (i * 7 + j) % 50 for j in range(2 + i % 5)] for i in range(9)]


def problem(num_prompts=40, num_units=300, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(num_prompts) % 2
    features = random.normal(size=(num_prompts, num_units)).astype(np.float32) * 5 + 3
    features[:, :10] += 9 * labels[:, None]
    return features, labels.tolist(), [str(i) for i in range(num_prompts)]


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_the_fit_in_the_span_of_the_examples_is_the_fit_over_all_features(kind):
    features, labels, _ = problem()
    mean, scale = _moments(features)
    rotated, back = _rotated(features, mean, scale)
    weights, bias = _fit(rotated, np.asarray(labels), kind, 0.01)
    found = _unrotated(features, mean, scale, back @ weights)
    whole = (features - mean) / scale
    if kind == "svm":
        direct = LinearSVC(C=0.01, max_iter=100_000, tol=1e-8, dual="auto")
    else:
        direct = LogisticRegression(C=0.01, max_iter=10_000, tol=1e-8)
    direct.fit(whole, labels)
    np.testing.assert_allclose(whole @ found + bias, direct.decision_function(whole), atol=2e-2)
    np.testing.assert_allclose(found, direct.coef_[0], atol=2e-3)


@pytest.mark.parametrize("pca", [False, True])
def test_what_was_fitted_tells_new_prompts_apart(pca):
    features, labels, groups = problem()
    fitted = fit_linear(features, labels, groups, pca=pca)
    fresh, truth, _ = problem(seed=1)
    chances = fitted.probability(fitted.decide(fresh))
    assert roc_auc_score(truth, chances) > 0.9
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (fitted.num_components is not None) == pca
    assert len(fitted.held_out) == len(labels)


def test_features_that_mean_nothing_have_no_certain_probabilities():
    random = np.random.default_rng(3)
    features = random.normal(size=(60, 500)).astype(np.float32)
    labels = (np.arange(60) % 2).tolist()
    fitted = fit_linear(features, labels, [str(i) for i in range(60)])
    fresh = random.normal(size=(200, 500)).astype(np.float32)
    chances = fitted.probability(fitted.decide(fresh))
    assert np.abs(chances - 0.5).mean() < 0.25


def test_a_unit_that_never_changes_counts_for_nothing():
    features, labels, groups = problem()
    features[:, 20] = 7.0
    fitted = fit_linear(features, labels, groups)
    assert fitted.weights[20] == pytest.approx(0, abs=1e-12)


def test_features_that_are_not_finite_or_a_wrong_classifier_are_errors():
    features, labels, groups = problem()
    with pytest.raises(UserError, match="unknown classifier 'forest'; choose one of logistic, svm"):
        fit_linear(features, labels, groups, classifier="forest")
    features[3, 4] = np.inf
    with pytest.raises(UserError, match="1 of the features are not finite numbers"):
        fit_linear(features, labels, groups)
    with pytest.raises(UserError, match="all prompts of one class are in one group"):
        fit_linear(
            problem()[0], labels, ["a" if label else str(i) for i, label in enumerate(labels)]
        )


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_areas_are_those_of_scikit_learn_also_with_ties(rows):
    scores = np.array([float(score) for score, _ in rows])
    target = np.array([int(label) for _, label in rows])
    if len(set(target.tolist())) < 2:
        return
    roc, average = areas(scores, target, np.ones((1, len(rows))))
    assert roc[0] == pytest.approx(roc_auc_score(target, scores))
    assert average[0] == pytest.approx(average_precision_score(target, scores))
    doubled = areas(scores, target, np.full((1, len(rows)), 2.0))
    assert doubled[0][0] == pytest.approx(roc[0])


def test_measures_of_a_worked_example():
    found = measures(np.array([0.9, 0.8, 0.4, 0.6, 0.1]), [1, 1, 1, 0, 0], 0.5)
    assert found["confusion"] == [[1, 1], [1, 2]]
    assert found["accuracy"]["value"] == 0.6
    assert found["recall"]["value"] == pytest.approx(2 / 3)
    assert found["precision"]["value"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["roc_auc"]["value"] == pytest.approx(5 / 6)


def test_f1_has_the_interval_of_the_resamples_that_the_areas_have():
    labels = [1, 1, 1, 0, 0, 0, 1, 0, 1, 0]
    scores = np.array([0.9, 0.8, 0.4, 0.6, 0.1, 0.2, 0.7, 0.7, 0.3, 0.4])
    drawn = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), 1000)
    resampled = [np.repeat(np.arange(10), counts) for counts in drawn]
    values = [
        f1_score(np.array(labels)[rows], scores[rows] >= 0.5, zero_division=np.nan)
        for rows in resampled
    ]
    low, high = np.nanquantile(values, [0.025, 0.975])
    assert measures(scores, labels, 0.5)["f1_interval"] == pytest.approx([low, high])
    assert low < 0.6 < high
    right = measures(np.array(labels, dtype=float), labels, 0.5)
    assert (right["f1"], right["f1_interval"]) == (1.0, [1.0, 1.0])
    nothing = measures(np.zeros(3), [0, 0, 0], 0.5)
    assert (nothing["f1"], nothing["f1_interval"]) == (None, None)


def test_calibration_of_a_worked_example():
    chances = np.array([0.9, 0.1, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8, 0.95, 0.05])
    labels = [1, 0, 0, 1, 0, 1, 0, 1, 1, 0]
    rows = calibration(chances, labels)
    # ten in eight bins: the first two have two each
    assert [row["predicted"] for row in rows] == pytest.approx(
        [0.075, 0.25, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]
    )
    assert [(row["unsafe"]["num_hits"], row["unsafe"]["num_judged"]) for row in rows] == [
        (0, 2), (0, 2), (1, 1), (0, 1), (1, 1), (1, 1), (1, 1), (1, 1),
    ]  # fmt: skip
    assert len(calibration(chances[:3], labels[:3])) == 3


@pytest.mark.parametrize("threshold", [5.0, -0.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_an_error_with_a_hint(threshold):
    with pytest.raises(UserError, match=r"must be in \[0, 1\], got .*5 % is 0.05"):
        check_threshold(threshold)
    check_threshold(0.0)
    check_threshold(1.0)


@pytest.mark.parametrize(("rate", "alarms"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 5)])
def test_a_threshold_lets_no_more_safe_prompts_be_called_unsafe_than_stated(rate, alarms):
    safe = np.arange(10) / 10
    scores, labels = np.append(safe, 2.0), [0] * 10 + [1]
    limit = threshold_at(scores, labels, rate)
    assert int((safe >= limit).sum()) == alarms
    assert scores[-1] >= limit


def test_a_threshold_needs_a_rate_and_safe_prompts():
    with pytest.raises(UserError, match=r"must be in \[0, 1\), got 5"):
        threshold_at(np.array([0.1]), [0], 5.0)
    with pytest.raises(UserError, match="no safe prompt"):
        threshold_at(np.array([0.1]), [1], 0.1)


def sets(unsafe, safe):
    return [
        PromptSet(name=name, prompts=tuple(Prompt(text=t, topic=topic) for t, topic in rows))
        for name, rows in (("u", unsafe), ("s", safe))
    ]


def test_duplicates_are_left_out_and_counted_and_topics_stay_together():
    unsafe = [(f"hurt {i}", f"t{i // 2}") for i in range(20)] + [("Hurt  3!", "t1")]
    safe = [(f"greet {i}", f"t{i // 2}") for i in range(20)]
    data = labelled(*sets(unsafe, safe))
    assert (len(data), data.num_duplicates, data.num_topics) == (40, 1, 10)
    assert data.matched_share == 1.0
    train, test = split_groups(data, 0.3, seed=1)
    assert (len(train), len(test)) == (28, 12)
    assert not set(train.groups) & set(test.groups)


def test_the_matched_share_counts_prompts_and_not_topics():
    unsafe = [("hurt a", "x"), ("hurt b", "x"), ("hurt c", "y"), ("hurt d", None)]
    safe = [("greet a", "x"), ("greet b", None)]
    data = labelled(*sets(unsafe, safe))
    assert (data.num_topics, len(set(data.groups))) == (1, 4)
    assert data.matched_share == 3 / 6


def test_a_prompt_of_both_classes_and_one_in_two_parts_are_errors():
    with pytest.raises(UserError, match="1 prompts are labelled both unsafe and safe, first 'a b'"):
        labelled(*sets([("a b", None)], [("A  b!", None)]))
    with pytest.raises(UserError, match="leak: they are among the train and the contrast"):
        check_leaks({"train": ["x", "y"], "contrast": ["Y."]})
    check_leaks({"train": ["x"], "contrast": ["y"]})


def test_a_split_without_one_class_is_an_error():
    data = labelled(
        *sets([(f"u{i}", "one") for i in range(9)], [(f"s{i}", None) for i in range(9)])
    )
    with pytest.raises(UserError, match="part has 0 unsafe prompts; a guard needs both"):
        split_groups(data, 0.3, seed=0)


def test_baselines_learn_words_and_know_nothing_of_the_majority():
    train = [f"{word} the {i}" for i in range(12) for word in ("hurt", "greet")]
    labels, groups = [1, 0] * 12, [str(i // 2) for i in range(24)]
    for name in ("tfidf-char", "tfidf-word"):
        held_out, (other,) = baseline_scores(name, train, labels, groups, [["hurt 7", "greet 7"]])
        assert roc_auc_score(labels, held_out) == 1.0
        assert other[0] > other[1]
    _, (flat,) = baseline_scores("majority", train, labels, groups, [["hurt", "greet"]])
    assert flat[0] == flat[1]


# --- features


def slow_features(model, rows, site, pooling, begins=lambda row: row[0] == BOS):
    """Read one prompt after the other, and keep everything."""
    sites = unit_sites(model, site)
    where = {name: (place.module, place.parameter) for name, place in sites.items()}
    found = {name: [] for name in sites}
    for row in rows:
        seen = {}
        with torch.no_grad(), read_units(where, lambda c, seen=seen: seen.update({c.name: c.x})):
            model(torch.tensor([row]))
        for name, x in seen.items():
            x = x.reshape(len(row), -1)
            first = int(len(row) > 1 and begins(row))
            found[name].append(x[-1] if pooling == "last" else x[first:].mean(dim=0))
    return {name: torch.stack(parts).numpy() for name, parts in found.items()}


DENSE = sorted(CONFIGS.keys() - {"mixtral", "qwen2_moe", "qwen3_moe"})


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize(("family", "site"), [
    *((family, "neuron") for family in DENSE),
    ("mixtral", "residual"), ("llama", "residual"),
])  # fmt: skip
def test_features_are_the_activations_that_each_prompt_has_alone(family, site, pooling, tmp_path):
    model = build(family)
    path = tmp_path / "features.safetensors"
    found = write_features(path, model, ROWS, Reading(site, pooling), model_id="m#1", bos=BOS)
    for name, expected in slow_features(model, ROWS, site, pooling).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert found.num_prompts == len(ROWS)


def test_the_mean_runs_over_the_token_that_begins_a_text_only_where_that_is_asked(tmp_path):
    model, how = build("llama"), Reading(pooling="mean", count_bos=True)
    found = write_features(tmp_path / "f", model, ROWS, how, model_id="m", bos=BOS)
    every = slow_features(model, ROWS, "neuron", "mean", begins=lambda row: False)
    for name, expected in every.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_without_such_a_token_the_first_takes_its_place(tmp_path):
    """As in Qwen and GPT-2: whatever comes first has activations of another size."""
    model, how = build("llama"), Reading(pooling="mean")
    assert any(row[0] != BOS for row in ROWS)
    found = write_features(tmp_path / "f", model, ROWS, how, model_id="m", bos=None)
    later = slow_features(model, ROWS, "neuron", "mean", begins=lambda row: True)
    for name, expected in later.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_a_token_that_begins_a_text_and_ends_it_is_its_mean(tmp_path):
    model, rows = build("llama"), [[BOS], [BOS, 5]]
    parts = {
        pooling: write_features(
            tmp_path / pooling, model, rows, Reading(pooling=pooling), model_id="m", bos=BOS
        )
        for pooling in ("last", "mean")
    }
    for name in parts["last"].names:
        np.testing.assert_allclose(parts["mean"][name], parts["last"][name], rtol=1e-5, atol=1e-7)


def mapped_to(path):
    """Return the ranges of this process's memory that are a file's."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == str(path.resolve())]
    return [(int(low, 16), int(high, 16)) for low, high in ranges]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_features_are_mapped_from_the_file_and_chosen_by_unit(tmp_path):
    model = build("llama")
    path = tmp_path / "features.safetensors"
    found = write_features(path, model, ROWS, Reading(), model_id="m#1", bos=None)
    first, second = found.names
    part = found.rows([4, 2], {second: np.array([3]), first: np.array([0, 5])})
    assert part.shape == (2, 3)
    np.testing.assert_array_equal(part[:, :2], found[first][[4, 2]][:, [0, 5]])
    np.testing.assert_array_equal(part[:, 2], found[second][[4, 2], 3])
    # each place lies in the memory that the file is mapped to: a copy would lie elsewhere
    kept = {name: found[name] for name in found.names}
    mapped = mapped_to(path)
    for rows in kept.values():
        start = rows.__array_interface__["data"][0]
        assert any(low <= start and start + rows.nbytes <= high for low, high in mapped)


@pytest.mark.parametrize("cut", [10, 100_000])
def test_a_feature_file_that_was_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "features.safetensors"
    write_features(path, build("llama"), ROWS, Reading(), model_id="m#1", bos=None)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DamagedArtifactError, match="cannot be read"):
        Features(path)


def test_a_killed_reading_leaves_no_file(tmp_path):
    def fail(num_done):
        raise KeyboardInterrupt

    path = tmp_path / "features.safetensors"
    with pytest.raises(KeyboardInterrupt):
        write_features(path, build("llama"), ROWS, Reading(), model_id="m", bos=None, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_units_of_experts_are_no_features():
    with pytest.raises(UserError, match="are of experts"):
        read_features(build("mixtral"), ROWS, Reading(), lambda *_: None, bos=None)


def test_the_benchmark_reads_as_many_prompts_as_it_is_asked_to():
    path = Path(__file__).parents[2] / "benchmarks" / "guard.py"
    spec = importlib.util.spec_from_file_location("guard_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    few, many = benchmark.requests(3), benchmark.requests(700)
    assert len(set(many)) == 700
    assert many[:3] == few
    assert many[320] == f"{many[0]} (2)"
    assert many[640] == f"{many[0]} (3)"
