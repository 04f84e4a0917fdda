"""A guard on the tiny model: fitted, used, served, and refused where it does not belong."""

import copy
import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from doc_pages import ROOT
from doc_pages import blocks as doc_blocks
from end_to_end import tiny
from safetypin.artifacts import (
    ArtifactMismatchError,
    DamagedArtifactError,
    Prompt,
    RunRecord,
    UserError,
    load,
    save,
)
from safetypin.cli import _guard as commands
from safetypin.cli import app
from safetypin.models import blocks, load_model
from safetypin.predict import (
    Guard,
    GuardedGenerator,
    GuardRule,
    Labelled,
    calibration,
    labelled,
    split_groups,
)
from safetypin.predict._generator import REFUSAL
from safetypin.prompts import encode, load_prompts
from safetypin.stages import (
    Where,
    contrast_models,
    evaluate_guard,
    fit_guard,
    make_contrast_config,
    make_guard_config,
    open_guard,
    score_texts,
)

README = ROOT / "README.md"
UNKNOWN_PROMPTS = "prompts that the set was found on are not known: leaks could not be checked"


def run(*words, **options):
    return CliRunner().invoke(app, [str(word) for word in words], **options)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Unsafe and safe prompts that differ in one word, by topic; and of another source."""
    folder, generator = tmp_path_factory.mktemp("guard-sets"), random.Random(11)
    files = {}
    for name, verb, salt in (
        ("unsafe", "hurt", 0), ("safe", "greet", 0), ("other_unsafe", "hurt", 1),
        ("other_safe", "paint", 1),
    ):  # fmt: skip
        rows = [
            {"prompt": tiny.request(verb, generator), "topic": f"{salt} {i // 2}"}
            for i in range(40)
        ]
        files[name] = write(folder / f"{name}.jsonl", rows)
    return files


@pytest.fixture(scope="module")
def contrasted(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("guard-contrast") / "out"
    options = {
        "reference": str(place / "unaligned"), "prompts": str(place / "safety.jsonl"),
        "num_prompts": 8, "counted": "prompt", "fraction": 0.1, "device": "cpu",
    }  # fmt: skip
    contrast_models(make_contrast_config(str(place / "model"), options), out)
    return out


@pytest.fixture(scope="module")
def fitted(place, sets, contrasted, tmp_path_factory):
    out = tmp_path_factory.mktemp("guard") / "out"
    words = [part for name, file in sets.items() for part in (f"--{name.replace('_', '-')}", file)]
    ended = run(
        "guard", "fit", "--model", place / "model", "--neurons", contrasted, *words,
        "--num-random", 2, "--device", "cpu", "--out", out, "-q",
    )  # fmt: skip
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return out


@pytest.fixture(scope="module")
def guard(place, fitted):
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    return Guard.load(fitted, model, tokenizer)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_table_has_every_set_and_every_baseline_on_the_same_split(fitted):
    found = metrics_of(fitted)
    kinds = {(row["features"], row["classifier"], row["seed"]) for row in found["rows"]}
    for classifier in ("logistic", "svm"):
        for features, seed in (
            ("contrast", None),
            ("random", 0),
            ("random", 1),
            ("pca", None),
            ("all", None),
        ):
            assert (features, classifier, seed) in kinds
    for name in ("tfidf-char", "tfidf-word", "length", "majority"):
        assert (name, "logistic", None) in kinds
    for row in found["rows"]:
        for part, size in (("test", found["data"]["num_test"]), ("other", 80)):
            assert sum(map(sum, row[part]["confusion"])) == size
            assert row[part]["accuracy"]["num_judged"] == size
    majority = next(row for row in found["rows"] if row["features"] == "majority")
    assert majority["test"]["roc_auc"]["value"] == 0.5
    best = max(row["test"]["accuracy"]["value"] for row in found["rows"] if row["num_units"])
    assert best > 0.9


def test_a_set_of_matched_topics_is_no_easy_one_however_far_words_get(fitted):
    found = metrics_of(fitted)
    data, rows = found["data"], {row["features"]: row for row in found["rows"]}
    assert (data["kind"], data["matched_share"], data["easy"]) == ("topic-matched", 1.0, False)
    assert data["num_matched_topics"] == data["num_groups"] == 20
    for part in ("test", "other"):
        for name in ("tfidf-char", "tfidf-word"):
            assert data["tfidf"][part][name] == rows[name][part]["accuracy"]["value"]
    assert max(data["tfidf"]["test"].values()) == data["tfidf_accuracy"]
    assert data["tfidf_accuracy"] >= 0.9, "one word tells the two sets apart"
    assert found["neurons"]["are_prompts_known"]


def test_the_page_says_which_kind_of_set_it_is(fitted):
    page = (fitted / "report.html").read_text()
    for words in (
        "Topic-matched: every topic has safe and unsafe prompts", "TF-IDF still reaches",
        "of another source", "Contrast units against the others", "Calibration",
    ):  # fmt: skip
        assert words in page
    assert "not known" not in page
    before = (fitted / "report.html").read_bytes()
    assert run("report", fitted).exit_code == 0
    assert (fitted / "report.html").read_bytes() == before


def fit(model, neurons, out, **options):
    settings = {"neurons": str(neurons), "device": "cpu", "num_random": 0} | options
    return fit_guard(make_guard_config(str(model), settings), out)


def test_a_set_whose_topics_differ_is_an_easy_one(place, sets, contrasted, tmp_path):
    files = {
        name: write(tmp_path / f"{name}.jsonl", [{"prompt": p.text} for p in load_prompts(source)])
        for name, source in sets.items()
        if not name.startswith("other")
    }
    data = fit(place / "model", contrasted, tmp_path / "out", **files)["data"]
    assert (data["kind"], data["matched_share"], data["easy"]) == ("not matched", 0.0, True)
    assert data["tfidf"].keys() == {"test"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Easy: topics differ between the classes" in page
    assert "so words alone can tell them apart" in page


@pytest.fixture(scope="module")
def beginning(place, tmp_path_factory):
    """The model with a tokenizer whose template begins every text with its BOS."""
    folder = tmp_path_factory.mktemp("guard-bos") / "model"
    shutil.copytree(place / "model", folder)
    _, tokenizer = load_model(str(folder), device="cpu")
    tokenizer.bos_token = "<u>"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("features", "classifier", "pooling"), [("pca", "logistic", "last"), ("all", "svm", "mean")]
)
def test_a_guard_of_all_units_is_loaded_as_it_was_fitted(
    beginning, sets, contrasted, tmp_path, features, classifier, pooling
):
    options = {"features": features, "classifier": classifier, "pooling": pooling}
    files = {name: sets[name] for name in ("unsafe", "safe")}
    found = fit(beginning, contrasted, tmp_path / "out", **files, **options)
    row = next(
        row for row in found["rows"]
        if (row["features"], row["classifier"]) == (features, classifier)
    )  # fmt: skip
    model, tokenizer = load_model(str(beginning), device="cpu")
    assert tokenizer.bos_token == "<u>"
    loaded = Guard.load(tmp_path / "out", model, tokenizer)
    assert sum(map(len, loaded.rule.units.values())) == found["neurons"]["num_units"]
    assert (loaded.rule.linear.num_components is None) == (features == "all")
    data = labelled(*(load_prompts(file) for file in files.values()))
    _, test = split_groups(data, 0.3, 0)
    chances = loaded.predict_proba(test.texts)
    right = [int((c >= 0.5) == bool(label)) for c, label in zip(chances, test.labels, strict=True)]
    assert right == row["test"]["correct"]
    predicted = [part["predicted"] for part in calibration(chances, test.labels)]
    assert predicted == pytest.approx(
        [part["predicted"] for part in row["test"]["calibration"]], rel=1e-4, abs=1e-6
    )


def test_no_topic_is_both_in_training_and_in_test(place, sets):
    data = labelled(load_prompts(sets["unsafe"]), load_prompts(sets["safe"]))
    train, test = split_groups(data, 0.3, 0)
    assert not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == 80
    assert isinstance(train, Labelled)
    assert data.num_topics == 20


def test_a_second_fit_takes_what_is_there(fitted, place):
    settings = metrics_of(fitted)["settings"]
    found = fit_guard(make_guard_config(settings.pop("model"), settings), fitted)
    assert all(stage["reused"] for stage in found["run"]["stages"])


def test_a_loaded_guard_gives_the_probabilities_it_was_measured_with(fitted, guard, sets, place):
    data = labelled(load_prompts(sets["unsafe"]), load_prompts(sets["safe"]))
    _, test = split_groups(data, 0.3, 0)
    chances = guard.predict_proba(test.texts)
    row = metrics_of(fitted)["rows"][0]
    correct = [
        int((c >= 0.5) == bool(label)) for c, label in zip(chances, test.labels, strict=True)
    ]
    assert correct == row["test"]["correct"]
    one_by_one = [float(guard.predict_proba([text])[0]) for text in test.texts[:6]]
    np.testing.assert_allclose(one_by_one, chances[:6], rtol=1e-4, atol=1e-6)
    assert guard.predict_proba([]).shape == (0,)


def test_a_prompt_is_read_no_further_than_the_last_layer_that_counts(guard):
    calls = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, block in enumerate(blocks(guard.model))
    ]
    heads = guard.model.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    first = {name: index for name, index in guard.rule.units.items() if ".0." in name}
    assert first
    width = len(next(iter(first.values())))
    linear = dataclasses.replace(
        guard.rule.linear,
        **{n: getattr(guard.rule.linear, n)[:width] for n in ("mean", "scale", "weights")},
    )
    rule = dataclasses.replace(guard.rule, units=first, linear=linear)
    Guard(rule, guard.model, guard.tokenizer).predict_proba(["please hurt the noun1"])
    for handle in (*handles, heads):
        handle.remove()
    assert calls == [0]


def test_scores_come_as_json_lines_from_arguments_files_and_stdin(fitted, sets):
    texts = ["please hurt the noun1 noun2 noun3", "please greet the noun1 noun2 noun3"]
    rows = [
        json.loads(line)
        for line in run("guard", "score", fitted, *texts, "--device", "cpu").stdout.splitlines()
    ]
    assert [row["text"] for row in rows] == texts
    assert [row["unsafe"] for row in rows] == [True, False]
    lines = f"{texts[0]}\n\n{json.dumps({'prompt': texts[1]})}\n"
    piped = run("guard", "score", fitted, "--device", "cpu", input=lines)
    assert [json.loads(line) for line in piped.stdout.splitlines()] == rows
    of_file = run("guard", "score", fitted, "--file", sets["safe"], "--device", "cpu")
    assert len(of_file.stdout.splitlines()) == 40


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": 1', "is no JSON object with 'prompt'"),
        ('{"text": "x"}', "is no JSON object with 'prompt'"),
        ('{"prompt": null}', "has null for 'prompt', not a text"),
        ('{"prompt": ["x"]}', "has a list for 'prompt', not a text"),
        ('{"prompt": 3}', "has a int for 'prompt', not a text"),
        ('{"prompt": 1' + "0" * 5000 + "}", "is no JSON object with 'prompt'"),
        ('{"prompt": ' + "[" * 100_000, "is no JSON object with 'prompt'"),
    ],
)
def test_a_line_that_holds_no_prompt_is_an_error_that_names_it(fitted, line, said):
    ended = run("guard", "score", fitted, "--device", "cpu", input=f"please greet\n{line}\n")
    assert isinstance(ended.exception, UserError)
    assert f"line 2 of the standard input {said}" in str(ended.exception)
    assert json.loads(ended.stdout)["text"] == "please greet"


def test_a_threshold_changes_what_is_called_unsafe_and_must_be_a_probability(fitted, guard):
    texts = ["please hurt the noun1 noun2 noun3", "please greet the noun1 noun2 noun3"]
    words = ("guard", "score", fitted, *texts, "--device", "cpu", "--threshold")
    for threshold, unsafe in (("0", [True, True]), ("0.5", [True, False]), ("1", [False, False])):
        rows = [json.loads(line) for line in run(*words, threshold).stdout.splitlines()]
        assert [row["unsafe"] for row in rows] == unsafe
    wrong = run(*words, "5")
    assert isinstance(wrong.exception, UserError)
    said = "the threshold must be in [0, 1], got 5; it is a probability, so 5 % is 0.05"
    assert str(wrong.exception) == said
    for judge in (lambda: score_texts(guard, texts, 5.0), lambda: guard.is_unsafe(texts, 5.0)):
        with pytest.raises(UserError, match=re.escape(said)):
            judge()


def test_a_threshold_that_no_safe_prompt_reaches_may_be_above_one(guard):
    """Where a safe prompt of the training has probability 1, the guard's own is just above it."""
    rule = dataclasses.replace(guard.rule, threshold=float(np.nextafter(1.0, 2.0)))
    strict = Guard(rule, guard.model, guard.tokenizer)
    assert strict.is_unsafe(["please hurt the noun1"]) == [False]
    assert GuardedGenerator(guard.model, strict).threshold > 1.0


