"""The groups of weights that are followed: given sets, or made from scores, and their controls."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    RunRecord,
    UserError,
    WeightMask,
    WeightScores,
    read_json,
    write_mask,
)
from safetypin.select import top_fraction
from safetypin.stages._audit_set import audit_folder, choose_set, known_sets
from safetypin.stages._overlaps import where
from safetypin.stages._run import Output
from safetypin.stages._sets import (
    check_origin,
    load_mask,
    mask_file,
    read_set,
    set_name,
)
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_source import Source
from safetypin.track import with_controls

# the sets that are cut again from the tuned model's scores
SETS = ("critical", "top_safety", "top_utility")
PREFIXES = ("before", "half-0", "half-1")  # of the sets by all prompts and by each half
DEFAULT_SHARE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Sets that were made before.

    Attributes:
        masks: By group; `critical` is among them.
        source: `audit`, `tune` or `folder` of `select`.
        path: Where they are.
        name: The critical set's name, None where it has none.
        shares: Its (q, p), None where they are not known.
    """

    masks: Mapping[str, WeightMask]
    source: str
    path: Path
    name: str | None
    shares: tuple[float, float] | None

    @property
    def about(self) -> dict[str, Any]:
        """Where the critical set comes from."""
        return {"source": self.source, "path": str(self.path), "name": self.name}


def given_groups(config: TrackConfig, source: Source, identity: str) -> Given | None:
    """Return the sets that `--groups` names, else the set that the run of `tune` held.

    Raises:
        UserError: There is none in the folder, it is empty, of another model, or of coefficients
            in a rotated basis and not of weights.
    """
    if config.groups is not None:
        folder = Path(config.groups)
        if not folder.is_dir():
            raise UserError(
                f"no folder {config.groups!r}; --groups takes a folder of `safetypin select`, of "
                "an audit or of a tune"
            )
        given = _in_folder(config, folder, identity)
    elif source.held is None:
        return None
    else:
        given = _of_tune(config, source.folder, identity)
    _check_followed(given)
    if not config.any_model:
        return given
    own = {name: dataclasses.replace(mask, model_id=identity) for name, mask in given.masks.items()}
    return dataclasses.replace(given, masks=own)


def _check_followed(given: Given) -> None:
    """Raise if the critical set is none of weights, or empty.

    Raises:
        UserError: It is.
    """
    mask = given.masks["critical"]
    if mask.space != "weights":
        raise UserError(
            f"the set in {given.path} is of coefficients in the basis {mask.space}, and `track` "
            "follows weights; leave --groups out to make a set from scores, or name a set of "
            "`safetypin select`, of an audit or of another tune"
        )
    if not mask.num_selected:
        raise UserError(f"the set in {given.path} is empty, so there is nothing to follow")


def _in_folder(config: TrackConfig, folder: Path, identity: str) -> Given:
    if (audit := audit_folder(folder)) is not None:
        given = _of_audit(config, audit)
        for mask in given.masks.values():
            check_origin(mask, folder, identity, any_model=config.any_model)
        return given
    if config.set is not None:
        raise UserError(f"--set chooses one of an audit's sets, but {folder} is no audit")
    if (folder / "set").is_dir():
        return _of_tune(config, folder, identity)
    mask = load_mask(folder, identity, any_model=config.any_model)
    inputs = RunRecord.read(folder).inputs
    q, p = inputs.get("q"), inputs.get("p")
    return Given(
        masks={"critical": mask},
        source="folder",
        path=folder,
        name=None,
        shares=None if q is None or p is None else (q, p),
    )


def _of_tune(config: TrackConfig, folder: Path, identity: str) -> Given:
    mask = load_mask(folder / "set", identity, any_model=config.any_model)
    name = RunRecord.read(folder / "set").result.get("name")
    return Given(
        masks={"critical": mask}, source="tune", path=folder, name=name, shares=_shares(name)
    )


def _of_audit(config: TrackConfig, folder: Path) -> Given:
    """Return the set of an audit's verdict, else the one that its report looks into."""
    known, found = known_sets(folder), read_json(folder / "metrics.json")
    looked_into = found["verdict"]["cell"] or (found["where"] or {}).get("cell")
    critical = [name for name in known if name.startswith("critical-")]
    name = choose_set(folder, config.set, critical, default=looked_into)
    masks = {"critical": read_set(folder / "sets", name)}
    for group in ("top_safety", "top_utility"):
        if (beside := name.replace("critical", group)) in known:
            masks[group] = read_set(folder / "sets", beside)
    return Given(masks=masks, source="audit", path=folder, name=name, shares=_shares(name))


def _shares(name: str | None) -> tuple[float, float] | None:
    """Return the (q, p) in the name of a set."""
    found = re.fullmatch(r"critical-q([\d.e-]+)-p([\d.e-]+)", name or "")
    return (float(found[1]), float(found[2])) if found else None


