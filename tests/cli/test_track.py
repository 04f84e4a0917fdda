"""`safetypin track`: its options reach the run, and its findings the terminal."""

import pytest
import typer
from typer.testing import CliRunner

from safetypin.artifacts import UserError
from safetypin.cli import _track, app
from safetypin.stages import TrackConfig

COMMAND = typer.main.get_command(app).commands["track"]
FINDINGS = [
    {"question": "Did it?", "answer": "fell", "sentence": "By [bold] 3.", "rule": "a rule"},
]


JUDGE = {"name": "phrases", "precision": None, "recall": None, "validated_on": None}


@pytest.fixture
def ran(monkeypatch):
    """What a run was called with."""
    calls = []

    def run(config, out, *, reporter):
        calls.append((config, out, reporter))
        return {"findings": FINDINGS, "judge": JUDGE}

    monkeypatch.setattr(_track, "run_track", run)
    # which options do nothing is read from the run, and there is none here
    monkeypatch.setattr(_track, "idle_track_options", lambda config: [])
    return calls


def invoke(*words):
    return CliRunner().invoke(app, ["track", *words], env={"COLUMNS": "200"})


def test_every_setting_is_an_option():
    options = {option for parameter in COMMAND.params for option in parameter.opts}
    names = set(TrackConfig.model_fields) - {"run", "judge_options"}
    assert {f"--{name.replace('_', '-')}" for name in names} | {"--judge-option"} <= options


def test_options_reach_the_config(ran, tmp_path):
    words = ("--reference", "base", "--groups", "audit", "--set", "q0.01-p0.01", "--q", "0.02",
             "--no-rescore", "--targets", "attn_*,ffn_down", "--judge-option", "a=b",
             "--num-permutations", "99", "--plain")  # fmt: skip
    ended = invoke("runs/t", *words, "--judge", "phrases", "--out", str(tmp_path / "o"), "-q")
    assert isinstance(ended.exception, UserError)  # the judge takes no option a
    words = [word for word in words if word not in ("--judge-option", "a=b")]
    ended = invoke("runs/t", *words, "--out", str(tmp_path / "o"), "-q")
    assert ended.exit_code == 0, (ended.output, ended.exception)
    ((config, out, _),) = ran
    assert out == tmp_path / "o"
    assert config == TrackConfig(
        run="runs/t", reference="base", groups="audit", set="q0.01-p0.01", q=0.02, rescore=False,
        targets=("attn_*", "ffn_down"), num_permutations=99, plain=True,
    )  # fmt: skip


def test_a_file_of_settings_names_the_run_itself(ran, tmp_path):
    file = tmp_path / "track.toml"
    file.write_text('run = "runs/t"\ncontrol = "runs/free"\npreset = "quick"\n')
    ended = invoke("--config", str(file), "--out", str(tmp_path / "o"))
    assert ended.exit_code == 0, (ended.output, ended.exception)
    assert (ran[0][0].run, ran[0][0].control, ran[0][0].preset) == ("runs/t", "runs/free", "quick")


def test_the_findings_and_the_report_are_printed(ran, tmp_path):
    ended = invoke("runs/t", "--out", str(tmp_path / "o"))
    assert "Did it? fell\n  By [bold] 3.\n" in ended.output
    assert "Judge: phrases, not validated on human labels" in ended.output
    assert f"report: {tmp_path / 'o' / 'report.html'}" in ended.output


def test_help_shows_an_example_that_names_the_command():
    ended = invoke("--help")
    assert ended.exit_code == 0
    assert "Example: safetypin track" in ended.output.replace("`", "")
