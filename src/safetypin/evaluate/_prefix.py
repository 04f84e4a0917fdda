"""What all requests begin with, such as the system prompt: read once, not once a request."""

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

MIN_TOKENS = 8  # below, the copies cost what is saved
# Others unpad by themselves, and expect the padding at one end.
ATTENTION = ("eager", "sdpa")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The tokens that all rows begin with, and the keys and values that the model makes of them.

    A chat model's system prompt is half of a short request. Each row is laid out as these tokens,
    padding, and the rest; the mask hides the padding, and positions count real tokens only.
    """

    ids: list[int]
    cache: DynamicCache | None

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, rows: Sequence[list[int]]) -> "Prefix":
        """Return what the rows share, nothing where the model cannot go on from it.

        A window that slides counts the padding, and a state that runs over it would change.
        """
        none = cls([], None)
        attention = getattr(model.config, "_attn_implementation", None)
        caches = "past_key_values" in inspect.signature(model.forward).parameters
        if len(rows) < 2 or attention not in ATTENTION or not caches:
            return none
        columns = zip(*(row[:-1] for row in rows), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        if len(shared) < MIN_TOKENS:
            return none
        cache = DynamicCache(config=model.config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return none
        ids = torch.tensor([shared], device=model.device)
        output = model(ids, past_key_values=cache, use_cache=True)
        if getattr(output, "past_key_values", None) is not cache:
            return none
        return cls(shared, cache)

    def copies(self, num_rows: int) -> Cache:
        """Return keys and values for so many rows, to be written on."""
        assert self.cache is not None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(num_rows)
        return cache

    def padded(
        self, rows: Sequence[list[int]], pad: int
    ) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
        """Return token ids, padded on the left of what is not shared, and their mask."""
        width, start = max(map(len, rows)), len(self.ids)
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros_like(ids)
        ids[:, :start] = torch.tensor(self.ids, dtype=ids.dtype)
        mask[:, :start] = 1
        for row, tokens in enumerate(rows):
            rest = tokens[start:]
            ids[row, width - len(rest) :] = torch.tensor(rest)
            mask[row, width - len(rest) :] = 1
        return ids, mask
