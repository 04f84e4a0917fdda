"""The docs cannot rot: commands parse, names exist, links lead somewhere, tables equal the code."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import safetypin as sp
from doc_pages import (
    ARTIFACTS,
    FENCE,
    LIVING,
    METHODS,
    PAGES,
    ROOT,
    bare,
    blocks,
    section,
    spans,
    table,
    text_of,
)
from safetypin.artifacts import Verdict
from safetypin.audit import PRESETS, AuditConfig
from safetypin.audit._config import CONTROLS
from safetypin.cli import _app, _audit, app
from safetypin.evaluate import ATTACKS, JUDGES, measured
from safetypin.prompts import CHOICE_SETS, COUNTED, PROMPT_SOURCES
from safetypin.scores import SCORERS
from safetypin.select import GROUPS

OTHER_PROGRAMS = {"cd", "cp", "git", "hf", "mkdir", "pip", "pre-commit"}
SOURCE_OPTIONS = (
    "prompts", "safety", "utility", "attack", "harmful", "harmless", "borderline", "text",
)  # fmt: skip

COMMANDS = typer.main.get_command(app).commands
# with those of a group, such as `guard fit`
PHASES = [part for c in COMMANDS.values() for part in getattr(c, "commands", {}).values()]
PARTS = [*COMMANDS.values(), *PHASES]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_living_page = pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)


def mentioned():
    return {word for page in LIVING for span in spans(page) for word in (span, *span.split())}


def command_lines(page):
    """Return the words of every simple command in the `sh` blocks, and the line it is on."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.wordchars += "@:,=[]"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|"):
                    if words:
                        yield words, line
                    words = []
                elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                    words.append(word)


def safetypin_commands(page):
    return [words[1:] for words, _ in command_lines(page) if Path(words[0]).name == "safetypin"]


# --- commands


@each_page
def test_every_safetypin_command_parses(page):
    for name, *words in safetypin_commands(page):
        assert name in COMMANDS, f"safetypin has no command {name!r}"
        context = COMMANDS[name].make_context(name, list(words))  # raises on what does not exist
        if name == "warp":
            phase = words[0] if words[0] in COMMANDS[name].commands else "all"
            rest = words if phase == "all" else words[1:]
            COMMANDS[name].commands[phase].make_context(phase, rest)
            continue
        for option in SOURCE_OPTIONS:
            source = context.params.get(option)
            if (name, option) == ("evaluate", "attack"):  # ways to ask, where audit has prompts
                assert set((source or "vanilla").split(",")) <= set(ATTACKS)
                continue
            if isinstance(source, str) and "/" not in source and "." not in source:
                assert source in PROMPT_SOURCES, f"{source!r} in: safetypin {name} {words}"


class Reached(Exception):
    """The audit would begin now."""


@each_page
def test_every_audit_command_has_valid_settings(page, monkeypatch):
    def stop(settings, out, **_):
        raise Reached

    monkeypatch.setattr(_audit, "run_audit", stop)
    monkeypatch.chdir(ROOT)
    for words in safetypin_commands(page):
        if words[0] == "audit":
            result = CliRunner().invoke(app, words)
            assert isinstance(result.exception, Reached), (words, result.output, result.exception)


