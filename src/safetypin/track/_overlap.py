"""What is left of sets after a training: overlap of old and new, with all that it depends on.

An overlap says nothing alone. Beside it stand chance (two random sets of these sizes), the noise
floor (the same score of the same model from two halves of the prompts: no training at all), and
the overlap after a training in which nothing was frozen.
"""

import dataclasses
from collections.abc import Mapping

from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask
from safetypin.select import Overlap, overlap, overlap_by_layer, overlap_by_matrix, overlap_by_role
from safetypin.track._cells import Cell, level_of

Sets = Mapping[str, WeightMask]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverlapRow:
    """One group's old and new set in one part of the model.

    Attributes:
        group: Name of the group.
        layer: Number of the block; None for all, or outside the blocks.
        role: Place in the block; None for all.
        found: Sizes, shared number, share of the old set, Jaccard index, and chance.
        noise: The same of two halves of the prompts on the reference; None where not given.
        control: The same of the old set and that after the control training; None where not given.
    """

    group: str
    layer: int | None
    role: str | None
    found: Overlap
    noise: Overlap | None
    control: Overlap | None

    def to_json(self) -> dict[str, object]:
        """Return one flat row; values are None, not 0, for shares of nothing."""
        found = self.found
        share_ends = found.chance_share_interval or (None, None)
        jaccard_ends = found.chance_jaccard_interval or (None, None)
        row: dict[str, object] = {
            "level": level_of((self.layer, self.role)),
            "group": self.group,
            "layer": self.layer,
            "role": self.role,
            "num_weights": found.num_weights,
            "num_before": found.num_a,
            "num_after": found.num_b,
            "num_both": found.num_both,
            "share": found.share_of_a,
            "jaccard": found.jaccard,
            "chance_share": found.chance_share,
            "chance_share_low": share_ends[0],
            "chance_share_high": share_ends[1],
            "chance_jaccard": found.chance_jaccard,
            "chance_jaccard_low": jaccard_ends[0],
            "chance_jaccard_high": jaccard_ends[1],
        }
        for name, other in (("noise", self.noise), ("control", self.control)):
            row[f"{name}_share"] = None if other is None else other.share_of_a
            row[f"{name}_jaccard"] = None if other is None else other.jaccard
        return row


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverlapTable:
    """Old and new sets of every group, in all, by layer, by role and by matrix."""

    rows: tuple[OverlapRow, ...]

    def find(self, group: str, *, layer: int | None = None, role: str | None = None) -> OverlapRow:
        """Return one row.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.group, row.layer, row.role) == (group, layer, role):
                return row
        raise KeyError(f"no row of {group}, layer {layer}, role {role}")

    def to_rows(self) -> list[dict[str, object]]:
        """Return the rows as JSON values."""
        return [row.to_json() for row in self.rows]


def set_overlaps(
    before: Sets,
    after: Sets,
    noise: Mapping[str, tuple[WeightMask, WeightMask]] | None = None,
    *,
    control: Sets | None = None,
) -> OverlapTable:
    """Compare each group's set before a training with the set made anew after it.

    Args:
        before: Sets of the reference, by group.
        after: Sets of the tuned model, made in the same way, of the same groups.
        noise: By group the sets of two halves of the prompts on the reference: what overlap is
            left where nothing but the prompts changed.
        control: Sets after a training without a protection, by group.

    Raises:
        UserError: The groups differ.
        ArtifactMismatchError: The sets are of models of other shapes or in other coordinates.
    """
    if not before or before.keys() != after.keys():
        raise UserError(
            f"groups before are {', '.join(before) or 'none'}, after {', '.join(after) or 'none'}; "
            "make the same sets of both models"
        )
    rows = []
    for group, old in before.items():
        found = _parts(old, after[group])
        halves = _parts(*noise[group]) if noise and group in noise else {}
        other = _parts(old, control[group]) if control and group in control else {}
        rows += [
            OverlapRow(
                group=group,
                layer=part[0],
                role=part[1],
                found=value,
                noise=halves.get(part),
                control=other.get(part),
            )
            for part, value in found.items()
        ]
    return OverlapTable(rows=tuple(rows))


def _parts(old: WeightMask, new: WeightMask) -> dict[Cell, Overlap]:
    """Return the overlap in all, by layer, by role and by role of each layer."""
    renamed = _as_of(old, new)
    parts: dict[Cell, Overlap] = {(None, None): overlap(old, renamed)}
    for one in overlap_by_layer(old, renamed):
        if one.layer is not None:
            parts[one.layer, None] = one.overlap
    parts |= {(None, one.role): one.overlap for one in overlap_by_role(old, renamed)}
    for one in overlap_by_matrix(old, renamed):
        if one.layer is not None:
            parts[one.layer, one.role] = one.overlap
    return parts


def _as_of(old: WeightMask, new: WeightMask) -> WeightMask:
    """Return the new set as one of the old model: a tuned model is another one by its id.

    Raises:
        ArtifactMismatchError: Names or shapes differ, so one was not tuned from the other.
    """
    shapes = [{name: t.shape for name, t in mask.tensors.items()} for mask in (old, new)]
    if odd := [
        name
        for name in shapes[0].keys() | shapes[1].keys()
        if shapes[0].get(name) != shapes[1].get(name)
    ]:
        raise ArtifactMismatchError(
            f"{min(odd)} is not the same in {old.model_id} and {new.model_id}: one was not tuned "
            "from the other, or they were scored with different --targets"
        )
    return dataclasses.replace(new, model_id=old.model_id)
