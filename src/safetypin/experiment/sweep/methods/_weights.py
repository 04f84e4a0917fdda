"""Methods that remove single weights, by their scores."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedModel

from safetypin.artifacts import UserError, WeightMask
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared
from safetypin.experiment.sweep.methods._method import Method, Removal, Scores
from safetypin.intervene import pruned
from safetypin.models import block_weights
from safetypin.scores import SCORERS, needs_reference
from safetypin.select import (
    GROUPS,
    bottom_fraction,
    matched_random,
    parse_pattern,
    top_fractions,
    top_n_of_m,
)
from safetypin.stages import check_choice, check_share, one_or_many, set_name

Pairs = tuple[tuple[float, float], ...]


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

    @property
    def needs_reference(self) -> bool:
        return self.remove == "reference" or needs_reference(self.score)

    def change(self, prepared: Prepared, size: str, cell: str) -> Removal:
        return self._without(prepared, prepared.mask(cell))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Removal:
        mask = prepared.mask(cell)
        kind: Any = match
        return self._without(prepared, matched_random(mask, prepared.model, seed=seed, match=kind))

    def _without(self, prepared: Prepared, mask: WeightMask) -> Removal:
        other = prepared.reference if self.remove == "reference" else None
        removed = Removed(unit="weights", count=mask.num_selected, total=mask.num_weights)
        return Removal(pruned(prepared.model, mask, reference=other), removed)


class Share(Weights):
    """The weights with the highest, or lowest, scores on the safety prompts.

    The lowest are those that are safest to remove: Wei et al. sec. 4.2 find that a model without
    them is attacked less easily.

    Attributes:
        shares: Of each group.
        which: `top` or `bottom`.
        group: row, matrix, layer or model.
    """

    GRID: ClassVar[frozenset[str]] = frozenset({"shares"})

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

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        _check_some(model, targets, self.group, self.shares)

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

    GRID: ClassVar[frozenset[str]] = frozenset({"grid"})

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

    @property
    def scored_on(self) -> tuple[str, ...]:
        return ("safety", "utility")

    @property
    def is_of_the_paper(self) -> bool:
        """Whether these are the sets of the paper's Table 6: by SNIP, in each matrix, removed."""
        return (self.score, self.group, self.remove) == ("snip", "matrix", "zero")

    def pair(self, size: str) -> tuple[float, float]:
        """Return (q, p) of a size."""
        return next(pair for pair in self.grid if _pair(*pair) == size)

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        _check_some(model, targets, self.group, [q for q, _ in self.grid])

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

    GRID: ClassVar[frozenset[str]] = frozenset({"patterns"})

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

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        for name, weight in block_weights(model, targets).items():
            for pattern in self.patterns:
                if weight.d_in % parse_pattern(pattern)[1]:
                    raise UserError(
                        f"the pattern {pattern} does not divide the {weight.d_in} inputs of {name}"
                    )

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        return {
            pattern: top_n_of_m(scores["safety"], *parse_pattern(pattern))
            for pattern in self.patterns
        }


def _check_shares(name: str, shares: Iterable[float]) -> None:
    for share in shares:
        check_share(name, share)


def _check_some(
    model: PreTrainedModel, targets: tuple[str, ...] | None, group: str, shares: Iterable[float]
) -> None:
    """Raise if a share of even the largest group is less than half a weight."""
    sizes: Counter[object] = Counter()
    for name, weight in block_weights(model, targets).items():
        kinds = {"row": name, "matrix": name, "layer": weight.layer, "model": None}
        whole = weight.weight.numel()
        one = {"row": weight.d_in, "matrix": weight.d_in * weight.d_out}
        sizes[kinds[group]] += one.get(group, whole)
    most = max(sizes.values())
    for share in shares:
        if not round(share * most):
            raise UserError(
                f"the share {share:g} selects no weight of any {group}, of {most} weights at most; "
                "take a larger one"
            )
