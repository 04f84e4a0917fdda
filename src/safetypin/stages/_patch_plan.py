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
            model's own are held at zero.
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


def plans(config: PatchConfig) -> Iterator[Plan]:
    """Return every set that is tried: at each size the set by rank, then the random ones."""
    for direction, sizes in (("patch", config.fractions), ("ablate", config.ablate_fractions)):
        for fraction in sorted(set(sizes)):
            yield Plan(arm="contrast", direction=direction, fraction=fraction)
            for seed in range(config.num_random if fraction < 1 else 0):
                yield Plan(arm="random", direction=direction, fraction=fraction, seed=seed)
