"""The groups of weights whose drift is compared, and how they are made."""

from torch import nn

from safetypin.artifacts import UserError, WeightMask, WeightScores
from safetypin.select import matched_random, top_fractions

GROUPS = {
    "critical": "the safety-critical set: top q of the safety scores without the top p of utility",
    "top_safety": "the highest safety scores",
    "top_utility": "the highest utility scores",
    "random": "as many weights as critical in every matrix, drawn uniformly outside of it",
    "matched": "the same with the same sizes of weights, as far as there are such",
}


def with_controls(
    critical: WeightMask,
    model: nn.Module,
    *,
    top_safety: WeightMask | None = None,
    top_utility: WeightMask | None = None,
    seed: int = 0,
) -> dict[str, WeightMask]:
    """Return the groups of `GROUPS` from sets that are there already; tops may be left out.

    Args:
        critical: The set in question.
        model: The reference, whose weights the sets are of.
        top_safety: The top of the safety scores.
        top_utility: The top of the utility scores.
        seed: Of the random groups.

    Raises:
        UserError: A set is of other weights, empty, or so large that no control is left.
    """
    if not critical.num_selected:
        raise UserError("the safety-critical set is empty; take a larger q or a smaller p")
    given = {"critical": critical, "top_safety": top_safety, "top_utility": top_utility}
    groups = {name: mask for name, mask in given.items() if mask is not None}
    for mask in groups.values():
        critical.check_same_weights(mask)
    groups["random"] = matched_random(critical, model, seed=seed)
    groups["matched"] = matched_random(critical, model, seed=seed, match="magnitude")
    return groups


def groups_of_scores(
    safety: WeightScores,
    utility: WeightScores,
    model: nn.Module,
    *,
    q: float,
    p: float,
    top: float | None = None,
    group: str = "matrix",
    seed: int = 0,
) -> dict[str, WeightMask]:
    """Return the groups of `GROUPS` made of two scores of the reference.

    Args:
        safety: Scores on the safety prompts.
        utility: Scores on the utility prompts.
        model: The reference.
        q: Share of the safety scores that the critical set is taken from.
        p: Share of the utility scores that is left out of it.
        top: Share of the two top groups; q where it is not given.
        group: Where tops are taken: row, matrix, layer or model.
        seed: Of the random groups.

    Raises:
        UserError: As `top_fraction` and `with_controls` say.
    """
    share = q if top is None else top
    high = top_fractions(safety, [q, share], group=group)
    useful = top_fractions(utility, [p, share], group=group)
    return with_controls(
        high[q] - useful[p],
        model,
        top_safety=high[share],
        top_utility=useful[share],
        seed=seed,
    )