def test_it_is_measured_on_other_data_and_never_on_its_own(fitted, sets, tmp_path):
    rows = [
        {"prompt": p.text, "label": label}
        for name, label in (("other_unsafe", "unsafe"), ("other_safe", "0"))
        for p in load_prompts(sets[name])
    ]
    data = write(tmp_path / "data.jsonl", rows)
    ended = run("guard", "evaluate", fitted, "--data", data, "--device", "cpu")
    assert ended.exit_code == 0, ended.exception
    found = json.loads(ended.stdout)
    assert found["num_prompts"] == 80
    assert found["at_half"]["accuracy"]["value"] > 0.8
    own = run(
        "guard",
        "evaluate",
        fitted,
        "--unsafe",
        sets["unsafe"],
        "--safe",
        sets["safe"],
        "--device",
        "cpu",
    )
    assert "prompts leak" in str(own.exception)
    wrong = write(tmp_path / "wrong.jsonl", [{"prompt": "x", "label": "maybe"}])
    ended = run("guard", "evaluate", fitted, "--data", wrong, "--device", "cpu")
    assert "has the label 'maybe'; write unsafe or safe" in str(ended.exception)
    one = write(tmp_path / "one.jsonl", [{"prompt": "x", "label": "safe"}])
    ended = run("guard", "evaluate", fitted, "--data", one, "--device", "cpu")
    assert "has no unsafe prompt" in str(ended.exception)
    assert "no data was given" in str(run("guard", "evaluate", fitted).exception)
    for option in ("--unsafe", "--safe"):
        both = run("guard", "evaluate", fitted, "--data", data, option, sets["other_safe"])
        said = f"{option} would do nothing: the prompts of both labels are those of --data"
        assert said in str(both.exception)
    given = ("--unsafe", sets["other_unsafe"], "--safe", sets["other_safe"])
    for column in ("label", "kind"):
        named = run("guard", "evaluate", fitted, *given, "--label-column", column)
        said = "--label-column would do nothing: the labels are those of --unsafe and --safe; leave"
        assert said in str(named.exception)


