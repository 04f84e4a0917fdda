"""The cells of a sweep: one change of the model each."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One method at one size.

    Attributes:
        method: Name of the method in the file.
        size: How much it removes, as the method writes it, such as `0.01` or `q0.01-p0.02`.
        seed: Of a random one.
        like: The cell whose size a random one has; None for a method that says its own.
    """

    method: str
    size: str
    seed: int | None = None
    like: str | None = None

    @property
    def id(self) -> str:
        """The cell's name, also of its folder."""
        name = f"{self.method}-{self.size}".replace(":", "of")
        return name if self.seed is None else f"{name}-s{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removed:
    """How much a cell takes out of the model.

    Attributes:
        unit: What is counted: weights, ranks or heads.
        count: How many.
        total: Of how many.
    """

    unit: str
    count: int
    total: int

    @property
    def share(self) -> float:
        """The share that is removed."""
        return self.count / self.total
