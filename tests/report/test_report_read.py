import json

import pytest
from example_metrics import example_answers, example_metrics, write_audit

from safetypin.artifacts import DamagedArtifactError, UserError
from safetypin.report._read import parse_metrics, read_examples, read_metrics


def every_key(content, path=()):
    """Yield the path of every key of every dict; of a list, those of its first item."""
    if isinstance(content, list):
        content = {0: content[0]} if content else {}
    elif not isinstance(content, dict):
        return
    for key, value in content.items():
        if not isinstance(key, int):
            yield (*path, key)
        yield from every_key(value, (*path, key))


def without(content, path):
    content = json.loads(json.dumps(content))
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return content


# A rate's value and interval follow from its counts; what is counted as none unjudged may be left
# out; the keys of the last three are names that a user chose, or a setting's.
DERIVED = {"value", "interval", "num_unjudged"}
DIFFERENCES = ("perplexity", "asr_rise", "asr_change", "margin")
REQUIRED = [
    path
    for path in every_key(example_metrics())
    if not (path[-1] in DERIVED and path[-2] not in DIFFERENCES)
    and path[:-1] not in (("prompts",), ("run", "hashes"), ("settings",))
]


@pytest.mark.parametrize("path", REQUIRED, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_an_error_that_names_it(path):
    with pytest.raises(UserError) as caught:
        parse_metrics(without(example_metrics(), path))
    assert f"{'.'.join(map(str, path))!r} is missing" in str(caught.value)
    assert "run the audit again" in str(caught.value)


def test_many_complaints_are_counted_not_listed():
    with pytest.raises(UserError, match=r"'schema' is missing; .*; and 12 more"):
        parse_metrics({})


def test_another_schema_is_refused_with_what_was_given():
    with pytest.raises(UserError, match=r"'schema': .*1, got 2.*This safetypin reads schema 1"):
        parse_metrics({**example_metrics(), "schema": 2})


def test_counts_that_cannot_be_are_refused():
    metrics = example_metrics()
    metrics["baseline"]["refusal"]["num_hits"] = 49
    with pytest.raises(UserError, match=r"'baseline.refusal'.*49 hits among 48"):
        parse_metrics(metrics)


def test_a_verdict_about_an_unknown_cell_is_refused():
    metrics = example_metrics()
    metrics["verdict"]["cell"] = "critical-q9-p9"
    with pytest.raises(UserError, match=r"critical-q9-p9.*not among 'cells'"):
        parse_metrics(metrics)


def test_a_map_of_the_wrong_shape_is_refused():
    metrics = example_metrics()
    metrics["where"]["share"][3].pop()
    with pytest.raises(UserError, match=r"share must have 30 rows of 7 modules"):
        parse_metrics(metrics)


def test_a_rate_shows_what_its_counts_give_not_what_is_written_beside_them():
    metrics = example_metrics()
    metrics["baseline"]["asr"]["value"] = 0.9
    baseline = parse_metrics(metrics).baseline
    assert baseline.asr is not None
    assert baseline.asr.value == 4 / 48


def test_a_folder_without_metrics_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no metrics.json in .*run `safetypin audit MODEL --out"):
        read_metrics(tmp_path)


def test_a_cut_off_file_is_reported_as_damaged(tmp_path):
    folder = write_audit(tmp_path)
    whole = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedArtifactError, match=r"metrics.json is not whole JSON"):
        read_metrics(folder)


def test_an_audit_may_have_kept_no_answers(tmp_path):
    folder = write_audit(tmp_path)
    (folder / "examples.json").unlink()
    assert read_examples(folder) is None


def test_a_bad_example_is_named(tmp_path):
    answers = example_answers()
    answers["rows"][2]["after"]["verdict"] = "fine"
    folder = write_audit(tmp_path, answers=answers)
    with pytest.raises(UserError, match=r"examples.json: 'rows.2.after.verdict'.*got 'fine'"):
        read_examples(folder)