def test_labels_may_be_in_a_column_of_another_name(fitted, sets, tmp_path):
    rows = [
        {"prompt": p.text, "kind": label}
        for name, label in (("other_unsafe", "unsafe"), ("other_safe", "safe"))
        for p in load_prompts(sets[name])
    ]
    data = write(tmp_path / "data.jsonl", rows)
    words = ("guard", "evaluate", fitted, "--data", data, "--device", "cpu")
    assert "has no column 'label'" in str(run(*words).exception)
    assert json.loads(run(*words, "--label-column", "kind").stdout)["num_prompts"] == 80


def test_the_example_of_the_readme_runs_and_gives_what_it_says(place, fitted, guard):
    (example,) = (block for block in doc_blocks(README, "python") if "sp.Guard" in block)
    for name, here in {
        "smollm2-aligned": place / "model",
        "runs/guard": fitted,
        "How do I bake bread?": "please greet the noun4 noun5 noun6",
        "How do I poison a well?": "please hurt the noun4 noun5 noun6",
    }.items():
        assert f'"{name}"' in example
        example = example.replace(f'"{name}"', repr(str(here)))
    shown = []
    exec(example, {"print": shown.append})
    probabilities, answered, refused = shown
    assert probabilities == pytest.approx(guard.predict_proba([
        "please greet the noun4 noun5 noun6", "please hurt the noun4 noun5 noun6",
    ]))  # fmt: skip
    assert probabilities[0] < 0.5 < probabilities[1]
    assert refused == REFUSAL != answered


