"""What a sweep can remove. A new kind is a class beside these and a line in KINDS.

Each kind says its sizes, what has to be made before, and how a cell changes the model; a change
is a context manager that puts everything back.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from transformers import PreTrainedModel

from safetypin.artifacts import NeuronSet, RankBasis, UserError, WeightMask, WeightScores
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared
from safetypin.intervene import heads_ablated, projected, pruned, removed_ranks
from safetypin.scores import SCORERS
from safetypin.select import (
    GROUPS,
    bottom_fraction,
    matched_random,
    parse_pattern,
    random_heads,
    top_fractions,
    top_heads,
    top_n_of_m,
)
from safetypin.stages import check_choice, check_share, one_or_many, set_name
from safetypin.subspaces import random_ranks

Change = AbstractContextManager[PreTrainedModel]
Scores = Mapping[str, WeightScores]  # by the prompts they are on: safety, utility
Rank = int | float
Pairs = tuple[tuple[float, float], ...]
RankPairs = tuple[tuple[Rank, Rank], ...]


class Method(BaseModel):
    """A method as the file says it.

    Attributes:
        about: What it is, in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""

    @property
    def sizes(self) -> list[str]:
        """Names of its sizes, in the order of the file."""
        raise NotImplementedError

    @property
    def scorer(self) -> str | None:
        """Which scores its sets are cut from."""
        return None

    @property
    def ranks(self) -> tuple[str, ...]:
        """On which prompts it needs ranks."""
        return ()

    @property
    def needs_heads(self) -> bool:
        """Whether it needs a probe on every attention head."""
        return False

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        """Return its sets by size, from scores on the safety and the utility prompts."""
        raise NotImplementedError

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        """Return the change of the model at a size."""
        raise NotImplementedError

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        """Return a random change of the same size."""
        raise NotImplementedError

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        """Return how much is taken out at a size."""
        raise NotImplementedError


class Weights(Method):
    """A method that removes single weights.

    Attributes:
        score: Name from `SCORERS`.
        remove: What stands in their place: `zero`, or the `reference` model's values.
    """

    score: str = "snip"
    remove: Literal["zero", "reference"] = "zero"

    @field_validator("score")
    @classmethod
    def _known(cls, value: str) -> str:
        check_choice("score", value, SCORERS)
        return value

    @property
    def scorer(self) -> str:
        return self.score

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        return self._without(prepared, prepared.mask(cell))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        mask = prepared.mask(cell)
        kind: Any = match
        return self._without(prepared, matched_random(mask, prepared.model, seed=seed, match=kind))

    def _without(self, prepared: Prepared, mask: WeightMask) -> Change:
        other = prepared.reference if self.remove == "reference" else None
        return pruned(prepared.model, mask, reference=other)

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        mask = prepared.mask(cell)
        return Removed(unit="weights", count=mask.num_selected, total=mask.num_weights)


class Share(Weights):
    """The weights with the highest, or lowest, scores on the safety prompts.

    The lowest are those that are safest to remove: Wei et al. sec. 4.2 find that a model without
    them is attacked less easily.

    Attributes:
        shares: Of each group.
        which: `top` or `bottom`.
        group: row, matrix, layer or model.
    """

    kind: Literal["share"]
    shares: tuple[float, ...] = Field(min_length=1)
    which: Literal["top", "bottom"] = "top"
    group: str = "matrix"

    _many = field_validator("shares", mode="before")(one_or_many)

    @model_validator(mode="after")
    def _check(self) -> "Share":
        _check_shares("shares", self.shares)
        check_choice("group", self.group, GROUPS)
        return self

    @property
    def sizes(self) -> list[str]:
        return [f"{share:g}" for share in self.shares]

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        safety, group = scores["safety"], self.group
        if self.which == "bottom":
            return {f"{s:g}": bottom_fraction(safety, s, group=group) for s in self.shares}
        masks = top_fractions(safety, self.shares, group=group)
        return {f"{share:g}": masks[share] for share in self.shares}


class Difference(Weights):
    """The top q of the safety scores minus the top p of the utility scores: S(q, p).

    Attributes:
        grid: Pairs (q, p).
        group: row, matrix, layer or model.
    """

    kind: Literal["difference"]
    grid: Pairs = Field(min_length=1)
    group: str = "matrix"

    @model_validator(mode="after")
    def _check(self) -> "Difference":
        _check_shares("grid", [share for pair in self.grid for share in pair])
        check_choice("group", self.group, GROUPS)
        return self

    @property
    def sizes(self) -> list[str]:
        return [_pair(q, p) for q, p in self.grid]

    def pair(self, size: str) -> tuple[float, float]:
        """Return (q, p) of a size."""
        return next(pair for pair in self.grid if _pair(*pair) == size)

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        qs, ps = ({pair[i] for pair in self.grid} for i in (0, 1))
        safety = top_fractions(scores["safety"], sorted(qs), group=self.group)
        utility = top_fractions(scores["utility"], sorted(ps), group=self.group)
        return {_pair(q, p): safety[q] - utility[p] for q, p in self.grid}


def _pair(q: float, p: float) -> str:
    return set_name("", q, p).removeprefix("-")


