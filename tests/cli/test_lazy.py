"""The list of commands is quick: nothing heavy is imported before a command runs."""

import subprocess
import sys

import pytest
import typer

import safetypin
from safetypin.cli import app
from safetypin.cli._lazy import HOMES

GROUP = typer.main.get_command(app)
HEAVY = ("torch", "transformers", "peft", "sklearn", "matplotlib", "safetypin.artifacts")


def modules_after(code):
    """Return which of the heavy modules a fresh process has imported."""
    ask = f"import sys; print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, check=True
    )
    return ended.stderr.split()


@pytest.mark.parametrize(
    "code",
    [
        "import safetypin",
        "import safetypin.cli",
        "from safetypin.cli import app; app(['--help'], standalone_mode=False)",
        "from safetypin.cli import app; app(['--version'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_for(code):
    assert modules_after(code) == []


@pytest.mark.parametrize("name", HOMES)
def test_the_list_says_of_a_command_what_its_own_help_says_first(name):
    command = GROUP.commands[name]
    first = (command.help or "").partition("\n")[0]
    assert HOMES[name][1] == first


def test_an_unknown_command_and_attribute_are_refused():
    assert GROUP.get_command(None, "adit") is None
    with pytest.raises(AttributeError, match="module 'safetypin' has no attribute 'adit'"):
        _ = safetypin.adit


def test_every_public_name_is_there_and_listed():
    for name in safetypin.__all__:
        assert getattr(safetypin, name) is not None
        assert name in dir(safetypin)
    assert safetypin.stages.EVENTS_FILE == "events.jsonl"


ORDERS = (
    "import safetypin as sp; assert callable(sp.audit)",
    "import safetypin.audit; import safetypin as sp; assert callable(sp.audit)",
    "from safetypin.audit import audit; import safetypin as sp; assert sp.audit is audit",
    "from safetypin import audit, snip; assert callable(audit) and callable(snip)",
    "import safetypin as sp; assert sp.snip is sp.scores.snip",
    "import safetypin as sp; assert len(sp.PromptSet.load('builtin-borderline'))",
    "import safetypin as sp; from safetypin import *; assert callable(wanda)",
)
# each in a process of its own, forked where what takes long to import is there already
FORKED = """
import os, sys, torch, transformers, peft, sklearn.linear_model
for code in sys.argv[1:]:
    if (child := os.fork()) == 0:
        assert "safetypin" not in sys.modules
        exec(code)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(code)
"""


def test_names_are_what_they_were_in_whatever_order_they_are_imported():
    command = [sys.executable, "-c", FORKED, *ORDERS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