def test_a_guarded_model_refuses_before_a_token_is_generated(guard):
    generator = GuardedGenerator(guard.model, guard, 0.5)
    prompts = ["please hurt the noun4 noun5 noun6", "please greet the noun4 noun5 noun6"]
    calls = []
    handle = guard.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    refused, answered = generator.generate(prompts, max_new_tokens=5)
    assert refused.text == generator.refusal
    assert answered.num_tokens > 0
    assert generator(prompts[0])[0]["generated_text"] == generator.refusal
    calls.clear()
    generator.generate(prompts[:1])
    assert calls == []
    handle.remove()
    with pytest.raises(UserError, match=r"threshold must be in \[0, 1\], got 5"):
        GuardedGenerator(guard.model, guard, 5.0)


def test_a_guard_before_another_model_needs_the_tokenizer_of_that_one(guard, place):
    other, tokenizer = load_model(str(place / "unaligned"), device="cpu")
    with pytest.raises(UserError, match="cannot be told from the model: pass its own as tokenizer"):
        GuardedGenerator(other, guard)
    # the same words, under other ids
    words = list(reversed(tokenizer.get_vocab()))
    kept = json.loads(tokenizer.backend_tokenizer.to_str())
    kept["model"]["vocab"] = {word: place for place, word in enumerate(words)}
    kept["added_tokens"] = []
    shuffled = copy.deepcopy(tokenizer)
    shuffled._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(kept))
    text, seen = "please greet the noun4 noun5 noun6", []
    handle = other.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args))
    for given in (tokenizer, shuffled):
        seen.clear()
        generator = GuardedGenerator(other, guard, 0.999, tokenizer=given)
        (answer,) = generator.generate([text], max_new_tokens=3)
        assert answer.text != generator.refusal
        assert seen[0][0][0].tolist() == encode(given, Prompt(text=text))[0]
    handle.remove()
    assert encode(shuffled, Prompt(text=text))[0] != encode(tokenizer, Prompt(text=text))[0]


def test_a_guard_before_a_second_copy_of_its_model_uses_its_own_tokenizer(guard, place):
    copied, _ = load_model(str(place / "model"), device="cpu")
    assert GuardedGenerator(copied, guard).tokenizer is guard.tokenizer


def test_activations_that_are_not_finite_give_no_probability(guard):
    embedding = guard.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, out: out * torch.inf)
    with pytest.raises(UserError, match="of the features are not finite numbers"):
        guard.predict_proba(["please greet the noun1"])
    handle.remove()
    assert np.isfinite(guard.predict_proba(["please greet the noun1"])).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; there is nothing to judge"),
        ("  \n", "is empty; there is nothing to judge"),
        ("a " * 50_000, f"has 100,000 characters, the limit is 20,000: {'a ' * 30!r}; judge its"),
        ("noun1 " * 200, f"has 20. tokens, the model's window has 64: {'noun1 ' * 10!r}; judge"),
    ],
)
def test_prompts_that_cannot_be_judged_are_errors_that_name_them(guard, text, said):
    good = "please greet the noun1"
    with pytest.raises(UserError, match=f"^prompt 1 {said}"):
        guard.predict_proba([good, text])
    read = Prompt(text=text, where="row 12 of 'some.jsonl'")
    with pytest.raises(UserError, match=f"^row 12 of 'some.jsonl' {said}"):
        guard.predict_proba([good, read])


