"""The training of `tune`: checked before anything is written, resumed where it was killed."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from safetypin.artifacts import (
    Basis,
    PromptSet,
    UserError,
    WeightMask,
    read_json,
    read_lines,
    write_json,
)
from safetypin.intervene import (
    MEASURED_FILE,
    PROTECTIONS,
    Full,
    Lora,
    Protection,
    check_reached,
    finetune,
    save_tuned,
    training_rows,
)
from safetypin.models import block_weights, quiet_transformers, weights_of_layers
from safetypin.prompts import window
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output
from safetypin.stages._subject import Subject
from safetypin.stages._tune_config import TuneConfig
from safetypin.stages._tune_folder import (
    CHECKPOINTS,
    LOG_FILE,
    MODEL_FOLDER,
    SETTINGS_FILE,
    UNFINISHED,
)

# the setting of each option of a protection
LORA_SETTINGS = {
    "r": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "lora_targets",
    "coverage": "lora_coverage",
    "train_others": "train_others",
}
UNITS_PER_TOKEN = 0.6  # forward and backward, against one generated token


class Trainee:
    """A model, its examples and how it is to be trained."""

    def __init__(self, config: TuneConfig, subject: Subject, data: PromptSet) -> None:
        """Tokenise the examples.

        Raises:
            UserError: All responses are cut off.
        """
        self._config, self._subject, self._data = config, subject, data
        self.basis: Basis | None = None
        limit = min(config.max_length, window(subject.model, subject.tokenizer))
        self._rows = training_rows(
            subject.tokenizer, data, limit, plain=config.plain, system=config.system
        )

    @property
    def notes(self) -> list[str]:
        """What the user should know of the examples."""
        return [self._rows.note] if self._rows.note else []

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self._config.max_steps or math.ceil(self._config.epochs * self._epoch_steps)

    @property
    def _epoch_steps(self) -> int:
        num_batches = math.ceil(len(self._rows.rows) / self._config.batch_size)
        return math.ceil(num_batches / self._config.accumulation)

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        num_tokens = sum(len(row["input_ids"]) for row in self._rows.rows)
        return UNITS_PER_TOKEN * num_tokens * self.num_steps / self._epoch_steps

    def protection(self, mask: WeightMask | None) -> Protection:
        """Return the protection that the settings name."""
        kind, config = PROTECTIONS[self._config.protect], self._config
        options = {name: getattr(config, LORA_SETTINGS[name]) for name in kind.options}
        if not kind.needs_mask:
            return kind.make(**options)
        first = (self.basis, mask) if kind.needs_basis else (mask,)
        return kind.make(*first, **options)

    def check(self, mask: WeightMask | None) -> None:
        """Raise, before anything is changed, if the model cannot be trained like this.

        Args:
            mask: The set; None where there is none, or where it is still to be made, for which a
                set with a weight in every matrix that will be scored stands.
        """
        model = self._subject.model
        if mask is None and self._config.makes_set and self._config.is_rotated:
            protection = self._check_rotated(model)
        else:
            if mask is None and self._config.makes_set:
                mask = self._any_set()
            protection = self.protection(mask)
            protection.check(model)
        rate = self._config.learning_rate or protection.learning_rate
        # raises where the device cannot train in this precision; nothing is written
        self._config.training.arguments(model, Path(CHECKPOINTS), rate)

    def _check_rotated(self, model: PreTrainedModel) -> Protection:
        """Check what does not depend on the basis, which is still to be made."""
        rotated = weights_of_layers(model, self._config.targets, self._config.layers)
        if self._config.keep_ratio == 1:
            raise UserError("keep_ratio 1 holds every coefficient, so nothing could be trained")
        if self._config.protect == "warp":
            return Full()
        lora = Lora(
            **{
                name: getattr(self._config, LORA_SETTINGS[name])
                for name in PROTECTIONS["lora"].options
            }
        )
        lora.check(model)
        check_reached(model, self._config.lora_targets, rotated)
        return lora

    def _any_set(self) -> WeightMask:
        weights = block_weights(self._subject.model, self._config.targets).values()
        shapes = {weight.name: weight.weight.shape for weight in weights}
        return WeightMask(
            tensors={
                name: (torch.arange(shape[-1]) == 0).expand(shape) for name, shape in shapes.items()
            },
            model_id=self._subject.identity,
        )

    def inputs(self, mask: WeightMask | None) -> dict[str, Any]:
        """Return what the trained model depends on."""
        protection = self.protection(mask)
        rate = self._config.learning_rate or protection.learning_rate
        return {
            **self._subject.inputs,
            "data": self._rows.fingerprint,
            "protection": dict(protection.settings),
            "training": self._config.training.settings(rate),
            "save_steps": self._config.save_steps,
        }

    def train(
        self,
        folder: Path,
        *,
        inputs: Mapping[str, Any],
        read: Callable[[], WeightMask | None],
        reporter: Reporter,
    ) -> Output:
        """Train, save the model, and remove what is no longer needed.

        Args:
            folder: Where to.
            inputs: As `inputs` returns them.
            read: Reads the set. Nothing here keeps it, so that it takes no memory while training.
            reporter: Told how it goes on.

        Raises:
            UserError: The loss is no number, or there is not enough memory or disk.
        """
        write_json(folder / SETTINGS_FILE, inputs)
        with told(reporter, known=self.notes), quiet_transformers():
            tuned = finetune(
                self._subject.model,
                self._subject.tokenizer,
                self._data,
                protect=self.protection(read()),
                training=self._config.training,
                out=folder,
                plain=self._config.plain,
                system=self._config.system,
                on_step=self._steps(reporter),
            )
            unfinished = folder / UNFINISHED
            for path in (unfinished, folder / MODEL_FOLDER):
                shutil.rmtree(path, ignore_errors=True)
            save_tuned(tuned, self._subject.tokenizer, unfinished)
            unfinished.rename(folder / MODEL_FOLDER)
        names = [path.name for path in (folder / MODEL_FOLDER).iterdir() if path.is_file()]
        num_steps = read_lines(folder / LOG_FILE)[-1]["step"]
        result = {
            "num_examples": self._rows.num_examples,
            "num_tokens": self._rows.num_tokens,
            "num_cut": self._rows.num_cut,
            "num_lost": self._rows.num_dropped,
            "num_steps": num_steps,
            "epochs": num_steps / self._epoch_steps,
            "learning_rate": inputs["training"]["learning_rate"],
        }
        files = [f"{MODEL_FOLDER}/{name}" for name in names]
        if (folder / MEASURED_FILE).exists():
            result["protection"] = read_json(folder / MEASURED_FILE)
            files.append(MEASURED_FILE)
        return Output(result, [*files, LOG_FILE, SETTINGS_FILE])

    def _steps(self, reporter: Reporter) -> Callable[[int, int, float], None]:
        """Return what tells the reporter of every step."""
        done = 0

        def advance(step: int, num_steps: int, loss: float) -> None:
            nonlocal done
            unit = self.units / num_steps
            # of the first call after a kill, all steps but its own were done before
            reporter.advance((step - 1 - done) * unit, reused=True)
            reporter.advance(unit)
            reporter.detail(f"step {step} of {num_steps}: loss {loss:.4f}")
            done = step

        return advance


class _Forward(logging.Handler):
    """Gives log messages to a reporter."""

    def __init__(self, reporter: Reporter, known: Sequence[str]) -> None:
        super().__init__()
        self._reporter, self._known = reporter, known

    def emit(self, record: logging.LogRecord) -> None:
        """Say warnings, and the rest only to who wants every step."""
        text = record.getMessage()
        if text in self._known:
            return
        say = self._reporter.note if record.levelno >= logging.WARNING else self._reporter.detail
        say(text)


@contextmanager
def told(reporter: Reporter, *, known: Sequence[str] = ()) -> Iterator[None]:
    """Give what `intervene` logs to the reporter, whose bar it would tear; not what is known."""
    logger = logging.getLogger("safetypin.intervene")
    handler, level, propagate = _Forward(reporter, known), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def training_log(folder: Path) -> list[dict[str, Any]]:
    """Return step, loss and learning rate of every step."""
    return read_lines(folder / LOG_FILE)


def describe_protection(config: TuneConfig) -> dict[str, Any]:
    """Return the `protect` part of metrics.json; None for what the protection does not have."""
    kind = PROTECTIONS[config.protect]
    names = {"rank": "r", "alpha": "alpha", "dropout": "dropout", "targets": "targets"}
    names |= {"coverage": "coverage"}
    values = {
        name: getattr(config, LORA_SETTINGS[option]) if option in kind.options else None
        for name, option in names.items()
    }
    return {"kind": config.protect, "about": kind.summary, **values}
