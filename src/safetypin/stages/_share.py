"""Take finished stages of one run folder into another, which skips those with the same inputs.

Runs of one experiment begin alike: the same answers of the same model before any training, the same
scores, the same groups. A stage checks inputs and hashes of what it finds, so a stage that differs
is simply computed.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetypin.stages._run import PARTIAL_FILE


def share_stages(source: Path, target: Path, names: Iterable[str]) -> list[str]:
    """Give `target` those stages that are finished in `source` and not there yet.

    Files are linked where the disk can, else copied. A finished stage is only ever replaced as a
    whole, so a link never changes under the other folder.

    Returns:
        The names of what was taken.
    """
    taken = []
    for name in names:
        wanted = target / name
        made = source / name
        is_done = (made / "run.json").exists() and not (made / PARTIAL_FILE).exists()
        if wanted.exists() or not is_done:
            continue
        part = target / f"{name}.linked"
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        linked(made, part)
        part.rename(wanted)
        taken.append(name)
    return taken


def linked(source: Path, target: Path) -> None:
    """Copy a finished stage; its files are linked where the disk can."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
    return target