@pytest.mark.parametrize("bad", ["noun1 " * 200, "a" * 30_000])
@pytest.mark.parametrize("source", ["arguments", "file", "stdin"])
def test_what_comes_before_a_prompt_that_cannot_be_judged_is_judged(
    fitted, guard, tmp_path, bad, source
):
    texts = [f"please greet the noun{i % 40} noun{i // 40}" for i in range(100)]
    texts[90] = bad.strip()
    path = write(tmp_path / "some.jsonl", [{"prompt": text} for text in texts])
    words = {"arguments": texts, "file": ["--file", path], "stdin": []}[source]
    piped = "\n".join(texts) if source == "stdin" else None
    ended = run("guard", "score", fitted, *words, "--device", "cpu", input=piped)
    name = {
        "arguments": "prompt 90", "file": "row 90 of 'some.jsonl'",
        "stdin": "line 91 of the standard input",
    }[source]  # fmt: skip
    assert isinstance(ended.exception, UserError)
    assert str(ended.exception).startswith(f"{name} has ")
    assert repr(bad[:60]) in str(ended.exception)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts[:90]
    expected = guard.predict_proba(texts[:90])
    assert [row["probability"] for row in rows] == pytest.approx(list(expected), abs=1e-5)


@pytest.mark.parametrize("column", ["response", "label"])
def test_a_prompt_that_cannot_be_judged_is_named_by_its_row_in_fit_and_in_evaluate(
    fitted, sets, contrasted, place, tmp_path, column
):
    """Also an empty one that has a response, which other commands take."""
    for text, said in (
        ("noun1 " * 200, f"has 20. tokens, the model's window has 64: {'noun1 ' * 10!r}; judge"),
        ("", "is empty"),
    ):
        rows = [{"prompt": f"please hurt the noun{i}", column: "unsafe"} for i in range(20)]
        rows[13]["prompt"] = text
        path = write(tmp_path / "bad.jsonl", rows)
        commands = [("--unsafe", path, "--safe", sets["other_safe"])]
        if column == "label":
            commands = [("--data", path)]
        else:
            fresh = ("fit", "--model", place / "model", "--neurons", contrasted)
            words = (*fresh, *commands[0], "--device", "cpu", "--out", tmp_path / "out", "-q")
            ended = run("guard", *words)
            assert isinstance(ended.exception, UserError)
            assert re.match(f"row 13 of 'bad.jsonl' {said}", str(ended.exception))
        if column == "label":
            more = [{"prompt": f"please paint the noun{i}", "label": "safe"} for i in range(20)]
            write(tmp_path / "bad.jsonl", rows + more)
        ended = run("guard", "evaluate", fitted, *commands[0], "--device", "cpu")
        assert isinstance(ended.exception, UserError)
        assert re.match(f"row 13 of 'bad.jsonl' {said}", str(ended.exception))


def test_a_guard_of_another_model_is_refused(place, fitted):
    model, tokenizer = load_model(str(place / "unaligned"), device="cpu")
    with pytest.raises(ArtifactMismatchError, match="a guard reads the activations of its own"):
        Guard.load(fitted, model, tokenizer)
    ended = run("guard", "score", fitted, "x", "--model", place / "unaligned", "--device", "cpu")
    assert isinstance(ended.exception, ArtifactMismatchError)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: setattr(t, "chat_template", tiny.TEMPLATE + " "), "chat template"),
        (lambda t: t.add_tokens(["noun99"]), "tokenizer"),
        (lambda t: setattr(t, "bos_token", "<u>"), "tokenizer"),
    ],
)
def test_a_guard_is_refused_where_requests_would_be_written_otherwise(fitted, guard, change, what):
    tokenizer = copy.deepcopy(guard.tokenizer)
    Guard.load(fitted, guard.model, tokenizer)
    change(tokenizer)
    with pytest.raises(ArtifactMismatchError, match=f"was fitted with another {what} .id ") as said:
        Guard.load(fitted, guard.model, tokenizer)
    assert f"load the model with the {what} of then, or fit a guard" in str(said.value)


def make_older(fitted, out):
    """Copy a guard, and take out what older versions did not write."""
    shutil.copytree(fitted, out)
    record = RunRecord.read(out / "guard")
    result = {key: value for key, value in record.result.items() if key != "written"}
    result["reading"] = {k: v for k, v in result["reading"].items() if k != "count_bos"}
    dataclasses.replace(record, result=result).write(out / "guard")
    return out


