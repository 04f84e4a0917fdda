"""Is a set of units the cause? Patch it into the unaligned model, ablate it in the aligned one."""

import dataclasses
import functools
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import (
    PromptSet,
    Response,
    RunRecord,
    UserError,
    write_json,
)
from safetypin.evaluate import (
    OnBatch,
    generate,
    generate_patched,
    judge_options,
    judge_with_reasons,
    patchable,
    patched,
    perplexity,
    tokenized_requests,
    tokenized_texts,
)
from safetypin.intervene import ablated
from safetypin.prompts import batches, load_prompts
from safetypin.report import write_report
from safetypin.scores import unit_means
from safetypin.stages._describe import describe_judge, describe_prompts
from safetypin.stages._evaluate import kept_answers
from safetypin.stages._pair import (
    Where,
    check_pair,
    load_subject,
    template_note,
)
from safetypin.stages._patch_config import PatchConfig
from safetypin.stages._patch_metrics import Cell, End, describe_cells
from safetypin.stages._patch_plan import Plan, plans
from safetypin.stages._patch_sets import PatchSets
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._rates import finite
from safetypin.stages._run import Output, held
from safetypin.stages._series import Series
from safetypin.stages._subject import Subject

SCHEMA = 1
TEXT_UNITS = 10.0  # of progress: a text takes about as long as so many tokens of an answer
Given = dict[str, Any]


