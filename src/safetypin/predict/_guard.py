"""A guard: says before a token is generated whether a prompt is unsafe."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import (
    ArtifactMismatchError,
    DamagedArtifactError,
    FileTensors,
    Prompt,
    RunRecord,
    model_hash,
    write_tensors,
)
from safetypin.models import model_id
from safetypin.predict._data import check_prompt
from safetypin.predict._features import Reading, chosen_sites, encode_prompts, read_features
from safetypin.predict._linear import Linear, check_features
from safetypin.predict._measures import check_threshold
from safetypin.predict._tokens import check_written

GUARD_FILE = "guard.safetensors"
NUMBERS = ("bias", "slope", "offset", "strength", "num_components")
VECTORS = ("mean", "scale", "weights")

Vector = NDArray[np.float64]
Units = Mapping[str, NDArray[np.int64]]
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardRule:
    """What a guard knows: which units it reads, and how it weighs them.

    Attributes:
        linear: The classifier over these units, side by side in model order.
        units: Indices by place, in model order.
        reading: Where in the prompt they are read.
        model_id: `model_id` of the model it was fitted on.
        threshold: Probability from which on a prompt counts as unsafe.
        false_positive_rate: Share of safe training prompts, held out in cross-validation, that the
            threshold was chosen to let be called unsafe at the most.
        about: How it was made.
        written: `written_by` of the tokenizer that wrote the requests; None for a guard of before
            it was kept.
    """

    linear: Linear
    units: Units
    reading: Reading
    model_id: str
    threshold: float
    false_positive_rate: float
    about: Mapping[str, Any]
    written: dict[str, str] | None = None

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the payload; return what `run.json` is to hold."""
        tensors = {f"units|{name}": torch.from_numpy(index) for name, index in self.units.items()}
        tensors |= {name: torch.from_numpy(getattr(self.linear, name)) for name in VECTORS}
        write_tensors(folder / GUARD_FILE, tensors, {})
        return {
            "names": list(self.units),
            "reading": self.reading._asdict(),
            "model_id": self.model_id,
            "threshold": self.threshold,
            "false_positive_rate": self.false_positive_rate,
            "linear": {name: getattr(self.linear, name) for name in NUMBERS},
            "about": dict(self.about),
            "written": self.written,
        }

    @classmethod
    def read(cls, folder: Path) -> "GuardRule":
        """Read a guard folder, after checking its hashes.

        Raises:
            DamagedArtifactError: It is unfinished, damaged or of another kind.
        """
        inner = folder / "guard"
        folder = inner if (inner / "run.json").exists() else folder
        record = RunRecord.read(folder)
        if GUARD_FILE not in record.files:
            raise DamagedArtifactError(
                f"{folder} holds no guard but a {record.stage} run; make one with `safetypin "
                "guard fit`"
            )
        tensors, about = FileTensors(folder / GUARD_FILE), record.result
        try:
            vectors: dict[str, Any] = {name: tensors[name].numpy() for name in VECTORS}
            return cls(
                linear=Linear(**vectors, **about["linear"], held_out=np.zeros(0)),
                units={name: tensors[f"units|{name}"].numpy() for name in about["names"]},
                # a guard of before `count_bos` is to read what it was fitted on
                reading=Reading(**{"count_bos": True, **about["reading"]}),
                model_id=about["model_id"],
                threshold=about["threshold"],
                false_positive_rate=about["false_positive_rate"],
                about=about["about"],
                written=about.get("written"),
            )
        except (KeyError, TypeError) as error:
            raise DamagedArtifactError(
                f"{folder} is damaged ({error}); fit the guard again"
            ) from error


class Guard:
    """A guard and the model that it reads."""

    def __init__(
        self,
        rule: GuardRule,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tell: Tell = warnings.warn,
    ) -> None:
        """Tie a rule to its model.

        Args:
            rule: What the guard knows.
            model: The model that it was fitted on.
            tokenizer: Of that model, with the chat template that it had then.
            tell: Told what an old guard does not say of its tokenizer.

        Raises:
            ArtifactMismatchError: The model, its tokenizer or its chat template is another one.
        """
        identity = model_id(model)
        if model_hash(identity) != model_hash(rule.model_id):
            raise ArtifactMismatchError(
                f"the guard is of {rule.model_id}, the model is {identity}; a guard reads the "
                "activations of its own model alone: fit one on this model"
            )
        chosen_sites(model, rule.reading.site, list(rule.units))
        check_written(rule.written, tokenizer, rule.reading, tell)
        self.rule, self.model, self.tokenizer = rule, model, tokenizer

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tell: Tell = warnings.warn,
    ) -> "Guard":
        """Load what `safetypin guard fit` left; the arguments are those of `Guard`.

        Raises:
            DamagedArtifactError: The folder is unfinished, damaged or of another kind.
            ArtifactMismatchError: It is of another model, tokenizer or chat template.
        """
        return cls(GuardRule.read(Path(folder)), model, tokenizer, tell=tell)

    @property
    def threshold(self) -> float:
        """Probability from which on a prompt counts as unsafe."""
        return self.rule.threshold

    def limit(self, threshold: float | None) -> float:
        """Return the threshold to judge by: the guard's own where None is given.

        Raises:
            UserError: It is no probability.
        """
        if threshold is None or threshold == self.threshold:
            return self.threshold  # where safe prompts reach 1, its own is just above 1
        check_threshold(threshold)
        return threshold

    def predict_proba(self, texts: Sequence[str | Prompt]) -> Vector:
        """Return the probability that each request is unsafe.

        One forward pass, up to the last layer that the guard reads. A request that cannot be
        judged is named by its row where it is a `Prompt` that was read from a file, else by its
        place.

        Raises:
            UserError: A request is empty, has over 20,000 characters or does not fit the window,
                or activations are not finite.
        """
        if isinstance(texts, str):
            texts = [texts]
        prompts = [Prompt(text=text) if isinstance(text, str) else text for text in texts]
        for index, prompt in enumerate(prompts):
            check_prompt(prompt, index)
        if not prompts:
            return np.zeros(0)
        rows = encode_prompts(self.model, self.tokenizer, prompts, self.rule.reading)
        width = sum(len(index) for index in self.rule.units.values())
        features = np.empty((len(prompts), width), dtype=np.float32)

        def keep(indices: list[int], found: Mapping[str, Tensor]) -> None:
            parts = [
                found[name][:, torch.from_numpy(index).to(found[name].device)]
                for name, index in self.rule.units.items()
            ]
            features[indices] = torch.cat([part.cpu() for part in parts], dim=1).numpy()

        read_features(
            self.model,
            rows,
            self.rule.reading,
            keep,
            bos=self.tokenizer.bos_token_id,
            places=list(self.rule.units),
        )
        check_features(features)
        return self.rule.linear.probability(self.rule.linear.decide(features))

    def is_unsafe(
        self, texts: Sequence[str | Prompt], threshold: float | None = None
    ) -> list[bool]:
        """Tell of each request whether its probability reaches the threshold.

        Raises:
            UserError: The threshold is no probability, or as `predict_proba` says.
        """
        limit = self.limit(threshold)
        return [bool(chance >= limit) for chance in self.predict_proba(texts)]
