"""The sets that a patching run tries."""

import dataclasses
from collections.abc import Iterator

from safetypin.stages._patch_config import PatchConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One set that is put into one model.

    Attributes:
        arm: `contrast` or `random`.
        direction: `patch`, the reference model takes the model's activations; or `ablate`, the
            model's own are held at zero or a mean, or are the reference's.
        fraction: Share of all units that was asked for.
        seed: Of a random set.
    """

    arm: str
    direction: str
    fraction: float
    seed: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        drawn = "" if self.seed is None else f"-{self.seed}"
        return f"{self.direction}-{self.arm}-{self.fraction:g}{drawn}"


def plans(config: PatchConfig, own: float | None = None) -> Iterator[Plan]:
    """Return every set that is tried: at each size the set by rank, then the random ones.

    Args:
        config: Names the sizes.
        own: Share of a set without a ranking, which takes the place of every size but the whole.
    """
    for direction, asked in (("patch", config.fractions), ("ablate", config.ablate_fractions)):
        sizes = asked if own is None else [size if size == 1 else own for size in asked]
        for fraction in sorted(set(sizes)):
            yield Plan(arm="contrast", direction=direction, fraction=fraction)
            for seed in range(config.num_random if fraction < 1 else 0):
                yield Plan(arm="random", direction=direction, fraction=fraction, seed=seed)