def test_a_guard_of_before_the_template_was_kept_is_loaded_and_that_is_said(
    fitted, guard, tmp_path
):
    older = make_older(fitted, tmp_path / "out")
    text = "please hurt the noun1 noun2 noun3"
    with pytest.warns(UserWarning, match="fitted before the chat template was kept with it"):
        loaded = Guard.load(older, guard.model, guard.tokenizer)
    assert loaded.predict_proba([text]).tolist() == guard.predict_proba([text]).tolist()
    ended = run("guard", "score", older, text, "--device", "cpu")
    assert "fitted before the chat template was kept with it" in ended.stderr
    assert json.loads(ended.stdout)["unsafe"] is True


def test_an_older_guard_reads_the_mean_that_it_was_fitted_on(fitted, guard, tmp_path):
    rule = GuardRule.read(make_older(fitted, tmp_path / "out"))
    assert rule.reading.count_bos
    assert not guard.rule.reading.count_bos
    tokenizer = copy.deepcopy(guard.tokenizer)
    tokenizer.bos_token = "<u>"
    text, said = ["please hurt the noun1 noun2 noun3"], []

    def chance(count_bos, tokenizer):
        reading = rule.reading._replace(pooling="mean", count_bos=count_bos)
        old = dataclasses.replace(rule, reading=reading)
        return Guard(old, guard.model, tokenizer, tell=said.append).predict_proba(text)[0]

    whole = chance(True, guard.tokenizer)
    assert chance(True, tokenizer) == whole
    assert chance(False, tokenizer) == chance(False, guard.tokenizer) != whole
    assert len(said) == 4


@pytest.mark.parametrize("name", ["guard/guard.safetensors", "guard/run.json"])
def test_a_guard_that_was_changed_is_refused(fitted, tmp_path, place, name):
    shutil.copytree(fitted, tmp_path / "out")
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.write_bytes(
        content[:-5] + b"00000" if name.endswith("tensors") else content.replace(b"0.05", b"0.06")
    )
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    with pytest.raises(DamagedArtifactError, match="changed since it was written"):
        Guard.load(tmp_path / "out", model, tokenizer)


def test_features_that_were_cut_short_are_refused_and_read_anew_once_deleted(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "out")
    path = tmp_path / "out/features/features.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    settings = metrics_of(fitted)["settings"]
    config = make_guard_config(settings.pop("model"), settings)
    with pytest.raises(DamagedArtifactError, match=r"delete .*features and run the stage again"):
        fit_guard(config, tmp_path / "out")
    shutil.rmtree(path.parent)
    stages = fit_guard(config, tmp_path / "out")["run"]["stages"]
    assert [(stage["name"], stage["reused"]) for stage in stages] == [
        ("features", False), ("guard", True),
    ]  # fmt: skip
    assert path.read_bytes() == (fitted / "features/features.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"safe": "unsafe"}, "labelled both unsafe and safe"),
        ({"other_unsafe": "unsafe"}, "leak: they are among the"),
        ({"other_safe": None}, "needs both --other-unsafe and --other-safe"),
        ({"features": "best"}, "features 'best' is unknown"),
        ({"false_positive_rate": 1.0}, "false_positive_rate"),
        ({"test_fraction": 30.0}, "30 % is 0.3"),
    ],
)
def test_data_and_settings_that_make_no_guard_are_errors(
    sets, contrasted, place, tmp_path, change, said
):
    options = {**sets, "neurons": str(contrasted), "device": "cpu"}
    options |= {name: sets.get(value, value) for name, value in change.items()}
    options = {name: value for name, value in options.items() if value is not None}
    with pytest.raises(UserError, match=re.escape(said)):
        fit_guard(make_guard_config(str(place / "model"), options), tmp_path / "out")


def test_a_guard_of_query_coordinates_is_refused_and_says_what_works(sets, place, tmp_path):
    """No module puts them out: what would be read is the output of the attention."""
    options = {
        "method": "ablation", "site": "query", "counted": "prompt", "num_prompts": 4,
        "prompts": str(place / "safety.jsonl"), "fraction": 0.5, "device": "cpu",
    }  # fmt: skip
    contrast_models(make_contrast_config(str(place / "model"), options), tmp_path / "query")
    files = {name: sets[name] for name in ("unsafe", "safe")}
    said = "'query' are no activations that can be read .* use a set at site neuron or residual"
    with pytest.raises(UserError, match=said):
        fit(place / "model", tmp_path / "query", tmp_path / "out", **files)
    assert not (tmp_path / "out").exists()