def shares_of(config: TrackConfig, given: Given | None) -> tuple[float, float]:
    """Return the (q, p) of the tops: as asked for, else the given set's, else 1 %."""
    own = given.shares if given and given.shares else (DEFAULT_SHARE, DEFAULT_SHARE)
    if config.q is None:
        return own[0], own[1] if config.p is None else config.p
    return config.q, config.q if config.p is None else config.p


def make_groups(
    folder: Path,
    subject: Subject,
    given: Given | None,
    scores: Mapping[str, Sequence[WeightScores]] | None,
    config: TrackConfig,
) -> Output:
    """Write every group, and what the overlaps need: the sets by the scores and by their halves.

    Args:
        folder: Where the masks go.
        subject: The reference.
        given: Sets that were made before; the critical one is taken from there.
        scores: Of the reference, `safety` and `utility`: on all prompts and on each half; None
            where none were made.
        config: Shares, group and seed.

    Raises:
        UserError: The critical set is empty, or too large for a random one beside it.
    """
    masks = dict(given.masks) if given else {}
    files, notes = [], list[str]()
    if scores is not None:
        for place, prefix in enumerate(PREFIXES):
            scored = critical_and_tops(
                *(
                    cut(scores[kind][place], share, config.top, config.group)
                    for kind, share in zip(SCORED, shares_of(config, given), strict=True)
                )
            )
            files += _write(folder, {f"{prefix}-{name}": mask for name, mask in scored.items()})
            if prefix == PREFIXES[0]:
                if given:
                    notes = _other_set(masks["critical"], scored["critical"])
                masks = {**scored, **{k: mask for k, mask in masks.items() if k == "critical"}}
    if not masks["critical"].num_selected:
        q, p = shares_of(config, given)
        raise UserError(
            f"the top {q:g} of the safety scores lies inside the top {p:g} of the utility scores, "
            "so there is nothing to follow; take a larger --q or a smaller --p"
        )
    groups = with_controls(model=subject.model, seed=config.seed, **masks)
    files += _write(folder, groups)
    passes = {
        kind: {"num_examples": pair[0].num_examples, "num_tokens": pair[0].num_tokens}
        for kind, pair in (scores or {}).items()
    }
    about = {name: _about(mask) for name, mask in groups.items()}
    return Output({"groups": about, "scores": passes, "notes": notes}, files)


def _other_set(given: WeightMask, scored: WeightMask) -> list[str]:
    """Return what must be said where a given set is not the one that the scores here give."""
    if given.fingerprint == scored.fingerprint:
        return []
    shared = (given & scored).num_selected
    return [
        f"the set that is followed was given, {given.num_selected:,} weights; the scores made here "
        f"choose {scored.num_selected:,}, of which {shared:,} are in it. Drift and scores are "
        "those of the given set, the overlap before and after is that of the chosen one"
    ]


def _write(folder: Path, masks: Mapping[str, WeightMask]) -> list[str]:
    for name, mask in masks.items():
        write_mask(folder / mask_file(name), mask)
    return [mask_file(name) for name in masks]


@dataclasses.dataclass(frozen=True)
class Tops:
    """The top of one score at the share of the critical set, and as it is followed by itself."""

    share: WeightMask
    followed: WeightMask


def cut(scores: WeightScores, share: float, top: float | None, group: str) -> Tops:
    """Return the top of one score at `share`, and at `top` where that is given."""
    at_share = top_fraction(scores, share, group=group)
    return Tops(at_share, at_share if top is None else top_fraction(scores, top, group=group))


def critical_and_tops(safety: Tops, utility: Tops) -> dict[str, WeightMask]:
    """Return the three sets that are compared, from the tops of the two scores."""
    return {
        "critical": safety.share - utility.share,
        "top_safety": safety.followed,
        "top_utility": utility.followed,
    }


def read_groups(folder: Path) -> dict[str, WeightMask]:
    """Read the groups of a finished folder."""
    return {name: read_set(folder, name) for name in RunRecord.read(folder).result["groups"]}


def read_sets_of(folder: Path, prefix: str) -> dict[str, WeightMask]:
    """Read the three sets that were written with a prefix, such as `before`."""
    return {name: read_set(folder, f"{prefix}-{name}") for name in SETS}


def _about(mask: WeightMask) -> dict[str, Any]:
    return {
        "num_selected": mask.num_selected,
        "num_weights": mask.num_weights,
        "fraction": mask.fraction,
        "fingerprint": mask.fingerprint,
        "where": where(mask),
    }


def name_of(given: Given | None, shares: tuple[float, float]) -> str:
    """Return what the critical set is called: of a given one without a name, its folder."""
    if given and not given.shares:
        return given.name or given.path.name
    return given.name if given and given.name else set_name("critical", *shares)
