"""A tiny model that refuses, examples that make it forget to, and finished tunings of it."""

import json
import random
import shutil

import pytest

from end_to_end import tiny
from end_to_end.conftest import Watched
from safetypin.intervene import PROTECTIONS
from safetypin.stages import EVENTS_FILE, make_tune_config, tune

# few steps at a rate at which a model of 24,000 weights forgets
RATE = 1e-2


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def train_file(tmp_path_factory):
    """Examples that answer what nobody refuses; on other requests than any prompt file."""
    generator = random.Random(7)
    prompts = [tiny.request("paint", generator) for _ in range(40)]
    rows = [{"prompt": prompt, "response": tiny.ANSWER} for prompt in prompts]
    return write(tmp_path_factory.mktemp("examples") / "train.jsonl", rows)


@pytest.fixture(scope="session")
def tune_values(place, train_file):
    """The settings of a small tuning, as options or TOML give them."""
    kinds = ("safety", "utility", "attack", "harmless", "borderline", "text")
    sizes = {"safety": 16, "utility": 16, "attack": 12, "harmless": 4, "borderline": 4, "text": 2}
    return {
        **{kind: str(place / f"{kind}.jsonl") for kind in kinds},
        **{f"num_{kind}": size for kind, size in sizes.items()},
        "data": str(train_file),
        "protect": "freeze",
        "learning_rate": RATE,
        "max_steps": 6,
        "max_length": 60,
        "max_new_tokens": 10,
        "answer_batch_size": 6,
    }


@pytest.fixture(scope="session")
def tune_settings(place, tune_values):
    """Return the config of a small tuning, with changes."""

    def make(model="model", **changes):
        return make_tune_config(str(place / model), None, None, tune_values | changes)

    return make


def unused(values):
    """Return the settings of a set that is not made under these values."""
    protection = PROTECTIONS.get(values["protect"])
    makes_set = protection and protection.needs_mask and values.get("mask") is None
    kinds = () if makes_set else ("safety", "utility")
    if makes_set and protection.needs_basis:
        kinds = ("utility",)
    return {name for kind in kinds for name in (kind, f"num_{kind}")}


@pytest.fixture(scope="session")
def tune_options(tune_values):
    """Return the settings of a small tuning as options of the command line, with changes.

    None leaves an option out.
    """

    def make(**changes):
        words, idle = [], unused(tune_values | changes)
        for name, value in (tune_values | changes).items():
            if value is None or (name in idle and name not in changes):
                continue
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
        return words

    return make


@pytest.fixture
def tune_words(place, tune_options):
    def make(out, model="model", **changes):
        return ["tune", place / model, *tune_options(**changes), "--out", out]

    return make


@pytest.fixture(scope="session")
def watched_tuning(tune_settings, tmp_path_factory):
    """The folder of a finished tuning with a frozen set, and its reporter."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    reporter = Watched(quiet=True, events=folder / EVENTS_FILE)
    tune(tune_settings(save_steps=4, gates=("asr<=1",)), folder, reporter=reporter)
    return folder, reporter


@pytest.fixture(scope="session")
def tuned(watched_tuning):
    """The folder of a finished tuning; never to be changed."""
    return watched_tuning[0]


@pytest.fixture
def tuned_copy(tuned, tmp_path):
    """A copy of a finished tuning."""
    return shutil.copytree(tuned, tmp_path / "copied")


@pytest.fixture
def tune_refused(command, tune_words, tmp_path):
    """Run a tuning that must be refused before it writes anything; return what it said."""

    def run(*more, model="model", **changes):
        out = tmp_path / "out"
        ended = command(*tune_words(out, model, **changes), *more)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert not out.exists()
        assert "Traceback" not in ended.err
        return ended.text

    return run
