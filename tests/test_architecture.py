"""The promises of the house that no other test sees: who imports whom, sizes, names, files."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import safetypin as sp

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "safetypin"
MODULES = {
    path.relative_to(SOURCE).with_suffix("").as_posix(): path for path in SOURCE.rglob("*.py")
}
MAX_FILE, MAX_FUNCTION = 300, 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Whoever else opens a file, and what kind; artifacts are opened by the first two only.
OPENERS = {
    "artifacts/_files": "everything: atomic and hashed",
    "artifacts/_store": "safetensors, one tensor at a time",
    "artifacts/_tensor_file": "safetensors that are filled in place, through `replacing`",
    "prompts/_read": "prompt files of the user",
    "prompts/_named": "prompt sets of this and of other packages",
    "stages/_settings": "the user's TOML",
    "experiment/_file": "the user's TOML",
    "artifacts/_foreign": "files of torch.save, tensors only",
    "report/_read": "metrics.json of a run folder",
    "report/_html": "the page, through artifacts' `replacing`; its own template",
    "stages/_calibrate": "the calibration prompts, whose hash is in run.json",
    "stages/_pair": "/proc/meminfo",
    "stages/_run": "the mark of a stage's inputs, which is no artifact",
}
OPENING = {
    "open", "read_text", "write_text", "read_bytes", "write_bytes",
    "safe_open", "save_file", "load_file", "load", "save",
}  # fmt: skip
OURS = {"write_text"}  # safetypin.artifacts has one of this name, which is the way to write


def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def test_there_is_something_to_check():
    assert {"__init__", "artifacts/_files", "cli/_app"} <= MODULES.keys()


def test_the_import_contracts_hold():
    run = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    answer = subprocess.run(
        [sys.executable, "-c", run],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " kept, 0 broken" in answer.stdout


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_is_longer_than_a_few_screens(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_FILE


def code_lines(function, lines):
    """Return the lines of a function's body, without docstring, comments and empty lines."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    texts = (lines[number - 1].strip() for number in range(body[0].lineno, function.end_lineno + 1))
    return sum(bool(text) and not text.startswith("#") for text in texts)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_function_is_longer_than_a_screen(module):
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    found = {
        node.name: code_lines(node, lines)
        for node in ast.walk(tree_of(module))
        if isinstance(node, FUNCTIONS)
    }
    assert {name: size for name, size in found.items() if size > MAX_FUNCTION} == {}


# reads what others pickled, tensors only; needs the name of pickle's error
FOREIGN = "artifacts/_foreign"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {FOREIGN}))
def test_no_module_unpickles(module):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            names.add(str(getattr(node, "module", "")).partition(".")[0])
            assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}
            assert node.attr != "allow_pickle"


def test_foreign_pickles_are_read_with_tensors_only():
    loads = [
        {word.arg: ast.unparse(word.value) for word in node.keywords}
        for node in ast.walk(tree_of(FOREIGN))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load")
    ]
    assert loads == [{"map_location": "'cpu'", "weights_only": "True"}]
    imported = [n for n in ast.walk(tree_of(FOREIGN)) if isinstance(n, ast.ImportFrom)]
    from_pickle = [alias.name for n in imported if n.module == "pickle" for alias in n.names]
    assert from_pickle == ["UnpicklingError"]


def opens_a_file(call):
    """Tell whether a call opens a file: a function of the builtins or a method of a path."""
    if isinstance(call.func, ast.Name):
        return call.func.id in OPENING - OURS - {"load", "save"}
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in OPENING:
        return False
    owner = call.func.value
    if isinstance(owner, ast.Name) and owner.id in {"json", "tomllib", "torch", "numpy", "np"}:
        return True
    return call.func.attr not in {"load", "save"}


def test_nobody_else_opens_files():
    found = {
        module
        for module in MODULES
        if any(isinstance(n, ast.Call) and opens_a_file(n) for n in ast.walk(tree_of(module)))
    }
    assert found <= OPENERS.keys()


def test_only_artifacts_know_safetensors_files():
    names = {"safe_open", "save_file", "load_file", "safetensors.torch"}
    found = {
        module
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom)
        and (node.module in names or names & {alias.name for alias in node.names})
    }
    assert found == {"artifacts/_files", "artifacts/_store"}


def test_public_names_are_sorted_once_and_there():
    def place(name):  # constants, then classes, then functions, as ruff sorts them
        return (not name.isupper(), not name[0].isupper(), name)

    assert sp.__all__ == sorted(set(sp.__all__), key=place)
    assert [name for name in sp.__all__ if not hasattr(sp, name)] == []
    assert set(sp.__all__) <= set(dir(sp))


@pytest.mark.parametrize("name", sp.__all__)
def test_a_public_name_is_documented(name):
    value = getattr(sp, name)
    if name.isupper():
        assert all(inspect.getdoc(entry) for entry in value.values())
        return
    text = value.__doc__ or ""
    # a dataclass without docstring is given its signature for one
    assert len(text.split()) > 3
    assert not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", [name for name in sp.__all__ if not name.isupper()])
def test_the_arguments_of_a_public_function_are_typed(name):
    value = getattr(sp, name)
    if inspect.isclass(value):
        return
    signature = inspect.signature(value)
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter.name


@pytest.mark.parametrize("room", ["artifacts", "evaluate", "intervene", "models", "prompts",
                                  "scores", "select", "stages"])  # fmt: skip
def test_a_room_names_what_it_shows(room):
    module = __import__(f"safetypin.{room}", fromlist=["x"])
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)
