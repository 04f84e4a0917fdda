"""Zero-shot accuracy of a model, kept task by task; and exact matches on problems with numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, Rate, append_line, read_lines
from safetypin.evaluate import (
    TaskAccuracy,
    exact_matches,
    generate,
    tokenized_requests,
    zero_shot,
)
from safetypin.stages._evaluate import kept_answers
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output

TASKS_FILE = "tasks.jsonl"
PROBLEMS_FILE = "responses-problems.jsonl"
UNITS_PER_DOCUMENT, DOCUMENTS = 60.0, 300  # a guess: tasks say how long they are when loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotSuite:
    """Which tasks, and which documents of them.

    Attributes:
        tasks: Names of lm-eval or of `CHOICE_SETS`.
        limit: Documents of each; all where None.
        seed: Of their sample.
        batch_size: Answers in a batch.
    """

    tasks: tuple[str, ...]
    limit: int | None = None
    seed: int = 0
    batch_size: int = 16

    @property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on."""
        return dataclasses.asdict(self)

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        return len(self.tasks) * UNITS_PER_DOCUMENT * (self.limit or DOCUMENTS)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Do nothing: the names were checked before the model was loaded."""


def zero_shot_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: ZeroShotSuite,
    *,
    reporter: Reporter,
) -> Output:
    """Measure the accuracy of the model as it stands on every task.

    Returns:
        `tasks`: for each its metric, documents and which of them are right.
    """
    path = folder / TASKS_FILE
    rows = {row["asked"]: row["found"] for row in read_lines(path)}
    for task in suite.tasks:
        reused = task in rows
        if not reused:
            found = zero_shot(
                model,
                tokenizer,
                task,
                limit=suite.limit,
                seed=suite.seed,
                batch_size=suite.batch_size,
            )
            rows[task] = [dataclasses.asdict(part) for part in found]
            append_line(path, {"asked": task, "found": rows[task]})
        reporter.advance(suite.units / len(suite.tasks), reused=reused)
    return Output({"tasks": [part for task in suite.tasks for part in rows[task]]}, [TASKS_FILE])


def describe_zero_shot(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return accuracy, interval and standard error of every task, and the mean over tasks.

    The standard error of the mean takes the tasks as fixed and their documents as independent.
    """
    found = [
        TaskAccuracy(
            task=row["task"],
            metric=row["metric"],
            documents=tuple(row["documents"]),
            correct=tuple(row["correct"]),
        )
        for row in result["tasks"]
    ]
    tasks = {
        task.task: {
            "metric": task.metric,
            "accuracy": task.accuracy.to_json(),
            "standard_error": task.standard_error,
        }
        for task in found
    }
    values = [task.accuracy.value or 0.0 for task in found]
    errors = [task.standard_error for task in found if task.standard_error is not None]
    known = len(errors) == len(found)
    error = sum(value**2 for value in errors) ** 0.5 / len(found) if known else None
    return {"tasks": tasks, "mean": sum(values) / len(found), "standard_error": error}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemSuite:
    """Problems whose solutions end with a number.

    Attributes:
        problems: With their solutions as responses.
        max_new_tokens: Where an answer is cut off.
        batch_size: Problems in a batch.
        plain: Use no chat template.
        system: System prompt.
    """

    problems: PromptSet
    max_new_tokens: int
    batch_size: int
    plain: bool = False
    system: str | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return own | {"problems": self.problems.fingerprint}

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        return float(len(self.problems) * self.max_new_tokens)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise if a solution has no number, or a problem does not fit the model.

        Raises:
            UserError: One does not.
        """
        exact_matches(solutions(self.problems), solutions(self.problems))
        tokenized_requests(
            model,
            tokenizer,
            self.problems,
            max_new_tokens=self.max_new_tokens,
            plain=self.plain,
            system=self.system,
        )


def solutions(problems: PromptSet) -> Sequence[str]:
    """Return the solution of every problem; empty where there is none."""
    return [prompt.response or "" for prompt in problems]


def solve_problems(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: ProblemSuite,
    *,
    reporter: Reporter,
) -> Output:
    """Let the model solve the problems.

    Returns:
        `solved`: for each whether the last number of the answer is the solution's.
    """
    done, keep = kept_answers(
        folder / PROBLEMS_FILE,
        len(suite.problems),
        max_new_tokens=suite.max_new_tokens,
        reporter=reporter,
    )
    answers = generate(
        model,
        tokenizer,
        suite.problems,
        max_new_tokens=suite.max_new_tokens,
        batch_size=suite.batch_size,
        plain=suite.plain,
        system=suite.system,
        done=done,
        on_batch=keep,
    )
    solved = exact_matches([answer.text for answer in answers], solutions(suite.problems))
    return Output({"solved": solved}, [PROBLEMS_FILE])


def describe_problems(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of problems solved, with its interval."""
    solved = result["solved"]
    return Rate(num_hits=sum(solved), num_judged=len(solved)).to_json()
