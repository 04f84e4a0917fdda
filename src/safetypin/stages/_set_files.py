"""`safetypin select` and `prune`: from saved scores to a set, from a set to a model without it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from safetypin.artifacts import (
    PART,
    RunRecord,
    UserError,
    WeightMask,
    WeightScores,
    disk_errors,
    load,
    model_hash,
    payload_hashes,
    save,
)
from safetypin.intervene import pruned
from safetypin.models import load_model, model_id
from safetypin.select import (
    bottom_fraction,
    bottom_n_of_m,
    check_fraction,
    matched_random,
    parse_pattern,
    top_fraction,
    top_n_of_m,
    top_of_same_size,
)
from safetypin.stages._audit_set import load_set
from safetypin.stages._run import LOCK_FILE, environment
from safetypin.stages._score import SCORES_FILE
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._settings import check_choice

DRAWN = {"random": "count", "matched": "magnitude"}  # control: what it is matched on
TOPS = {"top_safety": "safety", "top_utility": "utility"}  # control: of which scores


def select_files(
    *,
    safety: Path,
    utility: Path | None,
    out: Path,
    q: float,
    p: float,
    group: str,
    pattern: str | None = None,
    safest: bool = False,
    control: str | None = None,
    seed: int = 0,
    model: str | None = None,
) -> RunRecord:
    """Cut a set from saved scores and save it, or the control of the same size beside it.

    Args:
        safety: Folder of the safety scores.
        utility: Folder of the utility scores; nothing is subtracted where None.
        out: Where to.
        q: Share of the safety top.
        p: Share of the utility top.
        group: row, matrix, layer or model.
        pattern: `N:M`, N of every M neighbouring inputs of a row, in place of the shares.
        safest: Take the lowest safety scores, not the highest.
        control: `random`, `matched`, `top_utility` or `top_safety`, as in an audit.
        seed: Of a random control.
        model: The model that was scored; a random control is drawn among its weights.

    Raises:
        UserError: Bad shares, scores of two models, or a control that cannot be made.
    """
    check_fraction(q)
    check_fraction(p)
    if control is not None:
        check_choice("control", control, (*DRAWN, *TOPS))
    folders = {"safety": safety} | ({"utility": utility} if utility else {})
    inputs: dict[str, Any] = {"q": q, "p": p if utility else None, "group": group}
    if pattern is not None:
        parse_pattern(pattern)
        inputs = {"pattern": pattern}
    inputs |= {"safest": True} if safest else {}
    scores: dict[str, WeightScores] = {}
    hashes: set[str] = set()
    for name, folder in folders.items():
        scores[name], record = _load_scores(folder)
        inputs[name] = record.files[SCORES_FILE]
        hashes |= set(record.result.get(PROMPT_HASHES, ()))
    mask = _cut(scores["safety"], q, group, pattern, lowest=safest)
    if utility:
        mask = mask - _cut(scores["utility"], p, group, pattern)
    if control in TOPS:
        if TOPS[control] not in scores:
            raise UserError("--control top_utility needs utility scores; give their folder too")
        mask = top_of_same_size(scores[TOPS[control]], mask)
    elif control:
        mask = matched_random(mask, _scored_model(model, mask), seed=seed, match=DRAWN[control])
        inputs["seed"] = seed
    inputs |= {"control": control, PROMPT_HASHES: sorted(hashes)}
    return save(mask, out, inputs=inputs, environment=environment())


def _cut(
    scores: WeightScores, share: float, group: str, pattern: str | None, *, lowest: bool = False
) -> WeightMask:
    if pattern is not None:
        cut = bottom_n_of_m if lowest else top_n_of_m
        return cut(scores, *parse_pattern(pattern))
    return (bottom_fraction if lowest else top_fraction)(scores, share, group=group)


def _load_scores(folder: Path) -> tuple[WeightScores, RunRecord]:
    """Return the scores in a folder, and their record."""
    inner = folder / "scores"
    folder = inner if inner.exists() else folder
    scores = load(folder)
    if not isinstance(scores, WeightScores):
        raise UserError(f"{folder} holds a set, not scores; make scores with `safetypin score`")
    return scores, RunRecord.read(folder)


def _scored_model(name: str | None, mask: WeightMask) -> Any:  # noqa: ANN401 - as load_model
    """Return the model that a set is of.

    Raises:
        UserError: None or another one was named.
    """
    if name is None:
        raise UserError(
            f"a random control is drawn among the model's weights; give --model, the one of "
            f"{mask.model_id}"
        )
    model = load_model(name, device="cpu")[0]
    if model_hash(identity := model_id(model)) != model_hash(mask.model_id):
        raise UserError(f"--model is {identity}, the scores are of {mask.model_id}; give that one")
    return model


def prune_files(
    *,
    model: str,
    mask: Path,
    out: Path,
    reference: str | None,
    any_model: bool,
    dtype: str,
    chosen_set: str | None = None,
) -> RunRecord:
    """Remove a set from a model and save the rest as a Hugging Face folder.

    Where `mask` is an audit, `chosen_set` names one of its sets; the verdict's where it is None.

    Raises:
        UserError: There is no set, it is of another model, or `out` is not empty or in use.
    """
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError(f"{out} is a file or not empty; choose another folder for the pruned model")
    loaded, tokenizer = load_model(model, dtype=dtype, device="cpu")
    identity = model_id(loaded)
    chosen = load_set(mask, chosen_set, identity, any_model=any_model)
    other = load_model(reference, dtype=dtype, device="cpu")[0] if reference else None
    start = time.monotonic()
    with _new_folder(out) as folder:
        with pruned(loaded, chosen, reference=other):
            # a name of the transformers cache must not stand in the saved config
            loaded.config.name_or_path = model
            loaded.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        names = [path.name for path in folder.iterdir() if path.name != LOCK_FILE]
        record = RunRecord(
            stage="prune",
            inputs={"model_id": identity, "mask": chosen.fingerprint, "reference": reference},
            result={"num_selected": chosen.num_selected, "fraction": chosen.fraction},
            files=payload_hashes(folder, names),
            seconds=round(time.monotonic() - start, 3),
            environment=environment(),
        )
        record.write(folder)
    return record


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that takes its name if the block ends well, else is removed.

    What a killed process left there is removed first.

    Raises:
        UserError: Another process is writing it.
    """
    scratch = out.with_name(f".{out.name}{PART}")
    with disk_errors(out):
        scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(scratch / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{out} is being written by another process; wait for it, or choose another --out"
            ) from error
        try:
            _empty(scratch)
            yield scratch
            (scratch / LOCK_FILE).unlink()
            if out.exists():
                out.rmdir()
            scratch.rename(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.release()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
