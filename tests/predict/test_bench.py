"""A guard's table: its random sets, its learning curve and its comparisons, on made numbers."""

import json

import numpy as np
import pytest
import torch

from safetypin.artifacts import NeuronSet, Prompt, TensorFile
from safetypin.predict import BASELINES, FEATURES_FILE, Features, Labelled, fit_linear, span_of
from safetypin.stages._guard_measure import Bench, comparisons

PLACES = {"model.layers.0.mlp.down_proj": (0, 3, 5), "model.layers.1.mlp.down_proj": (7,)}
NUM_UNITS = 10
TRAIN, TEST = 20, 6  # topics, each with one unsafe and one safe prompt


def part_of(first, count):
    rows = [(f"{verb} {topic}", label, f"t{topic}")
            for topic in range(first, first + count)
            for verb, label in (("hurt", 1), ("greet", 0))]  # fmt: skip
    return Labelled(
        prompts=tuple(Prompt(text=text) for text, _, _ in rows),
        labels=tuple(label for _, label, _ in rows),
        groups=tuple(group for _, _, group in rows),
    )


@pytest.fixture
def bench(tmp_path):
    """Units of the set say the label, all others the topic alone."""
    parts = {"train": part_of(0, TRAIN), "test": part_of(TRAIN, TEST)}
    labels = np.array([label for part in parts.values() for label in part.labels])
    topics = np.arange(len(labels)) // 2
    about = {"names": list(PLACES), "num_prompts": len(labels)}
    shapes = {name: (len(labels), NUM_UNITS) for name in PLACES}
    path = tmp_path / FEATURES_FILE
    with TensorFile(path, shapes, {"features": json.dumps(about)}) as file:
        for name, members in PLACES.items():
            values = np.repeat(topics[:, None], NUM_UNITS, axis=1).astype(np.float32)
            values[:, list(members)] = labels[:, None]
            file[name][:] = values
    masks = {name: torch.zeros(NUM_UNITS, dtype=torch.bool) for name in PLACES}
    for name, members in PLACES.items():
        masks[name][list(members)] = True
    neurons = NeuronSet(tensors=masks, model_id="m#0123456789ab")
    return Bench(Features(path), parts, neurons, false_positive_rate=0.1, seed=0)


def test_random_units_are_others_and_as_many_in_every_layer(bench):
    own = bench.units_of("contrast")
    assert {name: tuple(index) for name, index in own.items()} == PLACES
    drawn = [bench.units_of("random", seed) for seed in range(4)]
    for units in drawn:
        assert {name: len(index) for name, index in units.items()} == {
            name: len(members) for name, members in PLACES.items()
        }
        for name, index in units.items():
            assert not set(index.tolist()) & set(PLACES[name])
    seen = {tuple(tuple(index.tolist()) for index in units.values()) for units in drawn}
    assert len(seen) > 1, "another seed draws other units"
    again = bench.units_of("random", 2)
    assert all((again[name] == drawn[2][name]).all() for name in PLACES)


@pytest.mark.parametrize("arm", ["pca", "all"])
def test_pca_and_all_read_every_unit(bench, arm):
    units = bench.units_of(arm)
    assert {name: tuple(index) for name, index in units.items()} == dict.fromkeys(
        PLACES, tuple(range(NUM_UNITS))
    )


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
def test_a_row_of_the_set_is_right_and_one_of_random_units_knows_nothing(bench, classifier):
    own, random = (
        bench.row(bench.fits(arm, [classifier], seed)[0])
        for arm, seed in (("contrast", None), ("random", 0))
    )
    assert own["test"]["correct"] == [1] * 2 * TEST
    assert own["test"]["roc_auc"]["value"] == 1.0
    assert (own["num_units"], random["num_units"]) == (4, 4)
    # both prompts of a topic have the same features, so half of the pairs are ties
    assert random["test"]["roc_auc"]["value"] == pytest.approx(0.5)


def test_the_table_has_every_set_with_every_classifier_and_gives_the_one_that_is_kept(bench):
    rows, kept = bench.table(2, ("contrast", "svm"))
    named = [(row["classifier"], row["features"], row["seed"]) for row in rows]
    sets = [("contrast", None), ("random", 0), ("random", 1), ("pca", None), ("all", None)]
    each = [(kind, *one) for kind in ("logistic", "svm") for one in sets]
    assert named[: len(each)] == each
    assert [name for _, name, _ in named[len(each) :]] == list(BASELINES)
    assert (kept.arm, kept.classifier) == ("contrast", "svm")
    assert bench.row(kept) == rows[5]


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
@pytest.mark.parametrize("pca", [False, True])
def test_a_shared_span_gives_the_fit_that_the_features_give(classifier, pca):
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 60)).astype(np.float32)
    labels, groups = [i % 2 for i in range(40)], [str(i) for i in range(40)]
    how = {"classifier": classifier, "pca": pca}
    shared = span_of(features)
    for _ in range(2):
        ours = fit_linear(shared, labels, groups, **how)
        own = fit_linear(features, labels, groups, **how)
        assert ours.weights.tobytes() == own.weights.tobytes()
        assert ours.num_components == own.num_components


def test_the_learning_curve_has_the_sizes_and_areas_of_a_worked_example(bench):
    rows = bench.curve("logistic")
    # 2 and 4 topics have fewer than five prompts of a label; then 8, 14 and all 20
    assert [row["num_prompts"] for row in rows] == [16, 28, 40]
    for row in rows:
        assert row["contrast"] == 1.0
        assert row["random"] == pytest.approx(0.5)
        assert row["tfidf-char"] == 1.0
        assert row["intervals"]["contrast"] == [1.0, 1.0]
        # the topic alone weighs nothing, so every prompt has the same score in every resample
        assert row["intervals"]["random"] == pytest.approx([0.5, 0.5])


def made(features, classifier, correct, *, seed=None, num_units=4, other=None):
    row = {"features": features, "classifier": classifier, "seed": seed, "num_units": num_units}
    row["test"] = {"correct": correct}
    return row if other is None else row | {"other": {"correct": other}}


def test_comparisons_of_a_worked_example():
    rows = [
        made("contrast", "logistic", [1, 1, 1, 0]),
        made("random", "logistic", [1, 0, 0, 0], seed=0),
        made("contrast", "svm", [0, 0, 0, 0]),
        made("random", "svm", [1, 1, 1, 1], seed=0),
        made("tfidf-char", "logistic", [1, 1, 1, 1], num_units=0),
    ]
    found = {(row["against"], row["seed"]): row for row in comparisons(rows, "logistic")}
    assert found.keys() == {("random", 0), ("tfidf-char", None)}
    random, words = found["random", 0], found["tfidf-char", None]
    assert (random["value"], random["num_up"], random["num_down"]) == (0.5, 2, 0)
    assert random["p_value"] == 0.5  # two changes, both upwards: 2 / 2 ** 2
    assert (words["value"], words["p_value"]) == (-0.25, 1.0)
    assert words["interval"][0] < -0.25 < words["interval"][1]
    # a baseline has one classifier, and stands beside that of the other kind too
    assert [row["against"] for row in comparisons(rows, "svm")] == ["random", "tfidf-char"]


def test_comparisons_are_made_on_the_other_source_too():
    rows = [
        made("contrast", "svm", [1, 1], other=[1, 0, 0]),
        made("all", "svm", [1, 1], other=[1, 1, 1]),
    ]
    found = comparisons(rows, "svm")
    assert [(row["part"], row["value"]) for row in found] == [
        ("test", 0.0), ("other", pytest.approx(-2 / 3)),
    ]  # fmt: skip