def patch_models(
    config: PatchConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Measure what share of the safety gap a set of units carries over, beside random sets.

    Leaves `metrics.json` and `report.html` in `out`; a killed run goes on at its next batch.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    out = Path(out)
    asked = _sample(config, config.attack, config.num_attack, config.prompt_column)
    text = _sample(config, config.text, config.num_text, "prompt")
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Patching(config, Series(out, reporter), asked, text).run()


def _sample(config: PatchConfig, source: str, count: int, column: str) -> PromptSet:
    loaded = load_prompts(source, prompt_column=column)
    return loaded.shuffled(config.seed).take(min(count, len(loaded)))


class _Patching:
    """The state of one run."""

    def __init__(
        self, config: PatchConfig, series: Series, asked: PromptSet, text: PromptSet
    ) -> None:
        self.config, self.series, self.asked, self.text = config, series, asked, text
        self.out = series.out

    def run(self) -> dict[str, Any]:
        """Answer with both models, then with every set."""
        self.series.reporter.stage("loading the models")
        where = Where(dtype=self.config.dtype, device=self.config.device)
        self.safe = load_subject(self.config.model, where)
        unsafe = load_subject(self.config.reference, where)
        self.sets = PatchSets(self.config, self.safe, self.asked, self.series.reporter)
        self._check(unsafe)
        if note := template_note(self.safe.tokenizer, unsafe.tokenizer):
            self.series.reporter.note(note)
        self.unsafe = dataclasses.replace(unsafe, tokenizer=self.safe.tokenizer)
        planned = list(plans(self.config, self.sets.own_fraction))
        num_models = sum(len(self._models(plan)) for plan in planned)
        self.series.reporter.expect((2 + num_models) * self._units)
        safe = self._baseline("safe", self.safe)
        end = self._baseline("unsafe", self.unsafe)
        return self._finish(safe, end, [self._cell(plan) for plan in planned])

    @property
    def _units(self) -> float:
        return float(len(self.asked) * self.config.max_new_tokens + TEXT_UNITS * len(self.text))

    @property
    def _how(self) -> Given:
        names = ("max_new_tokens", "batch_size", "plain", "system")
        return {name: getattr(self.config, name) for name in names}

    @property
    def _reading(self) -> Given:
        names = ("window", "plain", "system")
        return {name: getattr(self.config, name) for name in names}

    def _check(self, unsafe: Subject) -> None:
        config = self.config
        check_pair(self.safe, unsafe, self.sets.neurons.site)
        patchable(unsafe.model, self.sets.neurons)
        tokenized_requests(
            self.safe.model,
            self.safe.tokenizer,
            self.asked,
            max_new_tokens=config.max_new_tokens,
            plain=config.plain,
            system=config.system,
        )
        # a text without a token to predict is said before any answer
        tokenized_texts(self.safe.model, self.safe.tokenizer, self.text, **self._reading)

    def _baseline(self, name: str, subject: Subject) -> RunRecord:
        inputs = self._inputs(subject)

        def compute(folder: Path) -> Output:
            known, keep = self._kept(folder)
            answers = generate(
                subject.model,
                subject.tokenizer,
                self.asked,
                done=known,
                on_batch=keep,
                **self._how,
            )
            return self._judged(answers, subject.model)

        record = self.series.run(name, inputs, compute, units=self._units)
        if None in record.result["perplexity"]["losses"]:
            raise UserError(
                f"the {name} model overflows {subject.model.dtype} before anything is patched; "
                "load it with --dtype bfloat16 or float32"
            )
        return record

    def _kept(self, folder: Path) -> tuple[dict[int, Response], OnBatch]:
        return kept_answers(
            folder / "responses.jsonl",
            len(self.asked),
            max_new_tokens=self.config.max_new_tokens,
            reporter=self.series.reporter,
        )

    def _inputs(self, *subjects: Subject) -> Given:
        config = self.config
        return {
            "models": [subject.inputs for subject in subjects],
            "prompts": self.asked.fingerprint,
            "text": self.text.fingerprint,
            "window": config.window,
            "judge": config.judge,
            "judge_options": list(config.judge_options),
            **self._how,
        }

    def _judged(self, answers: list[Response], model: PreTrainedModel) -> Output:
        """Return the verdicts on the answers, and the perplexity of the model as it stands."""
        options = judge_options(self.config.judge_options)
        findings = judge_with_reasons(answers, self.config.judge, **options)
        measured = perplexity(model, self.safe.tokenizer, self.text, **self._reading)
        self.series.reporter.advance(TEXT_UNITS * len(self.text))
        found = {
            "verdicts": [f.verdict.value for f in findings],
            "perplexity": {
                "losses": [finite(loss) for loss in measured.losses],
                "counts": list(measured.counts),
            },
        }
        outage = any(finding.is_outage for finding in findings)
        return Output(found, ["responses.jsonl"], not outage)

    def _cell(self, plan: Plan) -> Cell:
        neurons, subjects = self.sets.of(plan), self._models(plan)
        inputs = self._inputs(*subjects) | {"neurons": neurons.fingerprint}
        if plan.direction == "ablate":
            inputs["with"] = self.config.ablate_with

        def compute(folder: Path) -> Output:
            known, keep = self._kept(folder)
            how = {"done": known, "on_batch": keep, **self._how}
            model, *sources = (subject.model for subject in subjects)
            reader = self.safe.tokenizer
            if not sources:
                with ablated(model, neurons, values=self._held):
                    answers = generate(model, reader, self.asked, **how)
                    return self._judged(answers, model)
            answers = generate_patched(model, sources[0], reader, self.asked, neurons, **how)
            with patched(model, sources[0], neurons):
                return self._judged(answers, model)

        units = self._units * len(subjects)
        record = self.series.run(plan.name, inputs, compute, units=units)
        return Cell(
            arm=plan.arm,
            direction=plan.direction,
            fraction=plan.fraction,
            seed=plan.seed,
            num_selected=neurons.num_selected,
            num_shared=self.sets.num_shared(plan, neurons),
            **_measured(record),
        )

    def _models(self, plan: Plan) -> tuple[Subject, ...]:
        """Return the model that changes, and the one whose activations it takes, if any."""
        if plan.direction == "patch":
            return self.unsafe, self.safe
        return (self.safe, self.unsafe) if self.config.ablate_with == "reference" else (self.safe,)

    @functools.cached_property
    def _held(self) -> dict[str, Tensor] | None:
        """What the aligned model's units are held at; None for zero."""
        if self.config.ablate_with == "zero":
            return None
        subject = self.safe
        asked = batches(
            self.asked,
            subject.tokenizer,
            counted="prompt",
            batch_size=self.config.batch_size,
            plain=self.config.plain,
            system=self.config.system,
        )
        return unit_means(subject.model, asked, site=self.sets.neurons.site)

    def _finish(self, safe: RunRecord, unsafe: RunRecord, cells: list[Cell]) -> dict[str, Any]:
        config = self.config
        found = {
            "schema": SCHEMA,
            "kind": "patch",
            "safetypin": version("safetypin"),
            "settings": config.model_dump(mode="json"),
            "safe_id": self.safe.identity,
            "unsafe_id": self.unsafe.identity,
            "site": self.sets.neurons.site,
            "num_units": self.sets.neurons.num_units,
            "ablate_with": config.ablate_with,
            "are_prompts_known": self.sets.are_prompts_known,
            "judge": describe_judge(config.judge, config.max_new_tokens),
            "prompts": describe_prompts(
                {"attack": self.asked, "text": self.text},
                {"attack": config.attack, "text": config.text},
            ),
            **describe_cells(
                End(**_measured(safe)),
                End(**_measured(unsafe)),
                cells,
                max_degenerate=config.max_degenerate,
            ),
            "run": self.series.describe(),
        }
        write_json(self.out / "metrics.json", found)
        write_report(self.out)
        self.series.reporter.finish()
        return found


def _measured(record: RunRecord) -> Given:
    return {name: record.result[name] for name in ("verdicts", "perplexity")}
