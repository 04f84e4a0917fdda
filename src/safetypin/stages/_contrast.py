"""Contrast two models, or remove each unit of one: scores, the top of them, and where it is."""

import dataclasses
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
from safetypin.prompts import batches, load_prompts, template_id, window
from safetypin.report import write_report
from safetypin.scores import Model, Recorded, contrast_parts, record
from safetypin.select import top_neurons
from safetypin.stages._ablation import ablation_output
from safetypin.stages._calibrate import calibrate, read_calibration
from safetypin.stages._contrast_config import ContrastConfig
from safetypin.stages._contrast_metrics import describe_neurons, keep_scores
from safetypin.stages._contrast_models import ContrastModels
from safetypin.stages._describe import describe_prompts
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._run import Output, held
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._series import Series

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
        if config.foundation is not None:
            self.sources["foundation"] = config.foundation
            general = _sample(config.foundation, config.num_foundation, config)
            self.prompts["foundation"] = general

    def run(self) -> dict[str, Any]:
        """Load, answer, score, select, describe."""
        self.series.reporter.stage("loading the model")
        reporter = self.series.reporter
        reporter.expect(len(self.asked) * (self.config.max_new_tokens + 2 * UNITS_PER_PASS))
        self.models = ContrastModels(self.config, reporter)
        self._answer()
        scored = self._score()
        chosen = self._select(scored)
        return self._finish(scored, chosen)

    def _answer(self) -> None:
        """Let the reference answer, as in Chen et al., where answers count and none are given."""
        config, asked = self.config, self.asked
        self.examples = asked
        if not config.answers or asked.has_responses:
            return
        how = {"plain": config.plain, "system": config.system}
        options = {"max_new_tokens": config.max_new_tokens, "batch_size": 32, **how}
        reference = self.models.reference
        inputs = {**reference.inputs, "prompts": asked.fingerprint, **options}

        def compute(folder: Path) -> Output:
            with self.models.as_reference():
                return calibrate(
                    folder,
                    reference.model,
                    reference.tokenizer,
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
        config, by = self.config, self.models.reference
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
        inputs |= {"model_id": self.models.identity, "reference_id": self.models.reference_id}
        inputs |= {"template": template_id(self.models.reference.tokenizer)}
        inputs |= {"prompts": self.examples.fingerprint}
        if config.method == "ablation":
            general = self.prompts.get("foundation")
            inputs |= {"fraction": config.fraction, "group": config.group}
            inputs |= {"foundation": general and general.fingerprint}
            inputs["foundation_fraction"] = config.foundation_fraction
        units = len(self.examples) * 2 * UNITS_PER_PASS
        return self.series.run("scores", inputs, self._compute, units=units)

    def _compute(self, folder: Path) -> Output:
        config = self.config
        if config.method == "ablation":
            foundation = self._foundation()
            rows = self._batches(self.examples, config.counted)
            alone = self.models.reference.model
            return ablation_output(folder, alone, rows, foundation, config, self.asked)
        # the noise floor's halves: what all prompts give is their sum, and nothing is read twice
        halves = dict(zip(HALVES, self.examples.halves(), strict=True))
        read = {name: self._batches(part, config.counted) for name, part in halves.items()}
        others = self._others(folder, read)
        found = contrast_parts(
            self.models.aligned(),
            others,
            read,
            site=config.site,
            scale=config.scale,
            weighting=config.weighting,
            progress=self.series.reporter.counting(2 * UNITS_PER_PASS),
        )
        parts = {"whole": self.examples, **halves}
        found = {
            name: dataclasses.replace(
                scores, prompts_id=parts[name].fingerprint, model_id=self.models.identity
            )
            for name, scores in found.items()
        }
        shutil.rmtree(folder / SPOOL, ignore_errors=True)
        return keep_scores(folder, found, self.asked)

    def _others(
        self, folder: Path, read: dict[str, list[Batch]]
    ) -> dict[str, Model | Recorded | None]:
        """Return what the parts are compared with: the reference, or what is kept of it on disk."""
        other = self.models.other
        if not self.models.are_apart:
            return dict.fromkeys(read, other)
        assert other is not None
        self.series.reporter.note("reading one model after the other: the second does not fit in")
        return {
            name: record(other, part, folder / SPOOL / name, site=self.config.site)
            for name, part in read.items()
        }

    def _foundation(self) -> list[Batch] | None:
        general = self.prompts.get("foundation")
        if general is None:
            return None
        return self._batches(general, "response" if general.has_responses else "prompt")

    def _select(self, scored: RunRecord) -> RunRecord:
        config = self.config
        inputs = {
            "scores": scored.files[NEURON_SCORES_FILE],
            "fraction": config.fraction,
            "group": config.group,
        }
        if NEURONS_FILE in scored.files:  # of an ablation, which foundation units change alone
            inputs["neurons"] = scored.files[NEURONS_FILE]

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
