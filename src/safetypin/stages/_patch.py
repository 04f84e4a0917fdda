"""Is a set of units the cause? Patch it into the unaligned model, ablate it in the aligned one."""

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    NeuronScores,
    NeuronSet,
    PromptSet,
    Response,
    RunRecord,
    UserError,
    read_neuron_scores,
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
from safetypin.prompts import load_prompts
from safetypin.report import write_report
from safetypin.select import random_neurons, top_neurons
from safetypin.stages._describe import describe_judge, describe_prompts
from safetypin.stages._evaluate import kept_answers
from safetypin.stages._pair import (
    Where,
    check_pair,
    load_neurons,
    load_subject,
    neurons_folder,
)
from safetypin.stages._patch_config import PatchConfig
from safetypin.stages._patch_metrics import Cell, End, describe_cells
from safetypin.stages._patch_plan import Plan, plans
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._rates import finite
from safetypin.stages._run import Output, held
from safetypin.stages._score_files import PROMPT_HASHES
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
        self.unsafe = load_subject(self.config.reference, where)
        self.neurons = self._check()
        own = None if self.scores is not None else self.neurons.fraction
        if own is not None:
            said = f"the set has no ranking: it is tried whole, at its own {own:.2%} of all units"
            self.series.reporter.note(said)
        planned = list(plans(self.config, own))
        twice = sum(2 if plan.direction == "patch" else 1 for plan in planned)
        self.series.reporter.expect((2 + twice) * self._units)
        safe = self._baseline("safe", self.safe)
        unsafe = self._baseline("unsafe", self.unsafe)
        cells = [self._cell(plan) for plan in planned]
        return self._finish(safe, unsafe, cells)

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

    def _check(self) -> NeuronSet:
        config = self.config
        neurons = load_neurons(config.neurons, self.safe, any_model=config.any_model)
        check_pair(self.safe, self.unsafe, neurons.site)
        patchable(self.unsafe.model, neurons)
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
        chosen = neurons_folder(config.neurons)
        record = RunRecord.read(chosen).result
        shared = sorted(set(record.get(PROMPT_HASHES, [])) & set(self.asked.hashes))
        if shared and not config.allow_shared_prompts:
            raise UserError(
                f"{len(shared)} attack prompts are among those that the neurons were found on, "
                f"first {self.asked.hashes[shared[0]][:60]!r}; use others, or allow it with "
                "--allow-shared-prompts"
            )
        self.group = record.get("group", "model")
        self.scores = self._ranking(chosen.parent / "scores" / NEURON_SCORES_FILE, neurons)
        return neurons

    def _ranking(self, path: Path, neurons: NeuronSet) -> NeuronScores | None:
        """Return the scores whose top the set is; None where it is no top, and has one size.

        A set without foundation units is none, nor is one beside scores that are not its own.
        """
        if not path.exists():
            return None
        scores = read_neuron_scores(path)
        if scores.tensors.keys() != neurons.tensors.keys():
            return None
        top = top_neurons(scores, neurons.fraction, group=self.group)
        return scores if top.fingerprint == neurons.fingerprint else None

    def _set(self, plan: Plan) -> NeuronSet:
        """Return the set of a plan: the top by rank, or as many random units in every layer."""
        if self.scores is not None:
            chosen = top_neurons(self.scores, plan.fraction, group=self.group)
        elif plan.fraction == 1:
            every = {name: members | True for name, members in self.neurons.tensors.items()}
            chosen = dataclasses.replace(self.neurons, tensors=every)
        else:
            chosen = self.neurons
        return chosen if plan.seed is None else random_neurons(chosen, seed=plan.seed)

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

        return self.series.run(name, inputs, compute, units=self._units)

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
        return Output(found, ["responses.jsonl"])

    def _cell(self, plan: Plan) -> Cell:
        neurons = self._set(plan)
        subjects = (self.unsafe, self.safe) if plan.direction == "patch" else (self.safe,)
        inputs = self._inputs(*subjects) | {"neurons": neurons.fingerprint}

        def compute(folder: Path) -> Output:
            known, keep = self._kept(folder)
            how = {"done": known, "on_batch": keep, **self._how}
            first, source = subjects[0], self.safe.model
            reader = first.tokenizer
            if plan.direction == "ablate":
                with ablated(first.model, neurons):
                    answers = generate(first.model, reader, self.asked, **how)
                    return self._judged(answers, first.model)
            answers = generate_patched(first.model, source, reader, self.asked, neurons, **how)
            with patched(first.model, source, neurons):
                return self._judged(answers, first.model)

        units = self._units * len(subjects)
        record = self.series.run(plan.name, inputs, compute, units=units)
        shared = 0 if plan.seed is None else (neurons & self._top(plan)).num_selected
        return Cell(
            arm=plan.arm,
            direction=plan.direction,
            fraction=plan.fraction,
            seed=plan.seed,
            num_selected=neurons.num_selected,
            num_shared=shared,
            **_measured(record),
        )

    def _top(self, plan: Plan) -> NeuronSet:
        return self._set(dataclasses.replace(plan, arm="contrast", seed=None))

    def _finish(self, safe: RunRecord, unsafe: RunRecord, cells: list[Cell]) -> dict[str, Any]:
        config = self.config
        found = {
            "schema": SCHEMA,
            "kind": "patch",
            "safetypin": version("safetypin"),
            "settings": config.model_dump(mode="json"),
            "safe_id": self.safe.identity,
            "unsafe_id": self.unsafe.identity,
            "site": self.neurons.site,
            "num_units": self.neurons.num_units,
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
