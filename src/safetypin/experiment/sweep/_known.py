"""What Wei et al. 2024 (arXiv:2402.05162) report for Llama-2-7B-chat, to stand beside a result.

Tables 6 and 7 of the paper, as gathered in the project's study of it: attack success vanilla, with
adversarial suffixes, with adversarial decoding, and mean accuracy over six zero-shot tasks.
"""

from pathlib import PurePath
from typing import NamedTuple

from safetypin.artifacts import Rank
from safetypin.models import split_revision

MODELS = ("llama-2-7b-chat", "llama-2-7b-chat-hf")  # a fine-tune has them in a longer name


class Known(NamedTuple):
    """A row of the paper; `share` is of the weights, None where ranks are removed."""

    share: float | None
    vanilla: float
    suffix: float | None
    decoding: float | None
    accuracy: float


UNTOUCHED = Known(0.0, 0.0, None, None, 0.58)
WIDTH = 4096  # of the model's hidden states: the paper's r is what is left of it
# by (q, p): the top q of safety minus the top p of utility
DIFFERENCE: dict[tuple[Rank, Rank], Known] = {
    (0.01, 0.01): Known(0.0063, 0.10, 0.97, 0.86, 0.54),
    (0.01, 0.02): Known(0.0046, 0.06, 0.94, 0.84, 0.55),
    (0.02, 0.03): Known(0.0094, 0.21, 0.97, 0.89, 0.55),
    (0.02, 0.04): Known(0.0078, 0.09, 0.97, 0.88, 0.56),
    (0.03, 0.07): Known(0.0086, 0.06, 0.97, 0.89, 0.58),
    (0.04, 0.04): Known(0.0203, 0.81, 0.97, 0.92, 0.51),
    (0.05, 0.05): Known(0.0241, 0.92, 0.97, 0.95, 0.51),
    (0.05, 0.06): Known(0.0210, 0.70, 0.99, 0.91, 0.53),
    (0.06, 0.06): Known(0.0275, 0.87, 0.97, 0.93, 0.51),
    (0.08, 0.09): Known(0.0299, 0.87, 0.98, 0.93, 0.52),
}
# by (utility ranks kept, safety ranks taken) of 4096: in the paper 4096 minus these, r_u / r_s
PROJECTION: dict[tuple[Rank, Rank], Known] = {
    (646, 96): Known(None, 0.67, 1.00, 0.88, 0.59),
    (546, 96): Known(None, 0.68, 0.99, 0.90, 0.59),
    (146, 6): Known(None, 0.71, 0.97, 0.91, 0.59),
    (96, 6): Known(None, 0.71, 0.97, 0.92, 0.58),
    (16, 6): Known(None, 0.65, 0.98, 0.94, 0.57),
}


def is_known(model: str) -> bool:
    """Whether the paper's tables are of this model."""
    return PurePath(split_revision(model)[0]).name.lower() in MODELS


def known(model: str, kind: str, pair: tuple[Rank, Rank]) -> tuple[str, Known] | None:
    """Return the paper's row for a cell and its name there, where it has one.

    Its rows are named p/q (Table 6), so (q, p) = (0.02, 0.04) is "4/2", and r_u/r_s (Table 7).
    """
    row = (DIFFERENCE if kind == "difference" else PROJECTION).get(pair)
    if row is None or not is_known(model):
        return None
    if kind == "difference":
        q, p = pair
        return f"{100 * p:g}/{100 * q:g}", row
    return "/".join(f"{WIDTH - part:g}" for part in pair), row
