"""Scores on the way of a larger run: on what, by whose answers, and how."""

from typing import Any, Protocol, runtime_checkable

from safetypin.artifacts import PromptSet, UserError, Verdict
from safetypin.evaluate import judge_options
from safetypin.stages._calibrate import MIN_CALIBRATION, calibrate, read_calibration
from safetypin.stages._evaluate import second_judge
from safetypin.stages._run import Output
from safetypin.stages._score import Scoring
from safetypin.stages._series import Series
from safetypin.stages._subject import SCORED, Subject


@runtime_checkable
class AnswerSettings(Protocol):
    """How a model answers the prompts that it will be scored on."""

    max_new_tokens: int
    answer_batch_size: int
    judge: str
    judge_options: tuple[str, ...]
    plain: bool
    system: str | None


@runtime_checkable
class ScoreSettings(Protocol):
    """How weights are scored; all are only read, so that a frozen config will do."""

    @property
    def method(self) -> str:
        """Name from `SCORERS`."""

    @property
    def counted(self) -> str:
        """Which tokens Wanda and SparseGPT count."""

    @property
    def reduction(self) -> str:
        """SNIP's loss over a response."""

    @property
    def score_batch_size(self) -> int:
        """Prompts in a batch."""

    @property
    def group(self) -> str:
        """Where tops are taken."""

    @property
    def targets(self) -> tuple[str, ...] | None:
        """Patterns of what is scored."""

    @property
    def seed(self) -> int:
        """Of the random score."""

    @property
    def plain(self) -> bool:
        """Use no chat template."""

    @property
    def system(self) -> str | None:
        """System prompt."""


def calibrated(
    series: Series, settings: AnswerSettings, subject: Subject, name: str, prompts: PromptSet
) -> PromptSet:
    """Return prompts with the model's own answers, of the kind to score on.

    Args:
        series: The stage `calibration-NAME` is run in it.
        settings: How the model answers and who judges.
        subject: The model.
        name: `safety` or `utility`.
        prompts: What to ask.

    Raises:
        UserError: Too few of the answers are of the kind.
    """
    keep, options = SCORED[name], judge_options(settings.judge_options)
    answering: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.answer_batch_size,
        "plain": settings.plain,
        "system": settings.system,
    }
    inputs = {
        **subject.inputs,
        "prompts": prompts.fingerprint,
        "keep": keep.value,
        "judge": settings.judge,
        "judge_options": options,
        **second_judge(settings.judge, options),
        **answering,
    }

    def compute(folder: Any) -> Output:  # noqa: ANN401
        return calibrate(
            folder,
            subject.model,
            subject.tokenizer,
            prompts,
            keep=keep,
            judge_name=settings.judge,
            judge_options=options,
            reporter=series.reporter,
            **answering,
        )

    units = len(prompts) * float(settings.max_new_tokens)
    result = series.run(f"calibration-{name}", inputs, compute, units=units).result
    if result["num_kept"] < MIN_CALIBRATION:
        raise UserError(_too_few(result, name, keep))
    return read_calibration(series.out / f"calibration-{name}", name)


def _too_few(result: Any, name: str, keep: Verdict) -> str:  # noqa: ANN401
    return (
        f"only {result['num_kept']} of {result['num_asked']} {name} prompts can be scored on "
        f"(an answer that is a {keep.value} counts), {MIN_CALIBRATION} are needed; give other "
        f"prompts with --{name}, or a set that is made already"
    )


def scoring(settings: ScoreSettings, name: str) -> Scoring:
    """Return how weights are scored on the prompts `name`: `safety` or `utility`."""
    # two random sets with one seed would be one set
    other_seed = settings.method == "random" and name == "utility"
    return Scoring(
        method=settings.method,
        counted=settings.counted,
        reduction=settings.reduction,
        batch_size=settings.score_batch_size,
        group=settings.group,
        targets=settings.targets,
        seed=settings.seed + other_seed,
        plain=settings.plain,
        system=settings.system,
    )
