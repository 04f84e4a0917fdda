"""Find checkpoints: of a tune run, of the Trainer, of anyone. Half-written ones are left out.

Whether a checkpoint is whole is told by its own files: every file can be opened (a header that
promises more bytes than there are cannot), every shard of an index is there, and the Trainer wrote
the last of its files.
"""

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from safetypin.artifacts import UserError, payload_hashes
from safetypin.track._state import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    INDEX,
    PICKLES,
    WEIGHTS,
    NotWholeError,
    read_adapter,
    read_settings,
    read_state,
)

Kind = Literal["full", "peft"]
Tell = Callable[[str], None]

SAVING = ".saving"  # where `safetypin tune` has a checkpoint until it is whole
RECORD = "run.json"
TRAINER_STATE = "trainer_state.json"  # what the Trainer writes last
TRAINER_OTHERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state*.pth")
_STEP = re.compile(r"(?:^|\D)(\d+)$")
_CALLED_STEP = re.compile(r"(?i)(?:checkpoint|ckpt|step|epoch|iter)\w*?[-_]?\d+$")
_MODEL_FILES = (CONFIG, WEIGHTS, INDEX, ADAPTER_CONFIG, ADAPTER, *PICKLES, "*.safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of one moment of a training.

    Attributes:
        step: Optimizer steps since the start; 0 where nothing tells, as in a lone model folder.
        path: Its folder.
        kind: "full", all weights; or "peft", an adapter.
    """

    step: int
    path: Path
    kind: Kind


def checkpoints(folder: Path, *, tell: Tell = warnings.warn) -> list[Checkpoint]:
    """Return the whole checkpoints of a folder, by step.

    The folder may be what `safetypin tune` left, the folder of its checkpoints, the output folder
    of a Trainer, any folder with subfolders such as `checkpoint-500` or `step_500`, or one model
    or adapter folder. A final model beside the checkpoints is the last of them; a checkpoint of
    the same step is then left out, as the final model is what the training gave.

    Args:
        folder: Where to look.
        tell: Called with a sentence on each checkpoint that is left out because it is not whole.

    Raises:
        UserError: There is no folder, no checkpoint in it, or none that is whole.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a run of `safetypin tune` or checkpoints")
    found: list[Checkpoint] = []
    faults: list[str] = []
    numbered = _numbered(folder)
    for path, step in numbered:
        try:
            check_ended(path)
            found.append(Checkpoint(step=step, path=path, kind=check_whole(path)))
        except NotWholeError as error:
            faults.append(f"{path} is left out, as it is not whole: {error}")
    final = _final(folder)
    if final is not None:
        try:
            last = Checkpoint(step=_last_step(final, numbered), path=final, kind=check_whole(final))
            found = [*(one for one in found if one.step != last.step), last]
        except NotWholeError as error:
            faults.append(f"{final} is left out, as it is not whole: {error}")
    if not found:
        raise UserError(_nothing(folder, faults))
    for fault in faults:
        tell(fault)
    return sorted(found, key=lambda one: (one.step, one.path.name))


def as_checkpoint(folder: Path) -> Checkpoint:
    """Return one model or adapter folder as a checkpoint.

    Raises:
        UserError: It is none, or not whole.
    """
    if not folder.is_dir() or not _holds_model(folder):
        raise UserError(f"{folder} holds neither a model nor an adapter")
    try:
        return Checkpoint(step=_trainer_step(folder) or 0, path=folder, kind=check_whole(folder))
    except NotWholeError as error:
        raise UserError(f"{folder} is not whole: {error}") from error


def check_whole(folder: Path) -> Kind:
    """Return the kind of a checkpoint, after opening all of its files.

    Raises:
        NotWholeError: A file is missing or cut short.
    """
    if (folder / ADAPTER_CONFIG).exists():
        read_settings(folder / ADAPTER_CONFIG)
        read_adapter(folder)
        return "peft"
    if (folder / ADAPTER).exists():
        raise NotWholeError(f"it has {ADAPTER} but no {ADAPTER_CONFIG}")
    read_state(folder)
    return "full"


def check_ended(folder: Path) -> None:
    """Raise if a training began to write a checkpoint and did not end it, or it changed since.

    Raises:
        NotWholeError: It was being saved, its last file is missing, or a file is not what it was.
    """
    if folder.parent.name == SAVING or folder.name.startswith(("tmp-", ".")):
        raise NotWholeError("it was being saved when the training stopped")
    others = [path.name for name in TRAINER_OTHERS for path in folder.glob(name)]
    if others and not (folder / TRAINER_STATE).exists():
        raise NotWholeError(f"it has {others[0]} but no {TRAINER_STATE}, which is written last")
    if (folder / TRAINER_STATE).exists():
        read_settings(folder / TRAINER_STATE)
    if (folder / RECORD).exists():  # of `safetypin tune`
        record = read_settings(folder / RECORD)
        hashes = record["files"] if "schema" in record else {}
        for name in [name for name in hashes if name.endswith((".safetensors", ".json"))]:
            if not (folder / name).exists():
                raise NotWholeError(f"its {name} is missing")
            if payload_hashes(folder, [name])[name] != hashes[name]:
                raise NotWholeError(f"its {name} changed since it was written")


def _holds_model(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _MODEL_FILES)


def _numbered(folder: Path) -> list[tuple[Path, int]]:
    """Return the subfolders that are checkpoints by their names or files, with their steps."""
    places = [folder, folder / "checkpoints", folder / "training" / "checkpoints"]
    places += [place / SAVING for place in places]
    found = []
    for path in (path for place in places if place.is_dir() for path in sorted(place.iterdir())):
        name = _STEP.search(path.name)
        if not path.is_dir() or name is None:
            continue
        if _CALLED_STEP.search(path.name) or _holds_model(path):
            found.append((path, _trainer_step(path) or int(name[1])))
    return found


def _final(folder: Path) -> Path | None:
    """Return the folder of the model that a training gave in the end."""
    for path in (folder / "training" / "model", folder / "model", folder):
        if path.is_dir() and _holds_model(path):
            return path
    return None


def _last_step(final: Path, numbered: list[tuple[Path, int]]) -> int:
    """Return the step of a final model: its own, else the length of the training, else 0."""
    own = _trainer_step(final)
    if own is not None or not numbered:
        return own or 0
    newest = max(numbered, key=lambda item: item[1])
    return max(_trainer_step(newest[0], "max_steps") or 0, newest[1])


def _trainer_step(folder: Path, key: str = "global_step") -> int | None:
    """Return a step that the Trainer noted, None where it noted none."""
    if not (folder / TRAINER_STATE).exists():
        return None
    try:
        step = read_settings(folder / TRAINER_STATE).get(key)
    except NotWholeError:  # told of by `check_ended`
        return None
    return step if isinstance(step, int) else None


def _nothing(folder: Path, faults: list[str]) -> str:
    if faults:
        return f"no checkpoint in {folder} is whole: {'; '.join(faults)}"
    return (
        f"no checkpoint in {folder}: it holds no model or adapter and no folders such as "
        "checkpoint-500; give the folder of a run of `safetypin tune`, of checkpoints that a "
        "training left with --save-steps, or of a model"
    )
