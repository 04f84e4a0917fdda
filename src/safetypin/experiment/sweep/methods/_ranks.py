"""Methods that remove ranks: directions of what a matrix writes."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from transformers import PreTrainedModel

from safetypin.artifacts import Rank, RankBasis, UserError
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared
from safetypin.experiment.sweep.methods._method import Method, Removal
from safetypin.intervene import projected, removed_ranks
from safetypin.models import block_weights
from safetypin.stages import one_or_many
from safetypin.subspaces import random_ranks

RankPairs = tuple[tuple[Rank, Rank], ...]


class Ranks(Method):
    """The most, or least, important ranks of each matrix on the safety prompts (ActSVD).

    Attributes:
        remove: How many are removed of each matrix: numbers, or shares with a point.
        which: `top` or `bottom`.
    """

    GRID: ClassVar[frozenset[str]] = frozenset({"remove"})

    kind: Literal["ranks"]
    remove: tuple[Rank, ...] = Field(min_length=1)
    which: Literal["top", "bottom"] = "top"

    _many = field_validator("remove", mode="before")(one_or_many)

    @property
    def ranks(self) -> tuple[str, ...]:
        return ("safety",)

    @property
    def sizes(self) -> list[str]:
        return [_rank(rank) for rank in self.remove]

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        full = _check_ranks(model, targets, self.remove)
        for rank in self.remove:
            _check_some(f"rank {rank:g}", (_count(rank, most) for most in full.values()))

    def check_prepared(self, prepared: Prepared) -> None:
        for size in self.sizes:
            removed_ranks(prepared.ranks("safety"), **self._options(size))

    def _options(self, size: str) -> dict[str, Any]:
        rank = next(rank for rank in self.remove if _rank(rank) == size)
        return {"rank": rank, "which": self.which}

    def change(self, prepared: Prepared, size: str, cell: str) -> Removal:
        return _without(prepared, prepared.ranks("safety"), self._options(size))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Removal:
        rank = self._options(size)["rank"]
        return _without(prepared, _random(prepared, seed, rank), {"rank": rank})


class Projection(Method):
    """Of the top safety ranks what lies outside of the top utility ranks: (I - P_u) P_s W.

    Attributes:
        keep: Pairs (utility ranks that are kept, safety ranks that are taken): numbers, or shares
            with a point. In the paper's terms r_u and r_s are the full rank minus these.
    """

    GRID: ClassVar[frozenset[str]] = frozenset({"keep"})

    kind: Literal["projection"]
    keep: RankPairs = Field(min_length=1)

    @property
    def ranks(self) -> tuple[str, ...]:
        return ("safety", "utility")

    @property
    def sizes(self) -> list[str]:
        return [f"u{_rank(u)}-s{_rank(s)}" for u, s in self.keep]

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        full = _check_ranks(model, targets, [rank for pair in self.keep for rank in pair])
        for u, s in self.keep:
            counts = (min(_count(s, most), most - _count(u, most)) for most in full.values())
            _check_some(f"[{u:g}, {s:g}]", counts)

    def pair(self, size: str) -> tuple[Rank, Rank]:
        """Return the utility ranks that are kept and the safety ranks that are taken."""
        return next(p for p in self.keep if f"u{_rank(p[0])}-s{_rank(p[1])}" == size)

    def check_prepared(self, prepared: Prepared) -> None:
        for size in self.sizes:
            removed_ranks(prepared.ranks("safety"), **self._options(prepared, size))

    def _options(self, prepared: Prepared, size: str) -> dict[str, Any]:
        u, s = self.pair(size)
        return {"rank": s, "utility": prepared.ranks("utility"), "keep_utility": u}

    def change(self, prepared: Prepared, size: str, cell: str) -> Removal:
        return _without(prepared, prepared.ranks("safety"), self._options(prepared, size))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Removal:
        drawn = _random(prepared, seed, self.pair(size)[1])
        return _without(prepared, drawn, self._options(prepared, size))


def _check_ranks(
    model: PreTrainedModel, targets: tuple[str, ...] | None, ranks: Iterable[Rank]
) -> dict[str, int]:
    """Return the ranks that every matrix can have, by name."""
    weights = block_weights(model, targets).values()
    full = {w.name: min(w.d_in, w.d_out) for w in weights if w.layout != "experts"}
    if not full:
        raise UserError("no weight of the model has ranks; the experts of a mixture have none")
    name = min(full, key=lambda name: full[name])
    for rank in ranks:
        if not 0 < rank <= (1 if isinstance(rank, float) else full[name]):
            raise UserError(
                f"rank {rank:g} is not between 1 and {full[name]}, the rank that {name} can have; "
                "a share of every matrix's ranks has a point, such as 0.1"
            )
    return full


def _check_some(what: str, counts: Iterable[int]) -> None:
    if not any(counts):
        raise UserError(f"{what} removes no rank of any matrix; take a larger one")


def _count(rank: Rank, full: int) -> int:
    return round(rank * full) if isinstance(rank, float) else rank


def _rank(rank: Rank) -> str:
    return f"{rank:g}" if isinstance(rank, int) else f"{100 * rank:g}%"


def _random(prepared: Prepared, seed: int, rank: Rank) -> RankBasis:
    return random_ranks(prepared.ranks("safety"), seed=seed, model=prepared.model, rank=rank)


def _without(prepared: Prepared, ranks: RankBasis, options: Mapping[str, Any]) -> Removal:
    found = removed_ranks(ranks, **options)
    removed = Removed(unit="ranks", count=found.num_removed, total=found.num_ranks)
    return Removal(projected(prepared.model, ranks, **options), removed)
