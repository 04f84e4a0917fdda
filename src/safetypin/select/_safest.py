"""The other direction: the weights that a model's safety needs least.

Wei et al. 2024 (arXiv:2402.05162), sec. 4.3 and app. E: removing the least safety-relevant weights
or ranks leaves the ASR as it is or lowers it, where removing the least useful ones raises it.
"""

from safetypin.artifacts import WeightMask, WeightScores
from safetypin.select._top import bottom_fraction, top_fraction


def safest_to_remove(
    safety: WeightScores,
    utility: WeightScores | None = None,
    *,
    q: float,
    p: float = 0.0,
    group: str = "matrix",
) -> WeightMask:
    """Select the bottom q of the safety scores, but for the top p of the utility scores.

    Args:
        safety: Scores on safety prompts.
        utility: Scores on utility prompts; nothing is left alone where None.
        q: Share of each group with the lowest safety scores, in [0, 1].
        p: Share of each group with the highest utility scores.
        group: As in `top_fraction`.

    Raises:
        UserError: A share is outside [0, 1], or a score is not valid.
        ArtifactMismatchError: The scores are of different weights.
    """
    lowest = bottom_fraction(safety, q, group=group)
    return lowest if utility is None else lowest - top_fraction(utility, p, group=group)
