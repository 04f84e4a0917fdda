"""Zero-shot accuracy through lm-evaluation-harness (the extra `[zero-shot]`).

The six tasks are those of Wei et al. 2024 (arXiv:2402.05162), `acc`, without examples and without a
chat template. They come from the Hub; the sets of `CHOICE_SETS` need none. Wei et al. take the
first 200 documents of each; here a limit is a seeded sample, the same for every model.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Rate, UserError
from safetypin.hooks import at_rest
from safetypin.prompts import CHOICE_SETS

PAPER_TASKS = ("boolq", "rte", "hellaswag", "winogrande", "arc_challenge", "openbookqa")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAccuracy:
    """Which documents of a task a model answers rightly.

    Attributes:
        task: Its name in lm-eval or in `CHOICE_SETS`.
        metric: `acc`, the likeliest answer; or `acc_norm`, the likeliest per byte.
        documents: Their places in the task.
        correct: 1 where the answer is right, else 0, document by document.
    """

    task: str
    metric: str
    documents: tuple[int, ...]
    correct: tuple[int, ...]

    @property
    def accuracy(self) -> Rate:
        """The share that is right."""
        return Rate(num_hits=sum(self.correct), num_judged=len(self.correct))

    @property
    def standard_error(self) -> float | None:
        """The standard error of the share, as lm-eval has it; None for fewer than two documents."""
        share, count = self.accuracy.value, len(self.correct)
        if share is None or count < 2:
            return None
        return math.sqrt(share * (1 - share) / (count - 1))


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise before a model is loaded if these tasks cannot be measured here.

    Raises:
        UserError: lm-eval is not installed, or a task is unknown or named twice.
    """
    if not tasks:
        raise UserError(f"no task named; choose among {', '.join(_own())}, or any of lm-eval")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "zero-shot accuracy is measured by lm-eval, which is not installed; "
            "pip install 'safetypin[zero-shot]'"
        )
    for place, name in enumerate(tasks):
        if name in tasks[:place]:
            raise UserError(f"task {name!r} is named twice")
        if name not in _own() and name not in _manager(everything=True).all_tasks:
            known = [*_own(), *_manager(everything=True).all_tasks]
            near = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
            raise UserError(
                f"no zero-shot task {name!r}; nearest: {', '.join(near or _own())} "
                f"(without a hub: {', '.join(CHOICE_SETS)})"
            )


def zero_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> list[TaskAccuracy]:
    """Return the accuracy on a task; a group such as `mmlu` gives one for each of its tasks.

    Args:
        model: A causal language model. It is left as it was.
        tokenizer: Its tokenizer.
        task: A name of lm-eval or of `CHOICE_SETS`.
        limit: Documents to take, at random; all where None.
        seed: Of that sample, which depends on nothing else, so every model gets the same.
        batch_size: Answers in a batch.

    Raises:
        UserError: The task is unknown, has no accuracy, or its documents cannot be had.
    """
    check_tasks([task])
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    # its bars and notes go to the error stream
    with contextlib.redirect_stderr(io.StringIO()), at_rest(model):
        manager = _manager(everything=task not in CHOICE_SETS)
        loaded = _load(manager, task)
        chosen = {name: _sample(len(made.eval_docs), limit, seed) for name, made in loaded.items()}
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(loaded.values()),
            samples=chosen,
            num_fewshot=0,
            task_manager=manager,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    assert found is not None, "lm-eval gives no results to processes other than the first"
    return [_accuracy(name, rows) for name, rows in found["samples"].items()]


def _own() -> tuple[str, ...]:
    return (*PAPER_TASKS, *CHOICE_SETS)


@functools.lru_cache
def _manager(*, everything: bool) -> Any:  # noqa: ANN401 - lm-eval has no types
    """Return what finds tasks; looking through all of lm-eval's takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=everything)


def _load(manager: Any, task: str) -> dict[str, Any]:  # noqa: ANN401
    try:
        tasks: dict[str, Any] = manager.load([_config(task)])["tasks"]
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the documents of {task!r} could not be loaded ({reason}); check the network, or take "
            f"a task that needs none: {', '.join(CHOICE_SETS)}"
        ) from error
    for name, made in tasks.items():
        if "acc" not in made.aggregation():
            shown = ", ".join(made.aggregation())
            raise UserError(f"task {name!r} measures {shown}, no accuracy; choose another")
    return tasks


def _config(task: str) -> str | dict[str, Any]:
    """Return a task as lm-eval takes it: a name of its own, or a description."""
    if task not in CHOICE_SETS:
        return task
    return {
        "task": task,
        "custom_dataset": functools.partial(_documents, task),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
    }


def _documents(task: str, **_: object) -> dict[str, Any]:
    import datasets

    rows = [dataclasses.asdict(question) for question in CHOICE_SETS[task].read()]
    return {"test": datasets.Dataset.from_list(rows)}


def _sample(count: int, limit: int | None, seed: int) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:limit].tolist())


def _accuracy(task: str, rows: list[dict[str, Any]]) -> TaskAccuracy:
    own = CHOICE_SETS.get(task)
    metric = "acc_norm" if own and own.normalised else "acc"
    by_document = {int(row["doc_id"]): int(row[metric]) for row in rows}
    documents = sorted(by_document)
    return TaskAccuracy(
        task=task,
        metric=metric,
        documents=tuple(documents),
        correct=tuple(by_document[document] for document in documents),
    )
