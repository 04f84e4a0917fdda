"""Cut sets from scores: S(q, p), the top q of safety minus the top p of utility."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetypin.artifacts import (
    ArtifactMismatchError,
    UserError,
    WeightMask,
    WeightScores,
    load,
    model_hash,
    read_mask,
    write_mask,
)
from safetypin.select import top_of_same_size
from safetypin.stages._overlaps import overlap_of_tops, where
from safetypin.stages._run import Output
from safetypin.stages._tops import packed_mask, packed_tops


def set_name(arm: str, q: float, p: float) -> str:
    """Return the name of a set, such as `critical-q0.01-p0.01`."""
    return f"{arm}-q{q:g}-p{p:g}"


def cut_sets(
    folder: Path,
    safety: WeightScores,
    utility: WeightScores,
    grid: Sequence[tuple[float, float]],
    *,
    group: str,
    overlap_fraction: float,
    halves: Mapping[str, Sequence[Path]],
    tops: Sequence[str],
    with_random: bool,
) -> Output:
    """Write every critical set, and beside it the tops of one score of the same size.

    The tops are held as bits and the sets made one at a time, so that beside the model memory
    holds about four bytes a weight, as long as tops are not taken over the whole model.

    Args:
        folder: Where the masks go, one file a set.
        safety: Scores on the safety prompts.
        utility: Scores on the utility prompts.
        grid: The (q, p) of each set.
        group: Where tops are taken: row, matrix, layer or model.
        overlap_fraction: A share whose safety and utility tops are compared, beside every q.
        halves: For `safety` and `utility` the files of the tops of that share on two halves of
            the prompts; empty for scores that know no prompts, which have no noise floor.
        tops: Which tops of equal size to write: `top_utility`, `top_safety`.
        with_random: Whether random sets of the same sizes will be drawn later.

    Raises:
        UserError: A set is too large for a random one beside it, or the tops to compare are empty.
    """
    compared = {q for q, _ in grid} | {overlap_fraction}
    top_safety = packed_tops(safety, compared, group=group)
    top_utility = packed_tops(utility, compared | {p for _, p in grid}, group=group)
    if not top_safety[overlap_fraction].num_selected:
        raise UserError(
            f"overlap_fraction {overlap_fraction:g} selects no weight of any {group}; "
            "take a larger one"
        )
    sources = {"top_utility": utility, "top_safety": safety}
    files, sets = [], {}
    for q, p in grid:
        critical = top_safety[q] - top_utility[p]
        name = set_name("critical", q, p)
        if with_random:
            _check_room(name, critical)
        files.append(mask_file(name))
        write_mask(folder / mask_file(name), critical)
        beside = {}
        for arm in tops if critical.num_selected else ():
            files.append(mask_file(set_name(arm, q, p)))
            top = top_of_same_size(sources[arm], critical)
            write_mask(folder / files[-1], top)
            beside[arm] = top.fingerprint
        sets[name] = {
            "q": q,
            "p": p,
            "num_selected": critical.num_selected,
            "num_weights": critical.num_weights,
            "fingerprint": critical.fingerprint,
            "tops": beside,
            "where": where(critical),
        }
    halved = {
        name: [packed_mask(read_mask(path)) for path in paths] for name, paths in halves.items()
    }
    overlaps = [
        # the tops of the halves were kept at the one share alone
        overlap_of_tops(share, top, top_utility[share], halved if share == overlap_fraction else {})
        for share, top in top_safety.items()
        if top.num_selected
    ]
    return Output({"sets": sets, "overlap": overlaps}, files)


def _check_room(name: str, mask: WeightMask) -> None:
    """Raise, before anything is evaluated, if a random set beside this one could not be drawn.

    Raises:
        UserError: The set holds more than half of a matrix.
    """
    for weight, members in mask.tensors.items():
        shares = members.reshape(-1, members.shape[-2] * members.shape[-1]).float().mean(dim=1)
        if float(shares.max()) > 0.5:
            raise UserError(
                f"{name} holds {float(shares.max()):.0%} of {weight}, so no other set of its size "
                "is left as a control; take a smaller q, or --controls without random and matched"
            )


def mask_file(name: str) -> str:
    """Return the file name of a set."""
    return f"{name}.mask.safetensors"


def read_set(folder: Path, name: str) -> WeightMask:
    """Read one set of a `cut_sets` folder."""
    return read_mask(folder / mask_file(name))


def load_mask(folder: Path, identity: str, *, any_model: bool) -> WeightMask:
    """Return the set in a folder, if it is of the model.

    Raises:
        ArtifactMismatchError: It is of another model and `any_model` is not set.
    """
    mask = load(folder)
    if not isinstance(mask, WeightMask):
        raise UserError(f"{folder} holds scores, not a set; make one with `safetypin select`")
    check_origin(mask, folder, identity, any_model=any_model)
    return mask


def check_origin(mask: WeightMask, folder: Path, identity: str, *, any_model: bool) -> None:
    """Raise unless a set is of the model, or may be of any.

    Raises:
        ArtifactMismatchError: It is of another model and `any_model` is not set.
    """
    if not any_model and model_hash(mask.model_id) != model_hash(identity):
        raise ArtifactMismatchError(
            f"the set in {folder} is of {mask.model_id}, the model is {identity}; "
            "--any-model uses it all the same if the shapes are equal"
        )
