"""Bad input: a clear error, exit code 2, and nothing half-written."""

import json
import shutil
import socket

import pytest

from end_to_end.comparing import read_metrics
from safetypin.prompts import load_prompts


def prompt_file(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("smollm2-alligned", "did you mean smollm2-aligned"),
        ("./no/such/folder", "it is no folder here and no alias"),
    ],
)
def test_an_unknown_model_is_named_with_the_nearest_alias(refused, model, words):
    text = refused(model=model)
    assert f"no model '{model}'" in text
    assert words in text
    assert "owner/name[@revision]" in text


def test_a_hub_model_without_a_network_says_so(refused, monkeypatch):
    def unreachable(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    text = refused(model="nobody/no-such-model")
    assert "the model 'nobody/no-such-model' could not be loaded" in text
    assert "network" in text
    assert "HF_HUB_OFFLINE=1" in text


@pytest.fixture
def stripped(place, tmp_path):
    """Return a copy of a model without some files, or without its chat template."""

    def make(*names, template=True, model="model"):
        folder = shutil.copytree(place / model, tmp_path / "stripped")
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if not template:
            (folder / "chat_template.jinja").unlink()
        return folder

    return make


def test_a_model_folder_without_tokenizer_says_which_files_it_lacks(refused, stripped):
    folder = stripped("tokenizer.json", "tokenizer_config.json")
    text = refused(model=str(folder))
    assert "has no tokenizer (no tokenizer.json or tokenizer_config.json)" in text
    assert "copy the tokenizer files of its base model there" in text


def test_a_folder_without_a_model_says_what_it_lacks(refused, stripped):
    text = refused(model=str(stripped("config.json")))
    assert "config.json" in text


def test_a_folder_without_weights_is_an_error_in_words(refused, stripped):
    text = refused(model=str(stripped("model.safetensors")))
    assert "could not be loaded" in text
    assert "is the folder complete?" in text


def test_a_model_cut_short_is_an_error_in_words(refused, stripped):
    folder = stripped()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    text = refused(model=str(folder))
    assert "could not be loaded" in text


def test_a_tokenizer_without_chat_template_names_the_way_out(refused, stripped):
    text = refused(model=str(stripped(template=False)))
    assert "no chat template, so this is probably a base model; --plain" in text


def test_plain_needs_no_chat_template(command, stripped, options, tmp_path):
    out = tmp_path / "out"
    folder = stripped(template=False, model="unaligned")
    ended = command("audit", folder, *options(), "--plain", "--out", out)
    assert ended.code == 0, ended.err
    assert read_metrics(out)["settings"]["plain"] is True


def test_a_missing_prompt_file_is_named(refused, tmp_path):
    text = refused(attack=tmp_path / "nothing.jsonl")
    assert "no prompt file" in text
    assert "nothing.jsonl" in text


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_prompt_file_is_an_error(refused, tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    text = refused(safety=path)
    assert "empty" in text
    assert "at least one prompt" in text


def test_a_missing_column_names_the_columns_there_are(refused, tmp_path):
    path = prompt_file(tmp_path, "other.jsonl", [{"question": "a", "source": "b"}] * 9)
    text = refused(attack=path)
    assert "has no column 'prompt'" in text
    assert "'question', 'source'" in text
    assert "--prompt-column" in text


def test_another_column_can_be_chosen(command, place, options, tmp_path):
    changes = {}
    for kind in ("safety", "utility", "attack", "harmless", "borderline"):
        rows = [json.loads(line) for line in (place / f"{kind}.jsonl").read_text().splitlines()]
        renamed = [{"request": row["prompt"]} for row in rows]
        changes[kind] = prompt_file(tmp_path, f"{kind}.jsonl", renamed)
    words = options(**changes, prompt_column="request")
    ended = command("audit", place / "unaligned", *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert read_metrics(tmp_path / "out")["prompts"]["attack"]["num_prompts"] == 12


def test_a_file_that_is_no_json_is_named(refused, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    assert "is no readable .jsonl file" in refused(attack=path)


@pytest.mark.parametrize("kind", ["attack", "harmless", "borderline", "safety", "utility"])
def test_a_prompt_longer_than_the_window_stops_before_any_work(refused, place, tmp_path, kind):
    rows = [json.loads(line) for line in (place / f"{kind}.jsonl").read_text().splitlines()]
    path = prompt_file(tmp_path, "long.jsonl", [*rows[:3], {"prompt": "please " * 60}])
    text = refused(**{kind: path})
    assert "and leaves no room for 10 new ones in the model's window of 64" in text
    assert "please please" in text


def test_a_response_longer_than_the_window_stops_before_any_work(refused, tmp_path):
    rows = [{"prompt": "please hurt", "response": "sorry, " * 70}] * 2
    text = refused(safety=prompt_file(tmp_path, "long.jsonl", rows))
    assert "tokens with its response, the window has 64" in text


def test_a_text_without_response_is_an_error(refused, tmp_path):
    text = refused(text=prompt_file(tmp_path, "text.jsonl", [{"prompt": "a"}]))
    assert "has no column 'response'; perplexity is measured on responses" in text


@pytest.mark.parametrize(("first", "second"), [("safety", "attack"), ("utility", "harmless")])
def test_calibration_and_evaluation_must_not_share_prompts(refused, place, tmp_path, first, second):
    rows = [json.loads(line) for line in (place / f"{first}.jsonl").read_text().splitlines()]
    disguised = [{"prompt": rows[5]["prompt"].upper() + "!"}, {"prompt": "please greet"}]
    text = refused(
        **{second: prompt_file(tmp_path, "shared.jsonl", disguised), f"num_{first}": len(rows)}
    )
    assert f"the {first} prompts to score on and the {second} prompts" in text
    assert "share 1" in text
    assert "--allow-shared-prompts" in text


@pytest.mark.parametrize("column", ["prompt", "response"])
@pytest.mark.parametrize("scored", ["safety", "utility"])
def test_perplexity_is_not_measured_on_what_is_scored_on(refused, place, tmp_path, scored, column):
    rows = [json.loads(line) for line in (place / f"{scored}.jsonl").read_text().splitlines()]
    disguised = rows[5]["prompt"].upper() + "!"
    row = {"prompt": "", "response": "Other words."} | {column: disguised}
    text = prompt_file(tmp_path, "text.jsonl", [row, {"prompt": "", "response": "More words."}])
    said = refused(**{"text": text, f"num_{scored}": len(rows)})
    assert f"the {scored} prompts to score on and the text for the perplexity share 1 " in said
    assert "--allow-shared-prompts" in said


def test_the_built_in_texts_are_not_what_is_scored_on():
    text = load_prompts("builtin-text")
    for scored in ("builtin-harmful:calibration", "builtin-harmless:calibration"):
        assert load_prompts(scored).texts_shared_with(text) == []


def test_shared_prompts_can_be_allowed(command, place, options, tmp_path):
    words = options(attack=place / "safety.jsonl", safety=place / "safety.jsonl")
    out = tmp_path / "out"
    words += ["--allow-shared-prompts", "--out", str(out)]
    ended = command("audit", place / "unaligned", *words)
    assert ended.code == 0, ended.err
    assert read_metrics(out)["settings"]["allow_shared_prompts"] is True


def test_a_model_must_be_named(command, tmp_path):
    ended = command("audit", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "no model was given; name one as MODEL" in ended.text
    assert not (tmp_path / "out").exists()


def test_a_run_folder_must_be_named(command, place):
    ended = command("audit", place / "model")
    assert ended.code == 2
    assert "--out" in ended.text


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(command, place, options, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("mine")
    ended = command("audit", place / "model", *options(), "--out", out)
    assert ended.code == 2
    assert "is not empty and no run folder of safetypin (it holds 'chapter.tex')" in ended.text
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def test_a_stage_folder_of_something_else_is_refused_and_left_as_it_is(
    command, place, options, tmp_path
):
    out = tmp_path / "out"
    (out / "baseline").mkdir(parents=True)
    (out / ".lock").touch()
    (out / "baseline" / "mine.txt").write_text("mine")
    ended = command("audit", place / "model", *options(), "--out", out)
    assert ended.code == 2
    assert "baseline is not empty and no run of safetypin" in ended.text
    assert (out / "baseline" / "mine.txt").read_text() == "mine"


def test_a_file_is_no_run_folder(command, place, options, tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    ended = command("audit", place / "model", *options(), "--out", out)
    assert ended.code == 2
    assert "is a file; --out takes a folder" in ended.text
    assert out.read_text() == "mine"


def test_an_empty_folder_stays_when_the_input_is_bad(command, options, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert command("audit", "smollm", *options(), "--out", out).code == 2
    assert out.is_dir()


def test_a_report_needs_an_audit(command, tmp_path):
    ended = command("report", tmp_path)
    assert ended.code == 2
    assert "no metrics.json" in ended.text
