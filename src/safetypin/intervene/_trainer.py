"""The Hugging Face Trainer with a guard: holds weights, stops at NaN, saves whole checkpoints."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from safetypin.artifacts import UserError, append_line, read_lines, write_text
from safetypin.intervene._checkpoints import Checkpoints, step_of
from safetypin.intervene._loss import is_own_loss, learnt, loss_of
from safetypin.intervene._save import base_of, load_adapter, save_checkpoint
from safetypin.intervene.protect import CoefficientOptimizer, Guard
from safetypin.models import is_out_of_memory
from safetypin.passes import head_cut_to

LOG_FILE = "log.jsonl"
# between checkpoints that are only for going on after a kill; the first comes sooner, for it is in
# the first minutes that a loss turns to NaN
FIRST_SAVE_SECONDS = 60.0
SAVE_SECONDS = 600.0
TRIED_TOKENS = 16  # of the first row, on which the model's own loss is compared with ours

OnStep = Callable[[int, int, float], None]


class GuardedTrainer(Trainer):
    """Trains a guarded model."""

    def __init__(
        self,
        guard: Guard,
        tokenizer: PreTrainedTokenizerBase,
        checkpoints: Checkpoints | None,
        *,
        keeps_all: bool,
        **options: Any,  # noqa: ANN401 - the Trainer's own
    ) -> None:
        # the tokenizer is not given to the Trainer, which would change the model's config by it
        super().__init__(guard.model, **options)
        self.remove_callback(PrinterCallback)
        self._guard, self._tokenizer, self._checkpoints = guard, tokenizer, checkpoints
        self._keeps_all = keeps_all
        self._save_folder = Path(str(self.args.output_dir))
        if guard.needs_whole and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "this protection needs whole weights in every process, but FSDP or DeepSpeed is "
                "on; use data-parallel torchrun, or shard with fully_shard in a loop of your own "
                "and hold the weights with HeldWeights(model, mask.tensors).hold(optimizer)"
            )

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, from a checkpoint if one is given."""
        if checkpoint is not None and step_of(checkpoint) >= self.num_steps():
            # the Trainer would go one step too far
            self._load_from_checkpoint(str(checkpoint))
            return
        try:
            self._choose_loss()
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = self.args.per_device_train_batch_size
            raise UserError(
                f"{self.args.device} has not enough memory for batches of {size}; halve "
                "--batch-size and double --accumulation, which gives the same steps, lower "
                "--max-length, or add --gradient-checkpointing"
            ) from error

    def num_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        loader = self.get_train_dataloader()
        return int(self.set_initial_training_values(self.args, loader)[-1])

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, whose every step is followed by the guard's."""
        is_new = self.optimizer is None
        if is_new and self._guard.make_optimizer is not None:
            self.optimizer = self._made(self._guard.make_optimizer)
        optimizer = super().create_optimizer(model)
        if is_new:
            optimizer.register_step_post_hook(lambda *_: self._guard.after_step())
        return optimizer

    def _made(self, make: Callable[..., torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """Return the guard's own optimizer, of the kind and with the options of the settings."""
        base = base_of(self._guard.model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, base)
        decayed = set(self.get_decay_parameter_names(base))
        return make(kind, str(self.args.optim), decayed, self.args.weight_decay, options)

    def _choose_loss(self) -> None:
        """Compute the loss here, from the logits that count, if it is the model's own."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return  # their model cannot be tried before it is prepared
        first = self.data_collator(self.train_dataset[:1])  # type: ignore[index]
        end = {name: part[:, -TRIED_TOKENS:] for name, part in first.items()}
        if is_own_loss(base_of(self._guard.model), end):
            self.compute_loss_func = loss_of

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - the Trainer's own
        """Compute the loss of a batch, with no logits but those of the tokens to learn."""
        where, _ = learnt(inputs["labels"])
        base = base_of(self._guard.model)
        is_ours = self.compute_loss_func is not None
        with head_cut_to(base, where) if is_ours else contextlib.nullcontext():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Compute loss and gradients of one batch; stop where the loss is no number."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._stop("loss", float(loss), self.state.global_step + 1)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(inner, CoefficientOptimizer):
            norm: Tensor = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
            return norm
        self.accelerator.unscale_gradients()
        return inner.clip(self.args.max_grad_norm)

    def _get_grad_norm(
        self, model: nn.Module, grad_norm: Tensor | float | None = None
    ) -> Tensor | float | None:
        norm: Tensor | float | None = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        # fp16 scales the loss up until gradients overflow, and leaves such a step out by itself
        if norm is not None and not self.args.fp16 and not math.isfinite(norm):
            self._stop("size of the gradient", float(norm), self.state.global_step + 1)
        return norm

    def _stop(self, what: str, value: float, step: int) -> NoReturn:
        newest = None if self._checkpoints is None else self._checkpoints.newest()
        kept = (
            f"the last good checkpoint is {newest}"
            if newest is not None
            else "no checkpoint had been saved yet (--save-steps saves them)"
        )
        raise UserError(
            f"the {what} is {value} at step {step} of {self.state.max_steps}, so the training "
            f"stopped there; {kept}. Lower --learning-rate (it is "
            f"{self.args.learning_rate:g}), add --warmup-ratio 0.1, or use --precision fp32"
        )

    def check_weights(self) -> None:
        """Raise if a weight that was trained is no number any more.

        Raises:
            UserError: One is, with the step and the last good checkpoint.
        """
        for parameter in self._guard.model.parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                self._stop("largest trained weight", math.inf, self.state.global_step)

    def _get_output_dir(self, trial: object) -> str:
        return str(self._save_folder)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        if self._checkpoints is None:
            return
        self._guard.after_step()  # some optimizers show other weights here
        self.check_weights()
        context = (
            self._checkpoints.saving(self.state.global_step)
            if self.is_world_process_zero()
            else contextlib.nullcontext(self._checkpoints.scratch)
        )
        with context as folder:
            self.accelerator.wait_for_everyone()
            self._save_folder = folder
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
        if not self._keeps_all and self.is_world_process_zero():
            self._checkpoints.keep_only(self.state.global_step)
        self.accelerator.wait_for_everyone()

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if self.args.should_save:
            assert output_dir is not None
            unwrapped = self.accelerator.unwrap_model(self.model)
            save_checkpoint(unwrapped, Path(output_dir), state_dict)
            self._tokenizer.save_pretrained(output_dir)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel):
            load_adapter(self.model, Path(checkpoint))
        else:
            super()._load_from_checkpoint(checkpoint, model)
        self._guard.after_step()


class Watch(TrainerCallback):
    """Tells of every step, writes the log, and says when to save a checkpoint."""

    def __init__(
        self, on_step: OnStep | None, log: Path | None, save_steps: int | None, keeps: bool
    ) -> None:
        """Take what to tell, where to write, and how often to save.

        Args:
            on_step: Called with the step, the number of steps and the loss.
            log: A file of JSON lines.
            save_steps: Save after every so many steps and the last; None: after a minute, and then
                once in ten minutes.
            keeps: Whether checkpoints are saved at all.
        """
        self._on_step, self._log = on_step, log
        self._save_steps, self._keeps = save_steps, keeps
        self._saved, self._pause = time.monotonic(), FIRST_SAVE_SECONDS

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Say whether to save."""
        if not self._keeps:
            return
        if self._save_steps is None:
            control.should_save = time.monotonic() - self._saved > self._pause
        else:
            is_last = state.global_step >= state.max_steps
            control.should_save = is_last or state.global_step % self._save_steps == 0

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Note the time."""
        self._saved, self._pause = time.monotonic(), SAVE_SECONDS

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Tell of a step, and write it."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        if self._log is not None:
            names = ("loss", "learning_rate", "grad_norm")
            values = {name: logs[name] for name in names if name in logs}
            append_line(self._log, {"step": state.global_step, **values})
        if self._on_step is not None:
            self._on_step(state.global_step, state.max_steps, logs["loss"])


def cut_log(path: Path, step: int) -> None:
    """Remove the lines of steps that will be done again, and any that a kill cut in two."""
    rows = [row for row in read_lines(path) if row["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