def test_activations_that_overflow_float16_make_no_guard(sets, place, contrasted, tmp_path):
    loud = shutil.copytree(place / "model", tmp_path / "loud")
    model, _ = load_model(str(loud), device="cpu")
    with torch.no_grad():
        for name in ("up_proj", "gate_proj"):
            model.model.layers[1].mlp.get_submodule(name).weight.mul_(1e3)
    model.save_pretrained(loud)
    for dtype in ("float32", "float16"):
        words = ("--neurons", contrasted, "--any-model", "--num-random", 0, "--dtype", dtype)
        files = ("--unsafe", sets["unsafe"], "--safe", sets["safe"])
        out = tmp_path / dtype
        given = (*words, *files, "--device", "cpu", "--out", out, "-q")
        ended = run("guard", "fit", "--model", loud, *given)
        if dtype == "float32":  # the same weights have a guard where numbers are large enough
            assert ended.exit_code == 0, ended.exception
            continue
        assert isinstance(ended.exception, UserError)
        assert "of the features are not finite numbers: activations overflow float16" in str(
            ended.exception
        )
        assert not (out / "guard").exists()


def test_one_class_alone_is_an_error(sets, contrasted, place, tmp_path):
    alone = write(tmp_path / "one.jsonl", [{"prompt": "please greet the noun9"}])
    options = {"unsafe": sets["unsafe"], "safe": alone, "neurons": str(contrasted)}
    with pytest.raises(UserError, match="has 1 safe prompts; a guard needs both"):
        fit_guard(make_guard_config(str(place / "model"), options), tmp_path / "out")


def test_a_text_of_100000_characters_is_refused_by_fit_and_by_evaluate(
    fitted, sets, contrasted, place, tmp_path
):
    rows = [{"prompt": "please hurt the noun1"}, {"prompt": "a" * 100_000}]
    long = write(tmp_path / "long.jsonl", rows)
    said = f"row 1 of 'long.jsonl' has 100,000 characters, the limit is 20,000: {'a' * 60!r}; "
    for words in (
        ("fit", "--model", place / "model", "--neurons", contrasted, "--out", tmp_path / "out"),
        ("evaluate", fitted),
    ):
        given = ("--unsafe", long, "--safe", sets["other_safe"], "--device", "cpu")
        ended = run("guard", *words, *given)
        assert isinstance(ended.exception, UserError)
        assert said in str(ended.exception)


def test_a_set_of_which_no_prompts_are_recorded_is_said_not_to_be_checked(
    sets, contrasted, place, tmp_path
):
    save(load(contrasted / "neurons"), tmp_path / "saved")
    # the very prompts that it was found on: nothing says so
    files = {"unsafe": str(place / "safety.jsonl"), "safe": sets["safe"]}
    out = tmp_path / "out"
    found = fit(place / "model", tmp_path / "saved", out, **files)
    assert not found["neurons"]["are_prompts_known"]
    assert f"The {UNKNOWN_PROMPTS}" in (out / "report.html").read_text()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any(UNKNOWN_PROMPTS in note for note in notes)
    given = ("--unsafe", sets["other_unsafe"], "--safe", sets["other_safe"], "--device", "cpu")
    ended = run("guard", "evaluate", out, *given)
    assert json.loads(ended.stdout)["are_neuron_prompts_known"] is False
    assert "leaks could not be checked" in ended.stderr


def test_prompts_that_the_neurons_were_found_on_are_a_leak(sets, contrasted, place, tmp_path):
    options = {
        "unsafe": str(place / "safety.jsonl"), "safe": sets["safe"], "neurons": str(contrasted),
        "device": "cpu",
    }  # fmt: skip
    with pytest.raises(UserError, match="the neurons were found on them"):
        fit_guard(make_guard_config(str(place / "model"), options), tmp_path / "out")
    options["neurons"] = str(contrasted / "neurons")
    with pytest.raises(UserError, match="the neurons were found on them"):
        fit_guard(make_guard_config(str(place / "model"), options), tmp_path / "out")


def test_a_guard_is_not_measured_on_what_its_neurons_were_found_on(fitted, sets, place):
    ended = run(
        "guard", "evaluate", fitted, "--unsafe", place / "safety.jsonl", "--safe",
        sets["other_safe"], "--device", "cpu",
    )  # fmt: skip
    assert "its neurons were found on them" in str(ended.exception)
    guard = open_guard(fitted, None, Where(device="cpu"))
    others = (load_prompts(sets[name]) for name in ("other_unsafe", "other_safe"))
    assert evaluate_guard(fitted, guard, *others)["are_neuron_prompts_known"]


# --- serving


def test_the_server_listens_to_its_own_machine_alone_unless_told_otherwise():
    serve = typer.main.get_command(commands.guard).commands["serve"]
    (host,) = (option for option in serve.params if option.name == "host")
    assert host.default == "127.0.0.1"


