"""How a model is trained: the documents' settings, and what the Trainer makes of them."""

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.training_args import OptimizerNames

from safetypin.artifacts import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Some optimizers step inside the backward pass, one weight at a time, where nothing can be held in
# place; these and the others left out also need settings of their own.
LEFT_OUT = ("lomo", "adalomo", "galore", "apollo")
OPTIMIZERS = tuple(
    str(name.value) for name in OptimizerNames if not str(name.value).startswith(LEFT_OUT)
)
SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of a fine-tuning run; the defaults are those of the source documents.

    Attributes:
        epochs: Passes over the data; may end inside one.
        max_steps: Optimizer steps, in place of `epochs`.
        learning_rate: The highest; None takes the protection's own: 2e-5, with adapters 1e-4.
        batch_size: Examples that are in memory at once, on each device.
        accumulation: Batches that make one optimizer step.
        max_length: Most tokens of an example; what is longer is cut off, and counted.
        seed: Of the order of the data, of dropout and of new adapters.
        weight_decay: As the optimizer takes it.
        optimizer: As the Trainer names it, such as `adamw_torch`, `sgd`, `adafactor`.
        schedule: Of the learning rate, as the Trainer names it, such as `linear`, `cosine`.
        warmup_ratio: Share of the steps in which the learning rate rises.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them.
        precision: `fp32`, or `bf16` or `fp16` autocast over float32 weights; `auto` is bf16 on
            CUDA, elsewhere fp32. Weights that are trained are always kept in float32: a step of
            2e-5 is lost in the rounding of a bfloat16 weight.
        gradient_checkpointing: Compute each block twice, to hold fewer activations in memory.
        save_steps: Keep a checkpoint after every so many steps, and after the last. None keeps only
            what is needed to go on after a kill: one after the first minute, then one from the
            last ten minutes.
        report_to: Trackers of the Trainer, such as `trackio`, `wandb`, `mlflow`.
    """

    epochs: float = 3.0
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int = 4
    accumulation: int = 4
    max_length: int = 512
    seed: int = 42
    weight_decay: float = 0.0
    optimizer: str = "adamw_torch"
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "auto"
    gradient_checkpointing: bool = False
    save_steps: int | None = None
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("max_steps", "save_steps"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "at least 1")
        _check("epochs", self.epochs, self.epochs > 0, "above 0")
        rate = self.learning_rate
        _check("learning_rate", rate, rate is None or rate > 0, "above 0")
        _check("max_length", self.max_length, self.max_length >= 2, "at least 2")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0, "at least 0")
        _check("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "in [0, 1)")
        _check_name("precision", self.precision, PRECISIONS)
        _check_name("optimizer", self.optimizer, OPTIMIZERS)
        _check_name("schedule", self.schedule, SCHEDULES)
        for tracker in self.report_to:
            _check_name("report_to", tracker, get_available_reporting_integrations())

    def settings(self, learning_rate: float) -> dict[str, Any]:
        """Return what the result depends on, with the learning rate that is used."""
        without = ("save_steps", "report_to", "gradient_checkpointing")
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in without}
        return {**values, "learning_rate": learning_rate}

    def arguments(
        self, model: PreTrainedModel, folder: Path, learning_rate: float
    ) -> TrainingArguments:
        """Return the same for the Trainer, on the device where the model is.

        Raises:
            UserError: The device cannot train in this precision.
        """
        precision = _precision(self.precision, model.device)
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            learning_rate=learning_rate,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
            seed=self.seed,
            weight_decay=self.weight_decay,
            optim=self.optimizer,
            lr_scheduler_type=self.schedule,
            warmup_steps=self.warmup_ratio,
            max_grad_norm=self.max_grad_norm,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=model.device.type == "cpu",
            report_to=list(self.report_to) or "none",
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would write an average in place of a NaN
            save_strategy="no",  # the trainer's own callback decides
            remove_unused_columns=False,
            dataloader_pin_memory=model.device.type == "cuda",
            disable_tqdm=True,
        )
        if arguments.n_gpu > 1:  # else it would copy the model to all of them
            arguments._n_gpu = 1
        return arguments


def _check(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(f"{name} must be {rule}, got {value}")


def _check_name(name: str, value: str, known: Iterable[str]) -> None:
    known = sorted(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(
            f"unknown {name} {value!r}{hint}; choose one of {', '.join(known) or 'none installed'}"
        )


def _precision(asked: str, device: torch.device) -> str:
    cuda = device.type == "cuda"
    if asked == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported() else "fp32"
    if asked == "fp16" and not cuda:
        raise UserError(f"precision fp16 needs CUDA, the model is on {device}; use bf16 or fp32")
    if asked == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise UserError(f"{device} cannot compute in bf16; use --precision fp16 or fp32")
    return asked
