"""The scores of a track: of the reference, kept as long as a stage reads them, and of what came."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetypin.artifacts import PromptSet, RunRecord, WeightMask, WeightScores
from safetypin.stages._run import Output, discard
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._scored import calibrated, scoring
from safetypin.stages._series import Series
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_scores import (
    Rescoring,
    compare_sets,
    comparing_units,
    measure_noise,
    read_parts,
    read_whole,
    rescore,
    score_parts,
)
from safetypin.stages._track_source import Source, weights_hash

Groups = Mapping[str, WeightMask]


class TrackScores:
    """Scores the reference and the tuned models on the reference's own answers.

    Attributes:
        inputs: What the reference's scores depend on, by `safety` and `utility`.
    """

    def __init__(
        self,
        series: Series,
        config: TrackConfig,
        reference: Subject,
        prompts: Mapping[str, PromptSet],
        shares: tuple[float, float],
    ) -> None:
        """Let the reference answer the prompts to score on.

        Raises:
            UserError: Too few of its answers can be scored on.
        """
        self._series, self._config = series, config
        self._shares = dict(zip(SCORED, shares, strict=True))
        self._how = {name: scoring(config, name) for name in SCORED}
        self._asked = {
            name: calibrated(series, config, reference, name, prompts[name]) for name in SCORED
        }
        self.inputs = {
            name: {**reference.inputs, "prompts": kept.fingerprint, **self._how[name].inputs}
            for name, kept in self._asked.items()
        }
        self._units = UNITS_PER_EXAMPLE * sum(len(prompts[name]) for name in SCORED)

    @property
    def _folders(self) -> dict[str, Path]:
        return {name: self._series.out / f"scores-{name}" for name in SCORED}

    def score_reference(self, reference: Subject) -> None:
        """Score the reference on each half of the prompts."""
        for name, prompts in self._asked.items():
            self._series.run(
                f"scores-{name}",
                self.inputs[name],
                partial(
                    score_parts,
                    subject=reference,
                    prompts=prompts,
                    how=self._how[name],
                    reporter=self._series.reporter,
                ),
                units=self._units / len(SCORED),
            )

    def read(self) -> dict[str, tuple[WeightScores, ...]]:
        """Return the reference's scores on all prompts and on each half."""
        return {name: (read_whole(path), *read_parts(path)) for name, path in self._folders.items()}

    def are_needed(self, groups: Groups, sources: Mapping[str, Source]) -> bool:
        """Whether a stage that reads the reference's scores is still to be done.

        Args:
            groups: The groups, which are done.
            sources: By stage the training whose model it scores.
        """
        stages = {"noise": self._noise_inputs(groups)}
        stages |= {name: self._inputs_of(source, groups) for name, source in sources.items()}
        return not all(self._series.has(name, inputs) for name, inputs in stages.items())

    def measure_noise(self, groups: Groups) -> None:
        """Compare the reference's scores on the two halves of the prompts."""
        halves = self._series.out / "groups"

        def compute(folder: Path) -> Output:
            return measure_noise(folder, self._folders, groups, halves, self._series.reporter)

        self._series.run("noise", self._noise_inputs(groups), compute, units=_compared(groups))

    def score_tuned(self, name: str, source: Source, subject: Subject, groups: Groups) -> None:
        """Score what a training gave, and compare with the reference's scores."""
        task = Rescoring(
            prompts=self._asked,
            before=self._folders,
            how=self._how,
            shares=self._shares,
            top=self._config.top,
            groups=groups,
        )

        def compute(folder: Path) -> Output:
            return rescore(folder, subject, task, self._series.reporter)

        units = self._units + _compared(groups)
        self._series.run(name, self._inputs_of(source, groups), compute, units=units)

    def compare(self, has_control: bool) -> None:
        """Compare the sets before and after; then the reference's scores are of no more use."""
        out, records = self._series.out, self._series.records
        names = ("groups", "rescored", *(("control",) if has_control else ()))
        control = out / "control" if has_control else None
        self._series.run(
            "overlap",
            {name: _hashes(records[name]) for name in names},
            partial(compare_sets, groups=out / "groups", tuned=out / "rescored", control=control),
        )
        if not self._config.keep_scores:
            for folder in self._folders.values():
                discard(folder)

    def _noise_inputs(self, groups: Groups) -> dict[str, Any]:
        return {"scores": self.inputs, "groups": fingerprints(groups)}

    def _inputs_of(self, source: Source, groups: Groups) -> dict[str, Any]:
        return {
            **self._noise_inputs(groups),
            "shares": self._shares,
            **({} if self._config.top is None else {"top": self._config.top}),
            "checkpoint": weights_hash(source.final),
        }


def _compared(groups: Groups) -> float:
    return comparing_units(next(iter(groups.values())).num_weights)


def _hashes(record: RunRecord) -> dict[str, str]:
    return dict(record.files)


def fingerprints(masks: Groups) -> dict[str, str]:
    """Return the fingerprint of every set by its name."""
    return {name: mask.fingerprint for name, mask in masks.items()}