@each_page
def test_every_other_command_is_of_something_that_exists(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words, line in command_lines(page):
        program = Path(words[0]).name
        if program == "make":
            assert words[1] in targets, line
        elif program in {"python", "python3", "python3.11"} and words[1] != "-m":
            script = ROOT / words[1]
            assert script.is_file(), line
            for word in words[2:]:
                if re.fullmatch(r"(--)?[a-z][a-z-]+", word):
                    assert f'"{word}"' in script.read_text(encoding="utf-8"), line
        elif program not in {"python", "safetypin"}:
            assert program in OTHER_PROGRAMS, f"add {program!r} to OTHER_PROGRAMS: {line}"


@each_living_page
def test_every_option_in_code_font_exists(page):
    known = {option for command in PARTS for p in command.params for option in p.opts}
    choices = {"--preset": PRESETS, "--method": SCORERS, "--judge": JUDGES, "--group": GROUPS}
    for span in spans(page):
        words = span.split()
        for word, value in zip(words, [*words[1:], "--"], strict=True):
            if word.startswith("--") and len(word) > 2:
                assert word in known, f"no option {word} (`{span}`)"
                if word in choices and not value.startswith("--") and not value.isupper():
                    assert value.partition(":")[0] in choices[word], span


# --- names


@each_living_page
def test_every_name_in_code_font_is_in_the_source(page):
    folders = ("src", "tests", "scripts", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / name for name in ("Makefile", "pyproject.toml", ".pre-commit-config.yaml")]
    files = [path for path in files if path not in (Path(__file__), ROOT / "tests/doc_pages.py")]
    known = set(re.findall(r"\w+", " ".join(path.read_text("utf-8") for path in files)))
    for span in spans(page):
        is_name = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", span)
        if is_name and not (ROOT / span).exists():
            # capitals stand for a name: KIND
            unknown = [part for part in span.split(".") if part not in known and not part.isupper()]
            assert not unknown, f"`{span}` is nowhere in the source"


def names_in_code():
    yield from SCORERS
    yield from PROMPT_SOURCES
    yield from PRESETS
    yield from AuditConfig.model_fields
    yield from (*GROUPS, *COUNTED, *CONTROLS, *Verdict)
    yield from (f"{k}:{j.argument}" if j.argument else k for k, j in JUDGES.items())


@pytest.mark.parametrize("name", sorted(set(names_in_code())))
def test_every_choice_is_in_the_docs(name):
    plain = {word.strip('"') for word in mentioned()}
    assert name in plain, f"no page has `{name}` in code font"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_in_the_docs(name):
    headings = re.findall(r"`safetypin (\w+)", "\n".join(map(text_of, LIVING)))
    assert name in headings


def shown(value):
    if value is None:
        return "none"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def test_the_table_of_settings_is_the_config():
    expected = {}
    for name, field in AuditConfig.model_fields.items():
        standard = "required" if field.is_required() else shown(field.default)
        chosen = [PRESETS[preset] for preset in ("quick", "paper")]
        values = [shown(preset[name]) if name in preset else "-" for preset in chosen]
        expected[name] = [standard, *values]
    assert PRESETS["standard"] == {}
    assert {bare(name): cells for name, *cells, _ in table(METHODS, "## Settings")} == expected


def test_every_setting_has_the_option_that_the_docs_promise():
    options = {option for param in COMMANDS["audit"].params for option in param.opts}
    names = set(AuditConfig.model_fields) - {"model", "judge_options"}
    assert {f"--{name.replace('_', '-')}" for name in names} | {"--judge-option"} <= options


def test_the_table_of_prompt_sources_is_the_registry():
    expected = {k: f"{s.about[:1].upper()}{s.about[1:]}." for k, s in PROMPT_SOURCES.items()}
    assert {bare(name): about for name, about in table(METHODS, "## Prompt sources")} == expected


def test_the_table_of_judges_is_the_registry():
    rows = table(METHODS, "## Judges")
    expected = {name: "yes" if judge.checks_degenerate else "no" for name, judge in JUDGES.items()}
    assert {bare(name): apart for name, _, apart in rows} == expected


def test_the_table_of_attacks_is_the_registry():
    assert [bare(name) for name, *_ in table(METHODS, "## Attacks")] == list(ATTACKS)


def test_the_table_of_choice_sets_is_the_registry():
    expected = {
        name: [some.about, "acc_norm" if some.normalised else "acc"]
        for name, some in CHOICE_SETS.items()
    }
    assert {bare(name): row[:2] for name, *row in table(METHODS, "## Utility")} == expected


def test_the_measured_figures_of_judges_are_the_recorded_ones():
    expected = {
        name: [f"{rate.num_hits}/{rate.num_judged}" for rate in (found.precision, found.recall)]
        for name in JUDGES
        if (found := measured(name))
    }
    assert {bare(name): rates for name, *rates in table(METHODS, "## Judges", 1)} == expected


def test_every_score_has_a_section_of_its_own():
    headings = re.findall(r"^### (.*)$", section(METHODS, "## Scores"), re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", " ".join(headings))) == set(SCORERS)


def test_the_table_of_controls_is_that_of_the_code():
    assert [bare(row[0]) for row in table(METHODS, "## Controls")] == list(CONTROLS)


@pytest.mark.parametrize("row", table(METHODS, "## Fixed numbers"), ids=lambda row: row[0])
def test_a_fixed_number_is_that_of_the_code(row):
    where, _, name = bare(row[0]).rpartition(".")
    assert getattr(importlib.import_module(where), name) == float(row[1])


def test_the_exit_codes_are_those_of_the_code():
    codes = {0, _audit.BRITTLE, _app.BAD_INPUT, _audit.UNDECIDED, _app.FAULT, _app.INTERRUPTED}
    assert [int(row[0]) for row in table(ARTIFACTS, "## Exit codes")] == sorted(codes)


# --- links and Python


def slug(heading):
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


@each_page
def test_every_relative_link_leads_somewhere(page):
    prose = FENCE.sub("", text_of(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(linked)), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {target}"


@each_page
def test_python_in_the_docs_compiles_and_names_what_exists(page):
    inline = [span for span in spans(page) if re.fullmatch(r"sp\.\w+", span)]
    for source in [*blocks(page, "python"), *inline]:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "sp" or node.attr in sp.__all__, f"no sp.{node.attr}"
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("safetypin"):
                package = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(package, alias.name), f"{node.module} has no {alias.name}"