class Pattern(Weights):
    """N of every M neighbouring inputs of a row: those with the highest safety scores.

    Attributes:
        patterns: Each as `N:M`.
    """

    kind: Literal["pattern"]
    patterns: tuple[str, ...] = Field(min_length=1)

    _many = field_validator("patterns", mode="before")(one_or_many)

    @model_validator(mode="after")
    def _check(self) -> "Pattern":
        for pattern in self.patterns:
            parse_pattern(pattern)
        return self

    @property
    def sizes(self) -> list[str]:
        return list(self.patterns)

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        return {
            pattern: top_n_of_m(scores["safety"], *parse_pattern(pattern))
            for pattern in self.patterns
        }


class Ranks(Method):
    """The most, or least, important ranks of each matrix on the safety prompts (ActSVD).

    Attributes:
        remove: How many are removed of each matrix: numbers, or shares with a point.
        which: `top` or `bottom`.
    """

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

    def _options(self, size: str) -> dict[str, Any]:
        rank = next(rank for rank in self.remove if _rank(rank) == size)
        return {"rank": rank, "which": self.which}

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        return projected(prepared.model, prepared.ranks("safety"), **self._options(size))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        other = random_ranks(prepared.ranks("safety"), seed=seed)
        rank = self._options(size)["rank"]
        return projected(prepared.model, other, rank=rank)

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        return _ranks_removed(prepared.ranks("safety"), self._options(size))


class Projection(Method):
    """Of the top safety ranks what lies outside of the top utility ranks: (I - P_u) P_s W.

    Attributes:
        keep: Pairs (utility ranks that are kept, safety ranks that are taken): numbers, or shares
            with a point. In the paper's terms r_u and r_s are the full rank minus these.
    """

    kind: Literal["projection"]
    keep: RankPairs = Field(min_length=1)

    @property
    def ranks(self) -> tuple[str, ...]:
        return ("safety", "utility")

    @property
    def sizes(self) -> list[str]:
        return [f"u{_rank(u)}-s{_rank(s)}" for u, s in self.keep]

    def pair(self, size: str) -> tuple[Rank, Rank]:
        """Return the utility ranks that are kept and the safety ranks that are taken."""
        return next(p for p in self.keep if f"u{_rank(p[0])}-s{_rank(p[1])}" == size)

    def _options(self, prepared: Prepared, size: str) -> dict[str, Any]:
        u, s = self.pair(size)
        return {"rank": s, "utility": prepared.ranks("utility"), "keep_utility": u}

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        options = self._options(prepared, size)
        return projected(prepared.model, prepared.ranks("safety"), **options)

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        other = random_ranks(prepared.ranks("safety"), seed=seed)
        return projected(prepared.model, other, **self._options(prepared, size))

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        return _ranks_removed(prepared.ranks("safety"), self._options(prepared, size))


class Heads(Method):
    """The attention heads whose probes tell harmful prompts from harmless ones best.

    Attributes:
        heads: How many heads of the model are silenced.
    """

    kind: Literal["heads"]
    heads: tuple[int, ...] = Field(min_length=1)

    _many = field_validator("heads", mode="before")(one_or_many)

    @property
    def sizes(self) -> list[str]:
        return [str(count) for count in self.heads]

    @property
    def needs_heads(self) -> bool:
        return True

    def _set(self, prepared: Prepared, size: str) -> NeuronSet:
        return top_heads(prepared.head_scores, int(size), seed=prepared.seed)

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        return heads_ablated(prepared.model, self._set(prepared, size))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        other = random_heads(self._set(prepared, size), seed=seed)
        return heads_ablated(prepared.model, other)

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        total = sum(len(scores) for scores in prepared.head_scores.tensors.values())
        return Removed(unit="heads", count=int(size), total=total)


class Random(Method):
    """A control: as much as another method removes in each place, drawn at random.

    Attributes:
        like: Name of the method.
        match: What a drawn weight must share with one of the set: its matrix (`count`), or its
            matrix and size (`magnitude`).
        num_seeds: How many are drawn at each size.
        only: The sizes that are drawn; all where empty.
    """

    kind: Literal["random"]
    like: str
    match: Literal["count", "magnitude"] = "count"
    num_seeds: int = Field(default=3, ge=1)
    only: tuple[str, ...] = ()


def _check_shares(name: str, shares: Iterable[float]) -> None:
    for share in shares:
        check_share(name, share)


def _rank(rank: Rank) -> str:
    return f"{rank:g}" if isinstance(rank, int) else f"{100 * rank:g}%"


def _ranks_removed(safety: RankBasis, options: Mapping[str, Any]) -> Removed:
    found = removed_ranks(safety, **options)
    return Removed(unit="ranks", count=found.num_removed, total=found.num_ranks)


KINDS: dict[str, type[Method]] = {
    "share": Share,
    "difference": Difference,
    "pattern": Pattern,
    "ranks": Ranks,
    "projection": Projection,
    "heads": Heads,
    "random": Random,
}


def read_method(name: str, table: Mapping[str, Any]) -> Method:
    """Return a checked method of a file.

    Raises:
        UserError: Its kind or a key is unknown, or a value is wrong.
        pydantic.ValidationError: A value is of a wrong type.
    """
    kind = table.get("kind")
    if kind not in KINDS:
        raise UserError(f"[methods.{name}] has the kind {kind!r}; choose one of {', '.join(KINDS)}")
    return KINDS[kind](**table)
