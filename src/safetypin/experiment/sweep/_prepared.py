"""What cells are cut from: sets, ranks and heads, made once and read when they are asked for."""

from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from safetypin.artifacts import NeuronScores, RankBasis, UserError, WeightMask, load, read_mask

SETS, RANKS, HEADS = "sets", "ranks", "heads"


def mask_file(cell: str) -> str:
    """Return the file name of a cell's set."""
    return f"{cell}.mask.safetensors"


class Prepared:
    """Reads what was made before the first cell, and holds the models.

    Attributes:
        model: The model that is changed and restored.
        reference: The model whose values are put in, where a method asks for that.
        seed: Of ties.
    """

    def __init__(
        self, out: Path, model: PreTrainedModel, reference: PreTrainedModel | None, seed: int
    ) -> None:
        self._out, self.model, self.seed = out, model, seed
        self._reference = reference

    @property
    def reference(self) -> PreTrainedModel:
        """The reference model.

        Raises:
            UserError: None was named.
        """
        if self._reference is None:
            raise UserError("a method needs a second model; name one as `reference`")
        return self._reference

    def mask(self, cell: str) -> WeightMask:
        """Return the set of a cell, by its id."""
        return read_mask(self._out / SETS / mask_file(cell))

    def ranks(self, name: str) -> RankBasis:
        """Return the output ranks on the `safety` or the `utility` prompts."""
        return self._safety_ranks if name == "safety" else self._utility_ranks

    @cached_property
    def _safety_ranks(self) -> RankBasis:
        return self._read_ranks("safety")

    @cached_property
    def _utility_ranks(self) -> RankBasis:
        return self._read_ranks("utility")

    def _read_ranks(self, name: str) -> RankBasis:
        found = load(self._out / f"{RANKS}-{name}")
        assert isinstance(found, RankBasis)
        return found

    @cached_property
    def head_scores(self) -> NeuronScores:
        """How well a probe on each attention head tells harmful prompts from harmless ones."""
        found = load(self._out / HEADS)
        assert isinstance(found, NeuronScores)
        return found
