"""Evaluate a model: verdicts on its answers to each prompt set, and its perplexity."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, Response, append_line, read_lines
from safetypin.evaluate import (
    OnBatch,
    generate,
    judge_with_reasons,
    perplexity,
    refusal_judge,
    tokenized_requests,
    tokenized_texts,
)
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """What a model is evaluated on, and how.

    Attributes:
        prompts: Prompt sets by kind: harmful, harmless, borderline; any may be missing.
        text: Texts for the perplexity; none is measured where None.
        max_new_tokens: Where an answer is cut off.
        batch_size: Prompts in a batch.
        judge: Name of the judge.
        judge_options: What the judge takes besides, by name.
        window: Most tokens of a text.
        plain: Use no chat template.
        system: System prompt.
    """

    prompts: Mapping[str, PromptSet]
    text: PromptSet | None
    max_new_tokens: int
    batch_size: int
    judge: str = "phrases"
    judge_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    window: int = 512
    plain: bool = False
    system: str | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on."""
        fingerprints = {kind: prompts.fingerprint for kind, prompts in self.prompts.items()}
        return {
            "prompts": fingerprints,
            "text": self.text and self.text.fingerprint,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "judge": self.judge,
            "judge_options": dict(self.judge_options),
            **second_judge(self.judge, self.judge_options),
            "window": self.window,
            "plain": self.plain,
            "system": self.system,
        }

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""
        answers = sum(len(prompts) for prompts in self.prompts.values()) * self.max_new_tokens
        return answers + 10.0 * (len(self.text) if self.text else 0)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise before anything is generated if a prompt or a text does not fit the model.

        Raises:
            UserError: No chat template, a prompt that is longer than the window, or a text without
                a token to predict.
        """
        how: dict[str, Any] = {"plain": self.plain, "system": self.system}
        for prompts in self.prompts.values():
            tokenized_requests(model, tokenizer, prompts, max_new_tokens=self.max_new_tokens, **how)
        if self.text is not None:
            tokenized_texts(model, tokenizer, self.text, window=self.window, **how)


def second_judge(judge: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return as an input of a stage who tells refusals beside a judge that does not; else nothing.

    Nothing, so that a stage that was done before there was a second judge is not done again.
    """
    other = refusal_judge(judge, options)
    return {"refusal_judge": other} if other else {}


def answer(
    folder: Path,
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    *,
    reporter: Reporter,
    max_new_tokens: int,
    batch_size: int,
    plain: bool = False,
    system: str | None = None,
) -> list[Response]:
    """Let the model answer, keeping every finished batch in `folder` so that a kill loses one."""
    path = folder / f"responses-{name}.jsonl"
    done, keep = kept_answers(path, len(prompts), max_new_tokens=max_new_tokens, reporter=reporter)
    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        plain=plain,
        system=system,
        done=done,
        on_batch=keep,
    )


def kept_answers(
    path: Path, num_answers: int, *, max_new_tokens: int, reporter: Reporter
) -> tuple[dict[int, Response], OnBatch]:
    """Return the answers that a file holds by their index, and what adds a batch to it."""
    done = {row["index"]: Response(**row["response"]) for row in read_lines(path)}
    reporter.advance(len(done) * max_new_tokens, reused=True)

    def keep(indices: list[int], responses: list[Response]) -> None:
        for index, response in zip(indices, responses, strict=True):
            append_line(path, {"index": index, "response": dataclasses.asdict(response)})
        reporter.advance(len(indices) * max_new_tokens)
        reporter.detail(f"{path}: {len(indices)} more answers, {num_answers} in all")

    return done, keep


def answer_suite(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    *,
    reporter: Reporter,
) -> dict[str, list[Response]]:
    """Let the model answer all kinds of prompts, in batches that the kinds share.

    A step of generation costs a small batch nearly what it costs a full one. Each kind keeps its
    answers in a file of its own, batch by batch.
    """
    places = [(kind, i) for kind, prompts in suite.prompts.items() for i in range(len(prompts))]
    numbers = {place: number for number, place in enumerate(places)}
    done: dict[int, Response] = {}
    keep: dict[str, OnBatch] = {}
    for kind, prompts in suite.prompts.items():
        path = folder / f"responses-{kind}.jsonl"
        known, keep[kind] = kept_answers(
            path, len(prompts), max_new_tokens=suite.max_new_tokens, reporter=reporter
        )
        done |= {numbers[kind, index]: response for index, response in known.items()}

    def keep_all(batch: list[int], responses: list[Response]) -> None:
        found = [(*places[n], response) for n, response in zip(batch, responses, strict=True)]
        for kind in suite.prompts:
            own = {index: response for of, index, response in found if of == kind}
            if own:
                keep[kind](list(own), list(own.values()))

    answers = generate(
        model,
        tokenizer,
        [prompt for prompts in suite.prompts.values() for prompt in prompts],
        max_new_tokens=suite.max_new_tokens,
        batch_size=suite.batch_size,
        plain=suite.plain,
        system=suite.system,
        done=done,
        on_batch=keep_all,
    )
    return {
        kind: [answers[numbers[kind, index]] for index in range(len(prompts))]
        for kind, prompts in suite.prompts.items()
    }


def evaluate_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    *,
    reporter: Reporter,
) -> Output:
    """Evaluate the model as it stands.

    Returns:
        `verdicts` and `reasons` by kind, in the order of the prompts; `perplexity` with the loss
        and token count of each text (a loss is None where it overflowed).
    """
    verdicts, reasons, outage = {}, {}, False
    answers = answer_suite(folder, model, tokenizer, suite, reporter=reporter)
    other = refusal_judge(suite.judge, suite.judge_options)
    for kind, responses in answers.items():
        if other and kind != "harmful":
            findings = judge_with_reasons(responses, other)
        else:
            findings = judge_with_reasons(responses, suite.judge, **suite.judge_options)
        verdicts[kind] = [finding.verdict.value for finding in findings]
        reasons[kind] = [finding.reason for finding in findings]
        outage |= any(finding.is_outage for finding in findings)
    result: dict[str, Any] = {"verdicts": verdicts, "reasons": reasons, "perplexity": None}
    if suite.text is not None:
        measured = perplexity(
            model,
            tokenizer,
            suite.text,
            window=suite.window,
            plain=suite.plain,
            system=suite.system,
        )
        reporter.advance(10.0 * len(suite.text))
        losses = [loss if math.isfinite(loss) else None for loss in measured.losses]
        result["perplexity"] = {"losses": losses, "counts": list(measured.counts)}
    return Output(result, [f"responses-{kind}.jsonl" for kind in suite.prompts], not outage)


def read_responses(folder: Path, kind: str) -> list[Response]:
    """Return the answers of an evaluation, in the order of its prompts."""
    rows = read_lines(folder / f"responses-{kind}.jsonl")
    # a batch that a kill cut in two is answered again as a whole, so an index may come twice
    answers = {row["index"]: Response(**row["response"]) for row in rows}
    return [answers[index] for index in sorted(answers)]
