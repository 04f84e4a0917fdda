"""Fine-tune a model under a protection: the one training loop, over the Hugging Face Trainer."""

import logging
import tempfile
from functools import partial
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from safetypin.artifacts import PromptSet, write_json
from safetypin.intervene._checkpoints import Checkpoints, step_of
from safetypin.intervene._data import TrainingRows, padded, training_rows
from safetypin.intervene._save import base_of
from safetypin.intervene._state import check_bare, only_weights_change, recomputing
from safetypin.intervene._trainer import LOG_FILE, GuardedTrainer, OnStep, Watch, cut_log
from safetypin.intervene._training import Training
from safetypin.intervene.protect import Guard, Protection
from safetypin.models import model_fingerprint
from safetypin.prompts import window

log = logging.getLogger(__name__)

DEFAULTS = Training()
MEASURED_FILE = "protection.json"  # of a protection that measures what it held


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: PromptSet,
    *,
    protect: Protection,
    training: Training = DEFAULTS,
    out: str | Path | None = None,
    plain: bool = False,
    system: str | None = None,
    on_step: OnStep | None = None,
) -> PreTrainedModel | PeftModel:
    """Train the model on the responses of a prompt set, under a protection.

    The loss is the mean over the response tokens of all batches of an optimizer step. With `out`,
    a call that was killed goes on where the newest whole checkpoint is, when it is made again.

    Args:
        model: Full fine-tuning changes it in place, and makes its weights float32 first: updates
            would be lost in the rounding of half precision. Adapters are put into it.
        tokenizer: Its tokenizer; its chat template is used.
        data: Prompts with responses.
        protect: What may change: `Full()`, `Freeze(mask)`, `Rewind(mask)`, `Lora()`,
            `MaskedLora(mask)`, `Warp(basis, mask)`.
        training: The settings of the run.
        out: Folder for `checkpoints/checkpoint-STEP`, in Hugging Face form, and `log.jsonl`.
        plain: Use no chat template.
        system: System prompt.
        on_step: Called after every optimizer step with its number, that of all, and the loss.

    Returns:
        The model, or for LoRA a PEFT model over it, in evaluation mode.

    Raises:
        UserError: A mask of another model or of weights that are not trained; data without
            responses, or with all of them cut off; a loss that is no number, with the step and the
            last good checkpoint; a full disk; checkpoints of other settings in `out`; not enough
            memory. Full fine-tuning then leaves the weights of the last step; adapters are removed.
    """
    check_bare(model, trains_weights=protect.trains_weights)
    protect.check(model)
    limit = min(training.max_length, window(model, tokenizer))
    rows = training_rows(tokenizer, data, limit, plain=plain, system=system)
    if rows.note:
        log.warning("%s", rows.note)
    rate = training.learning_rate or protect.learning_rate
    checkpoints = None
    if out is not None:
        settings = {
            "model": model_fingerprint(model),
            "data": rows.fingerprint,
            **{f"protection {name}": value for name, value in protect.settings.items()},
            **{f"training {name}": value for name, value in training.settings(rate).items()},
        }
        checkpoints = Checkpoints(Path(out) / "checkpoints", settings)
    with only_weights_change(model), recomputing(model, wanted=training.gradient_checkpointing):
        set_seed(training.seed)
        if protect.trains_weights:
            model.float()
        guard = protect.begin(model)
        # its mask takes a byte a weight, and what is held keeps places of its own: where the caller
        # has let go of it too, that memory is free while training
        del protect
        for note in guard.notes:
            log.warning("%s", note)
        try:
            _train(guard, tokenizer, rows, training, rate, checkpoints, on_step)
        except BaseException:
            guard.undo()
            raise
    if isinstance(guard.model, PeftModel):
        guard.model.training = guard.model.base_model.training = model.training
    return guard.model


def _train(
    guard: Guard,
    tokenizer: PreTrainedTokenizerBase,
    rows: TrainingRows,
    training: Training,
    rate: float,
    checkpoints: Checkpoints | None,
    on_step: OnStep | None,
) -> None:
    log_file = None if checkpoints is None else checkpoints.folder.parent / LOG_FILE
    keeps = checkpoints is not None
    with tempfile.TemporaryDirectory() as nowhere:
        folder = checkpoints.folder if checkpoints is not None else Path(nowhere)
        trainer = GuardedTrainer(
            guard,
            tokenizer,
            checkpoints,
            keeps_all=training.save_steps is not None,
            args=training.arguments(base_of(guard.model), folder, rate),
            train_dataset=rows.rows,
            data_collator=partial(padded, pad=_pad_token(tokenizer)),
            callbacks=[Watch(on_step, log_file, training.save_steps, keeps)],
        )
        newest = checkpoints.newest() if checkpoints is not None else None
        if newest is not None:
            log.warning("going on from %s", newest)
        if log_file is not None:
            cut_log(log_file, 0 if newest is None else step_of(newest))
        trainer.run(newest)
        guard.after_training()
        trainer.check_weights()
        if guard.measure is not None:
            measured = guard.measure()
            log.info("protection: %s", measured)
            if checkpoints is not None:
                write_json(checkpoints.folder.parent / MEASURED_FILE, measured)


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    return 0 if pad is None else int(pad)  # any will do: it is never attended to or learnt
