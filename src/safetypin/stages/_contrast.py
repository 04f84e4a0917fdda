"""Contrast two models, or remove each unit of one: scores, the top of them, and where it is."""

import contextlib
import dataclasses
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    NEURONS_FILE,
    Batch,
    PromptSet,
    RunRecord,
    read_neuron_scores,
    write_json,
    write_neurons,
)
from safetypin.models import base_fingerprint, load_adapted, model_id
from safetypin.prompts import batches, load_prompts, window
from safetypin.report import write_report
from safetypin.scores import Recorded, contrast_parts, record
from safetypin.select import top_neurons
from safetypin.stages._ablation import ablation_output
from safetypin.stages._calibrate import calibrate, read_calibration
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._contrast_metrics import describe_neurons, keep_scores
from safetypin.stages._describe import describe_prompts
from safetypin.stages._pair import (
    Where,
    check_tokenizers,
    fits_beside,
    load_subject,
    release,
)
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._run import Output, held
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._series import Series
from safetypin.stages._subject import Subject

SCHEMA = 1
UNITS_PER_PASS = 10.0  # a forward pass over an example, against one generated token
SPOOL = ".activations"
HALVES = ("half-0", "half-1")


def contrast_models(
    config: ContrastConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Score the units of a model, select the top, and say where it is.

    Leaves `scores` and `neurons` (folders of `load`), `metrics.json` and `report.html` in `out`.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    out = Path(out)
    asked = _sample(config.prompts, config.num_prompts, config)
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Contrast(config, Series(out, reporter), asked).run()


def _sample(source: str, count: int, config: ContrastConfig) -> PromptSet:
    loaded = load_prompts(source, prompt_column=config.prompt_column)
    return loaded.shuffled(config.seed).take(min(count, len(loaded)))


class _Contrast:
    """The state of one run."""

    def __init__(self, config: ContrastConfig, series: Series, asked: PromptSet) -> None:
        self.config, self.series, self.asked = config, series, asked
        self.out = series.out
        self.prompts = {"contrast": asked}
        self.sources = {"contrast": config.prompts}
        self.where = Where(dtype=config.dtype, device=config.device)

    def run(self) -> dict[str, Any]:
        """Load, answer, score, select, describe."""
        self.series.reporter.stage("loading the model")
        reporter = self.series.reporter
        reporter.expect(len(self.asked) * (self.config.max_new_tokens + 2 * UNITS_PER_PASS))
        self._load()
        self._answer()
        scored = self._score()
        chosen = self._select(scored)
        return self._finish(scored, chosen)

    def _load(self) -> None:
        """Load the reference first: it answers, and may have to leave before the other comes."""
        config = self.config
        self.subject: Subject | None = None
        self.adapted: PeftModel | None = None
        if config.adapter_off:
            self._load_adapted()
        elif config.reference is None:
            self.subject = self.reference = load_subject(config.model, self.where)
        else:
            self.reference = load_subject(config.reference, self.where)
            apart = config.one_at_a_time
            if apart is None:
                apart = not fits_beside(self.reference.model)
            if not apart:
                self._load_second()
        self.reference_id = self._reference_id()

    def _load_adapted(self) -> None:
        config = self.config
        both, tokenizer = load_adapted(config.model, dtype=config.dtype, device=config.device)
        self.adapted = both
        inner: Any = both.get_base_model()
        self.subject = Subject(model=inner, tokenizer=tokenizer, identity=model_id(both))
        self.reference = self.subject

    def _load_second(self) -> None:
        self.subject = load_subject(self.config.model, self.where)
        check_tokenizers(self.subject.tokenizer, self.reference.tokenizer)

    def _reference_id(self) -> str | None:
        if self.config.reference is not None:
            return self.reference.identity
        if self.adapted is not None:
            return f"{self.config.model} without adapter#{base_fingerprint(self.adapted)}"
        return None

    def _answer(self) -> None:
        """Let the reference answer, as in Chen et al., where answers count and none are given."""
        config, asked = self.config, self.asked
        self.examples = asked
        if not config.answers or asked.has_responses:
            return
        how = {"plain": config.plain, "system": config.system}
        options = {"max_new_tokens": config.max_new_tokens, "batch_size": 32, **how}
        inputs = {**self.reference.inputs, "prompts": asked.fingerprint, **options}

        def compute(folder: Path) -> Output:
            off = self.adapted.disable_adapter() if self.adapted else contextlib.nullcontext()
            with off:
                return calibrate(
                    folder,
                    self.reference.model,
                    self.reference.tokenizer,
                    asked,
                    keep=None,
                    judge_name="phrases",
                    judge_options={},
                    reporter=self.series.reporter,
                    **options,  # type: ignore[arg-type]
                )

        units = len(asked) * float(config.max_new_tokens)
        self.series.run("answers", inputs, compute, units=units)
        self.examples = read_calibration(self.out / "answers", asked.name)

    def _batches(self, prompts: PromptSet, counted: str) -> list[Batch]:
        config, by = self.config, self.reference
        return batches(
            prompts,
            by.tokenizer,
            counted=counted,
            batch_size=config.batch_size,
            plain=config.plain,
            system=config.system,
            max_length=window(by.model, by.tokenizer),
        )

    def _score(self) -> RunRecord:
        config = self.config
        names = [
            "model",
            "method",
            "site",
            "scale",
            "weighting",
            "counted",
            "plain",
            "system",
            "dtype",
        ]
        inputs = {name: getattr(config, name) for name in names}
        inputs["reference_id"] = self.reference_id
        inputs |= {"prompts": self.examples.fingerprint}
        if self.subject is not None:
            inputs["model_id"] = self.subject.identity
        if config.method == "ablation":
            inputs |= {"fraction": config.fraction, "group": config.group}
            inputs |= {"foundation": config.foundation, "num": config.num_foundation}
            inputs["foundation_fraction"] = config.foundation_fraction
        units = len(self.examples) * 2 * UNITS_PER_PASS
        return self.series.run("scores", inputs, self._compute, units=units)

    def _compute(self, folder: Path) -> Output:
        config = self.config
        if config.method == "ablation":
            foundation = self._foundation()
            rows = self._batches(self.examples, config.counted)
            alone = self.reference.model
            return ablation_output(folder, alone, rows, foundation, config, self.asked)
        # the noise floor's halves: what all prompts give is their sum, and nothing is read twice
        halves = dict(zip(HALVES, self.examples.halves(), strict=True))
        read = {name: self._batches(part, config.counted) for name, part in halves.items()}
        spooled = self._spool(folder, read)
        other = None if config.adapter_off else self.reference.model
        assert self.subject is not None
        found = contrast_parts(
            self.adapted or self.subject.model,
            {name: spooled.get(name, other) for name in halves},
            read,
            site=config.site,
            scale=config.scale,
            weighting=config.weighting,
            progress=self.series.reporter.counting(2 * UNITS_PER_PASS),
        )
        parts = {"whole": self.examples, **halves}
        found = {
            name: dataclasses.replace(scores, prompts_id=parts[name].fingerprint)
            for name, scores in found.items()
        }
        shutil.rmtree(folder / SPOOL, ignore_errors=True)
        return keep_scores(folder, found, self.asked)

    def _spool(self, folder: Path, read: dict[str, list[Batch]]) -> dict[str, Recorded]:
        """Where the models do not fit together, read the reference now and let it go."""
        if self.subject is not None:
            return {}
        self.series.reporter.note("reading one model after the other: the second does not fit in")
        found = {
            name: record(self.reference.model, part, folder / SPOOL / name, site=self.config.site)
            for name, part in read.items()
        }
        tokenizer = self.reference.tokenizer
        del self.reference
        release()
        self.subject = load_subject(self.config.model, self.where)
        check_tokenizers(self.subject.tokenizer, tokenizer)
        self.reference = self.subject
        return found

    def _foundation(self) -> list[Batch] | None:
        config = self.config
        if config.foundation is None:
            return None
        loaded = _sample(config.foundation, config.num_foundation, config)
        self.prompts["foundation"] = loaded
        self.sources["foundation"] = config.foundation
        return self._batches(loaded, "response" if loaded.has_responses else "prompt")

    def _select(self, scored: RunRecord) -> RunRecord:
        config = self.config
        inputs = {
            "scores": scored.files[NEURON_SCORES_FILE],
            "fraction": config.fraction,
            "group": config.group,
        }

        def compute(folder: Path) -> Output:
            if NEURONS_FILE in scored.files:
                shutil.copy(self.out / "scores" / NEURONS_FILE, folder / NEURONS_FILE)
                return Output(dict(scored.result), [NEURONS_FILE])
            scores = read_neuron_scores(self.out / "scores" / NEURON_SCORES_FILE)
            chosen = top_neurons(scores, config.fraction, group=config.group)
            write_neurons(folder / NEURONS_FILE, chosen)
            result = {
                "site": chosen.site,
                "num_selected": chosen.num_selected,
                "num_units": chosen.num_units,
                "fraction": chosen.fraction,
                "fingerprint": chosen.fingerprint,
                "group": config.group,
                PROMPT_HASHES: scored.result[PROMPT_HASHES],
            }
            return Output(result, [NEURONS_FILE])

        return self.series.run("neurons", inputs, compute)

    def _finish(self, scored: RunRecord, chosen: RunRecord) -> dict[str, Any]:
        config = self.config
        found = {
            "schema": SCHEMA,
            "kind": "contrast",
            "safetypin": version("safetypin"),
            "settings": config.model_dump(mode="json"),
            "model_id": scored.result["model_id"],
            "reference_id": scored.result["reference_id"],
            "num_examples": scored.result["num_examples"],
            "num_tokens": scored.result["num_tokens"],
            "prompts": describe_prompts(self.prompts, self.sources),
            **describe_neurons(self.out, config),
            "run": self.series.describe(),
        }
        write_json(self.out / "metrics.json", found)
        write_report(self.out)
        self.series.reporter.finish()
        return found
