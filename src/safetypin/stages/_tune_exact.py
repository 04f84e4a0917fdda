"""How many held-out problems a model solves, by the last number of its answers."""

from safetypin.artifacts import PromptSet
from safetypin.evaluate import exact_matches, generate
from safetypin.stages._subject import Subject
from safetypin.stages._tune_config import TuneConfig


def check_solutions(task: PromptSet) -> None:
    """Raise unless every solution holds a number.

    Raises:
        UserError: One does not.
    """
    solutions = [prompt.response or "" for prompt in task]
    exact_matches(solutions, solutions)


def solved(subject: Subject, task: PromptSet, config: TuneConfig) -> list[bool]:
    """Return for each problem whether the model's last number is that of the solution."""
    answers = generate(
        subject.model,
        subject.tokenizer,
        task,
        max_new_tokens=config.exact_match_tokens,
        batch_size=config.answer_batch_size,
        plain=config.plain,
        system=config.system,
    )
    solutions = [prompt.response or "" for prompt in task]
    return exact_matches([answer.text for answer in answers], solutions)
