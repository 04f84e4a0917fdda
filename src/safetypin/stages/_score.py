"""Score a model on calibration prompts, and each half of them for the noise floor."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import (
    PromptSet,
    UserError,
    WeightScores,
    read_scores,
    write_mask,
    write_scores,
)
from safetypin.models import is_out_of_memory, model_fingerprint
from safetypin.prompts import COUNTED, batches, window
from safetypin.scores import SCORERS, merge, needs_reference
from safetypin.select import GROUPS, top_fraction
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output
from safetypin.stages._settings import check_choice

REDUCTIONS = ("mean", "sum")
SCORES_FILE = "scores.safetensors"
HALF_FILES = ("half-0.mask.safetensors", "half-1.mask.safetensors")
UNITS_PER_EXAMPLE = 30.0  # a forward and backward pass against one generated token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """How weights are scored.

    Attributes:
        method: Name from `SCORERS`.
        counted: Which tokens Wanda and SparseGPT count.
        reduction: SNIP's loss over the response's tokens: mean, or sum as the paper writes.
        batch_size: Prompts in a batch; the scores do not depend on it.
        group: Where the top shares are taken: row, matrix, layer or model.
        targets: Patterns of modules to score; every block weight where None.
        seed: Seed of the random score, and of the sample of prompts that a command takes.
        plain: Use no chat template.
        system: System prompt.
    """

    method: str = "snip"
    counted: str = "response"
    reduction: str = "mean"
    batch_size: int = 8
    group: str = "matrix"
    targets: tuple[str, ...] | None = None
    seed: int = 0
    plain: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, SCORERS)
        choices: dict[str, tuple[str, ...]] = {
            "counted": COUNTED,
            "reduction": REDUCTIONS,
            "group": GROUPS,
        }
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")

    @property
    def inputs(self) -> dict[str, Any]:
        """What the scores depend on."""
        names = ("method", "counted", "reduction", "targets", "seed", "plain", "system", "group")
        values = {name: getattr(self, name) for name in names}
        return values | {"targets": self.targets and list(self.targets)}


def check_method(method: str) -> None:
    """Raise unless a method is known and scores a model by itself.

    Raises:
        UserError: It is unknown, or compares with another model.
    """
    check_choice("method", method, SCORERS)
    if needs_reference(method):
        raise UserError(
            f"method {method} compares with another model, which is not at hand here; make scores "
            "with `safetypin score --reference`, then `safetypin select`"
        )


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    how: Scoring,
    *,
    reporter: Reporter,
    reference: PreTrainedModel | None = None,
) -> WeightScores:
    """Score every targeted weight; out of memory, halve the batch and say so.

    `reference` is for the methods that compare with another model, and for these alone.

    Raises:
        UserError: No response to score on, or one prompt is too much for memory.
    """
    batch_size = how.batch_size
    while True:
        try:
            return _score_once(model, tokenizer, prompts, how, batch_size, reporter, reference)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise UserError(
                    f"the memory of {model.device} does not suffice to score one prompt at a time; "
                    "use --dtype bfloat16, shorter prompts or --targets"
                ) from error
        # outside of the handler: the error holds the frames, and they the memory
        batch_size = max(1, batch_size // 2)
        torch.cuda.empty_cache()
        reporter.note(f"out of memory: going on with batches of {batch_size}")


def _score_once(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    how: Scoring,
    batch_size: int,
    reporter: Reporter,
    reference: PreTrainedModel | None,
) -> WeightScores:
    options: dict[str, Any] = {"targets": how.targets, "prompts_id": prompts.fingerprint}
    offered = {"seed": how.seed, "reduction": how.reduction, "reference": reference}
    accepted = inspect.signature(SCORERS[how.method]).parameters
    options |= {name: value for name, value in offered.items() if name in accepted}
    tokens = batches(
        prompts,
        tokenizer,
        counted=how.counted,
        batch_size=batch_size,
        plain=how.plain,
        system=how.system,
        max_length=window(model, tokenizer),
    )
    progress = reporter.counting(UNITS_PER_EXAMPLE)
    return SCORERS[how.method](model, tokens, progress=progress, **options)


def score_halves(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    how: Scoring,
    *,
    fraction: float,
    reporter: Reporter,
    reference: PreTrainedModel | None = None,
) -> Output:
    """Score on both halves of the prompts, in one pass over them, and join the halves.

    Leaves the scores on all prompts, and the top `fraction` on each half alone, whose overlap is
    the noise floor of every other overlap. One half's scores lie on the disk while the other's
    are made, and files are written matrix by matrix, so that beside the model memory holds no
    more than one float32 a weight.
    """
    before = model_fingerprint(model)
    first_file = folder / "half-0.safetensors"
    for half, path in zip(prompts.halves(), HALF_FILES, strict=True):
        scores = score(model, tokenizer, half, how, reporter=reporter, reference=reference)
        write_mask(folder / path, top_fraction(scores, fraction, group=how.group))
        if path == HALF_FILES[0]:
            write_scores(first_file, scores)
            del scores  # the next half's are made beside the model alone
    scores = merge(read_scores(first_file), scores)
    write_scores(folder / SCORES_FILE, scores)
    first_file.unlink()
    assert model_fingerprint(model) == before, "scoring changed the model"
    result = {
        "num_examples": scores.num_examples,
        "num_tokens": scores.num_tokens,
        "coverage": scores.coverage,
        "fraction": fraction,
    }
    return Output(result, [SCORES_FILE, *HALF_FILES])
