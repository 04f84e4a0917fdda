"""The set of a fine-tuning run in its folder, of whichever kind; the one before comes back."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetypin.artifacts import PART, PromptSet, RunRecord, UserError
from safetypin.stages._run import discard
from safetypin.stages._series import Series
from safetypin.stages._share import linked
from safetypin.stages._subject import Subject
from safetypin.stages._tune_config import TuneConfig
from safetypin.stages._tune_set import Given, keep_given, make_set
from safetypin.stages._warp import STAGES, keep_basis
from safetypin.stages._warp_mask import make_rotated


def chosen_set(
    series: Series,
    config: TuneConfig,
    subject: Subject,
    sets: Mapping[str, PromptSet],
    given: Given | None,
) -> RunRecord | None:
    """Put the set that a run protects into its folder; None where it protects none.

    Args:
        series: The stages of the run.
        config: Its settings.
        subject: The model.
        sets: Prompts by name, to make a set on.
        given: The set that was made before, if it was.
    """
    if given is not None:
        if given.folder is not None:
            keep_basis(series, given.folder)
        return keep_given(series, config, subject, given)
    if config.makes_set and config.is_rotated:
        return make_rotated(series, config, subject, sets["safety"])
    if config.makes_set:
        return make_set(series, config, subject, sets)
    return None


@contextlib.contextmanager
def kept_if_refused(out: Path) -> Iterator[None]:
    """Put the set and its basis back where the block refuses to go on.

    Otherwise the set would be the new one beside a model that was trained under the old one.
    """
    names = [name for name in (*STAGES, "set") if (out / name / "run.json").exists()]
    kept = {name: out / f".{name}{PART}" for name in names}  # what a kill leaves is removed
    for name, path in kept.items():
        shutil.rmtree(path, ignore_errors=True)
        linked(out / name, path)
    try:
        yield
    except UserError:
        for name, path in kept.items():
            discard(out / name)
            path.rename(out / name)
        raise
    finally:
        for path in kept.values():
            shutil.rmtree(path, ignore_errors=True)
