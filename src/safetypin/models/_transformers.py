"""What transformers and torch say when something is wrong, in words; and their silence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from safetypin.artifacts import UserError

NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory did not suffice; on a CPU torch has no class for it, only words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(
        words in str(error) for words in NO_MEMORY
    )


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what transformers raises for a missing model into words."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else repr(error)
        if reason.endswith(":"):  # torch puts what is wrong below it
            reason = " ".join(lines[:2])
        if "ignore_mismatched_sizes" in reason:  # the details went to a silenced log
            reason = "its weights have other shapes than its config.json says"
        raise UserError(
            f"the model {name!r} could not be loaded: {reason} - {_advice(name)}"
        ) from error


def _advice(name: str) -> str:
    if Path(name).is_dir():
        return "is the folder complete?"
    no_folder = f"there is no folder {name!r} here; for a model of the Hub, " if "/" in name else ""
    return (
        f"{no_folder}check the spelling and the network; a gated model needs `hf auth login`; "
        "a model that is already downloaded works offline with HF_HUB_OFFLINE=1"
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loading bars of transformers, which would tear our own progress bar."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
