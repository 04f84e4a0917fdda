"""The exact k highest scores, without sorting them and without joining tensors.

Non-negative floats are in the same order as their bit patterns read as integers, here called
keys. A histogram of the keys' upper 16 bits shows in which bin the k-th highest lies, one of the
lower 16 bits within that bin shows which it is: a radix selection in two passes. A third pass
marks the members. Each pass works in chunks, so nothing grows with the number of scores but the
mask.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

Keys = Int32[Tensor, " chunk"]
KeySource = Callable[[], Iterable[Keys]]  # gives the same chunks at every call

_UPPER_BINS = 1 << 15  # the sign bit is never set
_LOWER_BINS = 1 << 16
_NO_KEY = 2**31 - 1


class Cut(NamedTuple):
    """Where a set ends: its members are the keys above `key` and the first `num_ties` equal."""

    key: int
    num_ties: int


def chunk_size(device: torch.device) -> int:
    """Return how many entries to work on at once: a CPU's cache, or enough to fill a GPU."""
    return 1 << 18 if device.type == "cpu" else 1 << 24


def score_keys(scores: Float[Tensor, " n"]) -> Iterator[Keys]:
    """Yield the keys of finite float32 scores >= 0, in order."""
    for chunk in torch.split(scores, chunk_size(scores.device)):
        # -0.0 + 0.0 is +0.0; the bit pattern of -0.0 would be the lowest key of all
        yield (chunk + 0.0).view(torch.int32)


def upper_histogram(keys: KeySource) -> Int64[Tensor, " bins"]:
    """Return how many keys have each value of the upper 16 bits. Keys must be >= 0."""
    histogram = torch.zeros(_UPPER_BINS, dtype=torch.int64)
    for chunk in keys():
        histogram += torch.bincount(chunk >> 16, minlength=_UPPER_BINS).cpu()
    return histogram


def cuts(keys: KeySource, histogram: Int64[Tensor, " bins"], counts: Sequence[int]) -> list[Cut]:
    """Return for each count where the set of that many highest keys ends.

    Args:
        keys: The keys of `histogram`.
        histogram: What `upper_histogram` made of them.
        counts: Sizes of the sets, each from 0 to the number of keys.
    """
    places = {count: _place(histogram, count) for count in counts if count}
    lower = _lower_histograms(keys, {place.key for place in places.values()})
    found = {0: Cut(_NO_KEY, 0)}
    for count, upper in places.items():
        within = _place(lower[upper.key], upper.num_ties)
        key = (upper.key << 16) | within.key
        # all ties are members as a rule, and need not be looked for one by one
        num_equal = int(lower[upper.key][within.key])
        whole = num_equal == within.num_ties
        found[count] = Cut(key - 1, 0) if whole else Cut(key, within.num_ties)
    return [found[count] for count in counts]


def above_zero(cuts: Iterable[Cut]) -> list[Cut]:
    """Return the cuts without members of key 0: a score of 0 ranks nothing."""
    return [Cut(0, 0) if cut.key <= 0 else cut for cut in cuts]


def mark(
    keys: Iterable[Keys], cuts: Sequence[Cut], masks: Sequence[Bool[Tensor, " n"]]
) -> list[Cut]:
    """Set each mask True at its cut's members, elsewhere False.

    Returns:
        The cuts with the ties that are left for the tensors that come next in the same group.
    """
    start, left = 0, [cut.num_ties for cut in cuts]
    for chunk in keys:
        stop = start + chunk.numel()
        for index, (cut, mask) in enumerate(zip(cuts, masks, strict=True)):
            mask[start:stop] = chunk > cut.key
            if left[index]:
                ties = (chunk == cut.key).nonzero()[: left[index], 0].cpu()
                mask[start + ties] = True
                left[index] -= len(ties)
        start = stop
    return [Cut(cut.key, ties) for cut, ties in zip(cuts, left, strict=True)]


def mark_highest(
    keys: KeySource, counts: Sequence[int], masks: Sequence[Bool[Tensor, " n"]]
) -> None:
    """Set each mask True at the so many highest keys of one tensor, elsewhere False."""
    mark(keys(), cuts(keys, upper_histogram(keys), counts), masks)


def _place(histogram: Int64[Tensor, " bins"], count: int) -> Cut:
    """Return the bin of the `count`-th highest entry, and how many of that bin are needed."""
    at_least = histogram.flip(0).cumsum(0).flip(0)
    place = int((at_least >= count).sum()) - 1
    above = int(at_least[place]) - int(histogram[place])
    return Cut(place, count - above)


def _lower_histograms(keys: KeySource, places: set[int]) -> dict[int, Int64[Tensor, " bins"]]:
    """Return a histogram of the lower 16 bits for each of some values of the upper ones."""
    histograms = {place: torch.zeros(_LOWER_BINS, dtype=torch.int64) for place in places}
    is_place = torch.zeros(_UPPER_BINS, dtype=torch.bool)
    is_place[list(places)] = True
    for chunk in keys() if places else ():
        near = chunk[is_place.to(chunk.device)[chunk >> 16]]
        for place, histogram in histograms.items():
            lower = near[near >> 16 == place] & (_LOWER_BINS - 1)
            if lower.numel():
                histogram += torch.bincount(lower, minlength=_LOWER_BINS).cpu()
    return histograms
