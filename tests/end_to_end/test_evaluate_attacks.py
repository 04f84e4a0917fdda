"""`safetypin evaluate --attack`: rates with intervals, resumed after a kill, refused in words."""

import json
import signal

import pytest

from safetypin.artifacts import RunRecord
from safetypin.stages import read_responses

NUM_PROMPTS = 12
ALL = "vanilla,suffix,decoding,prefill"


@pytest.fixture
def suffixes(tmp_path):
    path = tmp_path / "suffixes.txt"
    path.write_text("\ufeffplease\n\n the river \n", encoding="utf-8")
    return path


@pytest.fixture
def attacked(evaluated, suffixes):
    def run(*words, **options):
        given = ("--attack", ALL, "--suffixes", suffixes, "--num-samples", "3", "--seed", "1")
        return evaluated(*given, "--prefill", "Sure, here", *words, **options)

    return run


def test_every_attack_has_its_rates_with_intervals(attacked):
    ended, out = attacked()
    assert ended.code == 0, ended.err
    found = json.loads((out / "summary.json").read_text())["attacks"]
    assert list(found) == ALL.split(",")
    for name, rates in found.items():
        size = {"suffix": 2, "decoding": 3}.get(name, 1)
        assert rates["num_variants"] == len(rates["by_variant"]) == size
        assert rates["mean"]["num_judged"] == size * NUM_PROMPTS
        assert rates["any_of_n"]["num_judged"] == NUM_PROMPTS
        for rate in (rates["mean"], rates["any_of_n"], *rates["by_variant"]):
            low, high = rate["interval"]
            assert low <= rate["value"] <= high
    summary = json.loads(ended.out)
    assert summary["attacks"] == found
    assert found["vanilla"]["mean"]["num_hits"] == summary["asr"]["num_hits"]
    # the model learned to refuse, and never what follows an opening that it did not write
    assert found["prefill"]["mean"]["value"] > found["vanilla"]["mean"]["value"]
    assert found["decoding"]["settings"]["temperature"] == 1.0
    assert found["suffix"]["settings"]["suffixes"] == 2
    assert "river" not in json.dumps(found)


def test_the_page_and_metrics_json_show_the_attacks_and_never_a_suffix(attacked):
    ended, out = attacked()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["kind"] == "evaluate"
    assert metrics["attacks"] == json.loads(ended.out)["attacks"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ALL.split(","):
        assert f'<th scope="row">{name}</th>' in page
    assert "the river" not in page
    assert "the river" not in (out / "metrics.json").read_text()


def test_the_answers_are_kept_and_hashed(attacked):
    _, out = attacked()
    record = RunRecord.read(out / "attacks")
    assert record.inputs["suite"]["attacks"][1]["suffixes"] == ["please", "the river"]
    assert set(record.files) == {f"responses-attack-{name}.jsonl" for name in ALL.split(",")}
    assert len(read_responses(out / "attacks", "attack-decoding")) == 3 * NUM_PROMPTS
    assert len(record.result["verdicts"]["decoding"][0]) == 3


def test_attacks_that_are_added_later_leave_the_evaluation_as_it_is(evaluated):
    _, out = evaluated()
    before = (out / "evaluation" / "run.json").stat().st_mtime_ns
    ended, _ = evaluated("--attack", "prefill")
    assert ended.code == 0, ended.err
    assert (out / "evaluation" / "run.json").stat().st_mtime_ns == before
    assert (out / "attacks" / "run.json").exists()


def test_a_set_is_removed_during_the_attacks_too(evaluated, staged):
    ended, _ = evaluated("--attack", "vanilla", "--mask", staged / "set")
    found = json.loads(ended.out)
    assert found["asr"]["num_hits"] > 6
    assert found["attacks"]["vanilla"]["mean"]["num_hits"] == found["asr"]["num_hits"]


@pytest.mark.parametrize("line", [1, 19, 36])
def test_a_killed_attack_goes_on_and_ends_the_same(attacked, nursery, place, tmp_path, line):
    _, out = attacked(name="whole")
    words = ["evaluate", str(place / "model"), "--out", str(tmp_path / "killed"), "--quiet"]
    for option, kind in {"harmful": "attack", "text": "text"}.items():
        words += [f"--{option}", str(place / f"{kind}.jsonl")]
    for kind in ("harmless", "borderline"):
        words += [f"--{kind}", str(place / f"{kind}.jsonl")]
    words += ["--max-new-tokens", "10", "--batch-size", "6", "--attack", ALL]
    words += ["--suffixes", str(tmp_path / "suffixes.txt"), "--num-samples", "3", "--seed", "1"]
    words += ["--prefill", "Sure, here"]
    trap = {"at": "responses-attack-decoding", "line": line, "do": "kill"}
    assert nursery.run(*words, log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    assert nursery.run(*words, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    first, second = (RunRecord.read(folder / "attacks") for folder in (out, tmp_path / "killed"))
    assert second.result == first.result
    names = [f"attack-{name}" for name in ALL.split(",")]
    for name in names:
        assert read_responses(out / "attacks", name) == read_responses(
            tmp_path / "killed" / "attacks", name
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "sufix"), "no attack 'sufix'; nearest: suffix"),
        (("--attack", "suffix"), "attack 'suffix' needs suffixes; give a file"),
        (("--num-samples", "3"), "num_samples is given, but no chosen attack takes it"),
        (("--attack", "vanilla", "--prefill", "Sure"), "add prefill"),
        (("--attack", "decoding", "--temperature", "0"), "5 samples at temperature 0"),
        (("--attack", "vanilla", "--harmful", ""), "attacks need harmful prompts"),
        (("--attack", "suffix", "--suffixes", "nowhere.txt"), "no suffix file 'nowhere.txt' in"),
    ],
)
def test_bad_attacks_are_refused_before_the_model_is_loaded(evaluated, words, said):
    ended, out = evaluated(*words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.text
    assert not (out / "evaluation").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("größer".encode("latin-1"), "is not in UTF-8"),
        ("please".encode("utf-16"), "is not in UTF-8"),
        ("please".encode("utf-16-le"), "it holds null characters"),
        (b" \n\n", "holds no suffix; write one a line"),
        (b"please\nx\nplease\n", "holds the suffix 'please' twice"),
    ],
)
def test_a_bad_suffix_file_is_refused_in_words(evaluated, tmp_path, content, said):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    ended, _ = evaluated("--attack", "suffix", "--suffixes", path)
    assert ended.code == 2
    assert said in ended.text
    assert str(path) in ended.text
