"""The models of a contrast: both in memory, one after the other, or one with its adapter."""

import contextlib
import dataclasses
from contextlib import AbstractContextManager

from peft import PeftModel

from safetypin.models import base_fingerprint, load_adapted, load_tokenizer, unit_shapes
from safetypin.scores import Model
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._pair import (
    Where,
    check_tokenizers,
    fits_beside,
    load_subject,
    release,
    template_note,
)
from safetypin.stages._progress import Reporter
from safetypin.stages._subject import Subject


class ContrastModels:
    """The aligned model and its reference, whichever of them is in memory.

    Attributes:
        reference: The model that answers, with the tokenizer of the aligned one: both read the
            same tokens. With an adapter turned off, and where one model is scored alone, it is
            that model.
        identity: `model_id` of the aligned model, an adapter merged, as other commands load it.
        reference_id: `model_id` of the reference; None where one model is scored alone.
    """

    def __init__(self, config: ContrastConfig, reporter: Reporter) -> None:
        """Load what fits.

        Raises:
            UserError: A model cannot be loaded.
            ArtifactMismatchError: The tokenizers differ, or the units do.
        """
        self._config = config
        self._where = Where(dtype=config.dtype, device=config.device)
        self._adapted: PeftModel | None = None
        self._aligned: Subject | None = None
        self.reference_id: str | None = None
        if config.adapter_off:
            self._load_adapted()
        elif config.reference is None:
            self.reference = self._aligned = load_subject(config.model, self._where)
            self.identity = self.reference.identity
        else:
            self._load_pair(config.reference, reporter)

    def _load_adapted(self) -> None:
        name = self._config.model
        # other commands merge the adapter: a set must be of the model that they load
        self.identity = load_subject(name, self._where).identity
        release()
        both, tokenizer = load_adapted(name, dtype=self._where.dtype, device=self._where.device)
        self._adapted = both
        inner = both.get_base_model()
        self.reference_id = f"{name} without adapter#{base_fingerprint(both)}"
        self.reference = Subject(
            model=inner,  # type: ignore[arg-type]
            tokenizer=tokenizer,
            identity=self.reference_id,
        )

    def _load_pair(self, reference: str, reporter: Reporter) -> None:
        tokenizers = [load_tokenizer(name) for name in (self._config.model, reference)]
        check_tokenizers(*tokenizers)
        if note := template_note(*tokenizers):
            reporter.note(note)
        self._aligned = load_subject(self._config.model, self._where)
        self.identity = self._aligned.identity
        shapes = unit_shapes(self._aligned.model, self._config.site)
        apart = self._config.one_at_a_time
        if apart is None:
            apart = not fits_beside(self._aligned.model)
        if apart:
            self._aligned = None
            release()
        loaded = load_subject(reference, self._where)
        # before it answers anything; where the models are apart, one of them is gone by now
        shapes.check(unit_shapes(loaded.model, self._config.site))
        self.reference = dataclasses.replace(loaded, tokenizer=tokenizers[0])
        self.reference_id = loaded.identity

    @property
    def are_apart(self) -> bool:
        """Whether the aligned model waits until the reference is gone."""
        return self._aligned is None and self._adapted is None

    @property
    def other(self) -> Model | None:
        """The reference, or None where the aligned model is that without its adapter."""
        return None if self._adapted is not None else self.reference.model

    def as_reference(self) -> AbstractContextManager[object]:
        """Return the block in which `reference` is itself: an adapter is off."""
        return self._adapted.disable_adapter() if self._adapted else contextlib.nullcontext()

    def aligned(self) -> Model:
        """Return the aligned model; where both do not fit, the reference leaves for it."""
        if self._adapted is not None:
            return self._adapted
        if self._aligned is None:
            tokenizer = self.reference.tokenizer
            del self.reference
            release()
            self._aligned = load_subject(self._config.model, self._where)
            self.reference = dataclasses.replace(self._aligned, tokenizer=tokenizer)
        return self._aligned.model
