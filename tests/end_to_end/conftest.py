"""A tiny model that refuses, one that does not, prompts, and one finished audit, each made once."""

import dataclasses
import shutil
import sys
import types

import pytest

from end_to_end import tiny
from end_to_end.nursery import Nursery
from safetypin.audit import audit, make_config
from safetypin.cli import _app, app, main
from safetypin.stages import EVENTS_FILE, Reporter

KINDS = ("safety", "utility", "attack", "harmless", "borderline", "text")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with `model`, `unaligned` and a prompt file of every kind."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_model(folder / "model")
    tiny.make_model(folder / "unaligned", aligned=False)
    tiny.write_prompts(folder)
    return folder


@pytest.fixture(scope="session")
def values(place):
    """The settings of a small audit, as options or TOML give them."""
    sources = {kind: str(place / f"{kind}.jsonl") for kind in KINDS}
    sizes = {"num_safety": 16, "num_utility": 16, "num_harmless": 4, "num_borderline": 4}
    return {
        **sources,
        **sizes,
        "num_attack": 12,
        "num_text": 2,
        "max_new_tokens": 10,
        "batch_size": 6,
        "q": (0.01,),
        "controls": ("random", "top_utility"),
        "num_random": 1,
    }


@pytest.fixture(scope="session")
def settings(place, values):
    """Return the config of a small audit, with changes."""

    def make(model="model", **changes):
        return make_config(str(place / model), "quick", None, values | changes)

    return make


@pytest.fixture(scope="session")
def options(values):
    """Return the settings of a small audit as options of the command line, with changes.

    None leaves an option out.
    """

    def make(**changes):
        words = ["--preset", "quick"]
        for name, value in (values | changes).items():
            if value is None:
                continue
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", shown]
        return words

    return make


class Watched(Reporter):
    """A reporter that knows how much was done when the end was declared."""

    at_the_end = None

    def finish(self):
        self.at_the_end = self.progress
        super().finish()


@pytest.fixture(scope="session")
def watched(settings, tmp_path_factory):
    """The folder of a finished audit and its reporter."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    reporter = Watched(quiet=True, events=folder / EVENTS_FILE)
    audit(settings(), folder, reporter=reporter)
    return folder, reporter


@pytest.fixture(scope="session")
def finished(watched):
    """The folder of a finished audit; never to be changed."""
    return watched[0]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished audit."""
    return shutil.copytree(finished, tmp_path / "copied")


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a command of `safetypin` left on the terminal, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def text(self):
        """Both outputs in one line, as terminals break lines anywhere."""
        return " ".join((self.out + " " + self.err).split())


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `safetypin WORDS` in this process."""

    def run(*words):
        # main() changes both for its process
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        quiet = types.SimpleNamespace(simplefilter=lambda *args: None)
        monkeypatch.setattr(_app, "warnings", quiet)
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(sys, "argv", ["safetypin", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Ended(ended.value.code or 0, shown.out, shown.err)

    return run


@pytest.fixture
def refused(command, place, options, tmp_path):
    """Run an audit that must be refused before it writes anything; return what it said."""

    def run(*more, model="model", **changes):
        out = tmp_path / "out"
        name = place / model if (place / model).is_dir() else model
        ended = command("audit", name, *options(**changes), "--out", out, *more)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert not out.exists()
        assert "Traceback" not in ended.err
        return ended.text

    return run


@pytest.fixture(scope="session")
def halves(place, values, finished, tmp_path_factory):
    """Prompts with the answers that the audit kept, as files for `score`."""
    folder = tmp_path_factory.mktemp("calibrated")
    for name in ("safety", "utility"):
        shutil.copy(finished / f"calibration-{name}" / "prompts.jsonl", folder / f"{name}.jsonl")
    return folder


@pytest.fixture(scope="session")
def staged(place, halves, tmp_path_factory):
    """Folders of scores and of the set that is cut from them."""
    folder = tmp_path_factory.mktemp("staged")

    def run(*words):
        assert app([*map(str, words)], standalone_mode=False) in {None, 0}

    model = place / "model"
    for name in ("safety", "utility"):
        prompts = halves / f"{name}.jsonl"
        run("score", model, "--prompts", prompts, "--out", folder / name, "--quiet")
    shares = ("--q", "0.01", "--p", "0.01")
    run("select", folder / "safety", folder / "utility", *shares, "--out", folder / "set")
    run("prune", model, "--mask", folder / "set", "--out", folder / "pruned")
    return folder


@pytest.fixture
def evaluated(place, command, tmp_path):
    def run(*words, model="model", name="evaluation"):
        sources = {"harmful": "attack", "harmless": "harmless", "borderline": "borderline"}
        given = [
            word
            for option, kind in (sources | {"text": "text"}).items()
            for word in (f"--{option}", place / f"{kind}.jsonl")
        ]
        folder = place / model if isinstance(model, str) else model
        out = tmp_path / name
        tokens = ("--max-new-tokens", "10", "--batch-size", "6")
        ended = command("evaluate", folder, *given, *tokens, *words, "--out", out, "--quiet")
        return ended, out

    return run


@pytest.fixture(scope="session")
def nursery():
    """Real processes that run the command line."""
    with Nursery() as made:
        yield made