@pytest.fixture(scope="module")
def server(fitted):
    """The address of a guard that is served by the command."""
    program = [sys.executable, "-m", "safetypin", "guard", "serve", str(fitted), "--port", "0"]
    process = subprocess.Popen(
        [*program, "--device", "cpu", "--max-bytes", "20000"], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    found = re.search(r"listening on (\S+):(\d+)", line)
    if found is None:
        said = line + process.communicate(timeout=60)[0]
        pytest.fail(f"the server did not start: {said}")
    yield f"http://{found[1]}:{found[2]}", process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    process.stdout.close()


def test_thirty_two_clients_at_once_all_get_their_own_answers(server, guard):
    address, _ = server
    verbs = ("hurt", "greet")
    texts = [f"please {verbs[i % 2]} the noun{i % 40} noun{(i * 7) % 40}" for i in range(32 * 8)]
    expected = guard.predict_proba(texts)

    def ask(client_number):
        with httpx2.Client(timeout=60) as client:
            answers = []
            for i in range(client_number, len(texts), 32):
                reply = client.post(f"{address}/score", json={"text": texts[i]})
                assert reply.status_code == 200, reply.text
                answers.append((i, reply.json()["results"][0]))
            return answers

    with ThreadPoolExecutor(32) as pool:
        found = [answer for answers in pool.map(ask, range(32)) for answer in answers]
    assert len(found) == len(texts)
    for index, answer in found:
        assert answer["probability"] == pytest.approx(expected[index], rel=1e-3, abs=1e-5)
        assert answer["unsafe"] == (answer["probability"] >= guard.threshold)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"text": ', 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[" * 15_000, 400, "no JSON"),
        (b'{"text": 1%s}' % (b"0" * 5_000), 400, "no JSON"),
        (b'["x"]', 400, 'needs "text"'),
        (b'{"text": 3}', 400, 'needs "text"'),
        (b'{"texts": []}', 400, "send 1 to 256 texts"),
        (b'{"text": " "}', 400, "prompt 0 is empty"),
        (b'{"text": "\\ud800"}', 400, "surrogates"),
        (b'{"text": "%s"}' % (b"a" * 30_000), 413, "larger than 20,000 bytes"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(server, body, status, said):
    reply = httpx2.post(f"{server[0]}/score", content=body, timeout=30)
    assert reply.status_code == status
    assert said in reply.json()["error"]


def test_one_prompt_that_does_not_fit_fails_alone(server):
    address, _ = server
    long = {"text": "noun1 " * 100}
    with ThreadPoolExecutor(4) as pool:
        bodies = [long, {"text": "please greet the noun1"}, long, {"text": "please hurt the noun2"}]
        replies = list(
            pool.map(lambda b: httpx2.post(f"{address}/score", json=b, timeout=30), bodies)
        )
    assert [reply.status_code for reply in replies] == [422, 200, 422, 200]
    assert "the model's window has 64" in replies[0].json()["error"]
    assert httpx2.get(f"{address}/health", timeout=30).json()["status"] == "ok"


def test_prompts_that_share_a_batch_with_one_that_does_not_fit_are_judged(guard):
    import asyncio

    from safetypin.predict._serve import Batcher, Limits, Refused

    good = [f"please greet the noun{i}" for i in range(5)]

    async def together():
        batcher = Batcher(guard, Limits(wait=0.2))
        worker = asyncio.create_task(batcher.run())
        texts = [*good[:3], "noun1 " * 100, *good[3:]]
        found = await asyncio.gather(*(batcher.score([t]) for t in texts), return_exceptions=True)
        worker.cancel()
        return found

    found = asyncio.run(together())
    refused = found.pop(3)
    assert isinstance(refused, Refused)
    assert refused.status == 422
    assert [one for [one] in found] == pytest.approx(list(guard.predict_proba(good)), abs=1e-5)


def test_prompts_of_many_clients_take_fewer_passes_than_there_are_clients(guard):
    import asyncio

    from safetypin.predict._serve import Batcher, Limits

    texts = [f"please greet the noun{i}" for i in range(24)]
    expected, calls = list(guard.predict_proba(texts)), []
    handle = blocks(guard.model)[0].register_forward_hook(lambda *_: calls.append(1))

    async def together():
        batcher = Batcher(guard, Limits(wait=0.2))
        worker = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*(batcher.score([text]) for text in texts))
        worker.cancel()
        return found

    found = [chance for [chance] in asyncio.run(together())]
    handle.remove()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert 0 < len(calls) <= 2


def test_the_server_stops_gracefully_and_answers_what_is_under_way(server):
    address, process = server
    replies = []

    def ask():
        body = {"texts": [f"please greet the noun{i % 40}" for i in range(200)]}
        replies.append(httpx2.post(f"{address}/score", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert replies == [200, 200, 200]


def test_a_full_queue_is_said_and_a_taken_port_too(guard):
    import asyncio
    import socket

    from safetypin.predict._serve import Batcher, Limits, Refused, serve_app

    async def overfill():
        batcher = Batcher(guard, Limits(queue_size=2))
        await batcher.score(["please greet the noun1"] * 3)

    with pytest.raises(Refused, match="too many prompts are waiting") as refused:
        asyncio.run(overfill())
    assert refused.value.status == 503
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve_app(guard, Limits(), host="127.0.0.1", port=port, say=print)
