"""A set that a command is given: a folder of `select`, or one of the sets of an audit."""

from pathlib import Path
from typing import NamedTuple

from safetypin.artifacts import RunRecord, UserError, WeightMask, read_json
from safetypin.stages._calibrate import read_calibration
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._sets import check_origin, load_mask, mask_file, read_set
from safetypin.stages._settings import nearest
from safetypin.stages._subject import SCORED


class AuditSet(NamedTuple):
    """One of an audit's sets, with its name there."""

    name: str
    mask: WeightMask


def audit_set(folder: Path, chosen: str | None) -> AuditSet:
    """Return one of an audit's sets: the one that is named, else the one of the verdict.

    Raises:
        UserError: There is no such set, or the verdict names none.
    """
    default = read_json(folder / "metrics.json")["verdict"]["cell"]
    name = choose_set(folder, chosen, known_sets(folder), default=default)
    return AuditSet(name, read_set(folder / "sets", name))


def known_sets(folder: Path) -> list[str]:
    """Return the names of an audit's sets; verifies every file."""
    files = RunRecord.read(folder / "sets").files
    return [name.removesuffix(mask_file("")) for name in files if name.endswith(mask_file(""))]


def choose_set(folder: Path, chosen: str | None, known: list[str], *, default: str | None) -> str:
    """Return the full name of the set that `--set` names (q0.01-p0.01 is a critical one).

    Raises:
        UserError: There is no such set among the known ones, or none was chosen by default.
    """
    given = default if chosen is None else chosen.replace("_p", "-p")
    if given is None:
        raise UserError(
            f"the verdict of the audit in {folder} names no set; choose one with --set: "
            f"{', '.join(known)}"
        )
    name = f"critical-{given}" if given.startswith("q") else given
    if name not in known:
        raise UserError(
            f"the audit in {folder} has no set {chosen or name!r}{nearest(name, known)}; choose "
            f"one with --set: {', '.join(known)}"
        )
    return name


def audit_folder(folder: Path) -> Path | None:
    """Return the audit whose folder, or whose folder of sets, this is; None where it is neither."""
    if (folder / "sets" / "run.json").exists():
        return folder
    folder = folder.resolve()
    is_sets = folder.name == "sets" and (folder / "run.json").exists()
    return folder.parent if is_sets and RunRecord.read(folder).stage == "sets" else None


def load_set(folder: Path, chosen: str | None, identity: str, *, any_model: bool) -> WeightMask:
    """Return the set that `--mask` and `--set` name, if it is of the model.

    Raises:
        ArtifactMismatchError: It is of another model and `any_model` is not set.
        UserError: There is no such set.
    """
    audit = audit_folder(folder)
    if audit is None:
        if chosen is not None:
            raise UserError(f"--set chooses one of an audit's sets, but {folder} is no audit")
        return load_mask(folder, identity, any_model=any_model)
    mask = audit_set(audit, chosen).mask
    check_origin(mask, folder, identity, any_model=any_model)
    return mask


def scored_hashes(folder: Path) -> frozenset[str]:
    """Return the hashes of what a set was found on, as far as its folder tells."""
    audit = audit_folder(folder)
    if audit is None:
        return frozenset(RunRecord.read(folder).inputs.get(PROMPT_HASHES, ()))
    hashes: set[str] = set()
    for name in SCORED:
        calibration = audit / f"calibration-{name}"
        if calibration.is_dir():
            RunRecord.read(calibration)  # verifies the file
            hashes |= set(read_calibration(calibration, name).text_hashes)
    return frozenset(hashes)
