"""The sets of units that a patching run tries: the given one, its tops, and random ones."""

import dataclasses
from pathlib import Path

from safetypin.artifacts import (
    NEURON_SCORES_FILE,
    NeuronScores,
    NeuronSet,
    PromptSet,
    RunRecord,
    UserError,
    read_neuron_scores,
)
from safetypin.select import random_neurons, top_neurons
from safetypin.stages._pair import load_neurons, neurons_folder
from safetypin.stages._patch_config import PatchConfig
from safetypin.stages._patch_plan import Plan
from safetypin.stages._progress import Reporter
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._subject import Subject


class PatchSets:
    """The given set, and what can be made of it.

    Attributes:
        neurons: The given set.
        own_fraction: Its share of all units where it has no ranking, and so only one size.
        are_prompts_known: Whether the prompts that it was found on are known.
    """

    def __init__(
        self, config: PatchConfig, subject: Subject, asked: PromptSet, reporter: Reporter
    ) -> None:
        """Read the set.

        Raises:
            UserError: There is none, it is empty, it has none of the sizes that are asked for, or
                an attack prompt is one that it was found on.
            ArtifactMismatchError: It is of another model.
        """
        self.neurons = load_neurons(config.neurons, subject, any_model=config.any_model)
        chosen = neurons_folder(config.neurons)
        record = RunRecord.read(chosen).result
        self.are_prompts_known = PROMPT_HASHES in record
        if not self.are_prompts_known:
            reporter.note(
                "the prompts that the neurons were found on are not known, so whether an attack "
                "prompt is among them cannot be checked"
            )
        shared = sorted(set(record.get(PROMPT_HASHES, [])) & set(asked.hashes))
        if shared and not config.allow_shared_prompts:
            raise UserError(
                f"{len(shared)} attack prompts are among those that the neurons were found on, "
                f"first {asked.hashes[shared[0]][:60]!r}; use others, or allow it with "
                "--allow-shared-prompts"
            )
        self._group = record.get("group", "model")
        self._scores = self._ranking(chosen.parent / "scores" / NEURON_SCORES_FILE)
        self.own_fraction = None if self._scores is not None else self.neurons.fraction
        if self.own_fraction is not None:
            self._check_sizes(config)
            reporter.note(
                "the set has no ranking: it is tried whole, at its own "
                f"{self.own_fraction:.2%} of all units"
            )

    def _check_sizes(self, config: PatchConfig) -> None:
        """Raise where none of the sizes to patch can be had of a set without a ranking.

        Raises:
            UserError: None is the set's own, nor that of all units.
        """
        own, every = self.neurons.num_selected, self.neurons.num_units
        if {own, every}.isdisjoint(round(fraction * every) for fraction in config.fractions):
            raise UserError(
                f"the set in {config.neurons} has no ranking, so it has no other size than its own "
                f"{own:,} of {every:,} units: with --fractions "
                f"{','.join(f'{fraction:g}' for fraction in config.fractions)} there is nothing to "
                f"patch; give --fractions {own / every:.4g}, or with all units beside it "
                f"{own / every:.4g},1"
            )

    def _ranking(self, path: Path) -> NeuronScores | None:
        """Return the scores whose top the set is; None where it is no top, and has one size.

        A set without foundation units is none, nor is one beside scores that are not its own.
        """
        if not path.exists():
            return None
        scores = read_neuron_scores(path)
        if scores.tensors.keys() != self.neurons.tensors.keys():
            return None
        top = top_neurons(scores, self.neurons.fraction, group=self._group)
        return scores if top.fingerprint == self.neurons.fingerprint else None

    def of(self, plan: Plan) -> NeuronSet:
        """Return the set of a plan: the top by rank, or as many random units in every layer."""
        if self._scores is not None:
            chosen = top_neurons(self._scores, plan.fraction, group=self._group)
        elif plan.fraction == 1:
            every = {name: members | True for name, members in self.neurons.tensors.items()}
            chosen = dataclasses.replace(self.neurons, tensors=every)
        else:
            chosen = self.neurons
        return chosen if plan.seed is None else random_neurons(chosen, seed=plan.seed)

    def num_shared(self, plan: Plan, drawn: NeuronSet) -> int:
        """Return how many units of a random set the set of the same plan has too; else 0."""
        if plan.seed is None:
            return 0
        ranked = self.of(dataclasses.replace(plan, arm="contrast", seed=None))
        return (drawn & ranked).num_selected
