"""The set of weights that a fine-tuning run protects: given, taken from an audit, or made here."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import (
    PromptSet,
    RunRecord,
    UserError,
    WeightMask,
    load,
    read_scores,
    write_mask,
    write_scores,
)
from safetypin.intervene import PROTECTIONS
from safetypin.select import matched_random, top_fraction
from safetypin.stages._audit_set import audit_folder, audit_set
from safetypin.stages._overlaps import where
from safetypin.stages._run import Output, discard
from safetypin.stages._score import SCORES_FILE, UNITS_PER_EXAMPLE, Scoring, score
from safetypin.stages._scored import calibrated, scoring
from safetypin.stages._series import Series
from safetypin.stages._sets import check_origin, load_mask, set_name
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._tune_config import CONTROLS, TuneConfig
from safetypin.stages._tune_neurons import check_foundation, neurons_in, weights_of
from safetypin.stages._warp import check_made_in

SET_FILE = "mask.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A set that was made before.

    Attributes:
        mask: The set.
        source: `folder` of `select`, `audit`, `tune` for what another run protected, or `contrast`
            for the weights of its neurons.
        name: Its name in an audit.
        folder: Where the basis is that its coordinates are of; None where it is of weights.
    """

    mask: WeightMask
    source: str
    name: str | None = None
    folder: Path | None = None


def check_given(config: TuneConfig) -> None:
    """Raise, before a model is loaded, if `--mask` names no folder."""
    if config.mask is not None and not Path(config.mask).is_dir():
        raise UserError(
            f"no folder {config.mask!r}; --mask takes a folder of `safetypin select`, of an audit "
            "or of another tuning"
        )


def given_set(config: TuneConfig, identity: str, model: PreTrainedModel | None = None) -> Given:
    """Return the set that `--mask` names: a folder of `select`, of an audit, of another tuning.

    Raises:
        UserError: There is none, it is empty, or it is of another model.
    """
    check_given(config)
    folder = Path(str(config.mask))
    neurons = None if model is None else neurons_in(folder)
    if neurons is None:
        check_foundation(config, folder)
    if neurons is not None and model is not None:
        mask = weights_of(neurons, folder, config, identity, model)
        given = Given(mask=mask, source="contrast")
    elif (audit := audit_folder(folder)) is not None:
        given = _from_audit(audit, config.set)
        check_origin(given.mask, folder, identity, any_model=config.any_model)
    elif config.set is not None:
        raise UserError(f"--set chooses one of an audit's sets, but {folder} is no audit")
    else:
        inner = folder / "set"
        source, path = ("tune", inner) if inner.is_dir() else ("folder", folder)
        # the basis of coefficients says of which model they are, and cannot be used on another
        any_model = config.any_model or config.is_rotated
        mask = load_mask(path, identity, any_model=any_model)
        given = Given(mask=mask, source=source)
    if config.is_rotated:
        return dataclasses.replace(given, folder=basis_folder(folder))
    if not given.mask.num_selected:
        raise UserError(f"the set in {folder} is empty, so there is nothing to protect")
    return given


def basis_folder(folder: Path) -> Path:
    """Return the run folder with the basis that a mask's folder says it is of.

    Raises:
        UserError: There is none.
        ArtifactMismatchError: The basis there is not the one that the mask was made in.
    """
    if not (folder / "basis" / "run.json").exists():
        raise UserError(
            f"{folder} holds no basis, which its coefficients are of; --mask takes a folder of "
            "`safetypin warp importance`, or of another run under warp"
        )
    if (folder / "set" / "run.json").exists():
        check_made_in(folder)
    return folder


def _from_audit(folder: Path, chosen: str | None) -> Given:
    """Return one of an audit's sets: the one that is named, else the one of the verdict."""
    found = audit_set(folder, chosen)
    return Given(mask=found.mask, source="audit", name=found.name)


def keep_given(series: Series, config: TuneConfig, subject: Subject, given: Given) -> RunRecord:
    """Write a given set, or the random one in its place, into the run folder."""
    if PROTECTIONS[config.protect].needs_neurons and given.source != "contrast":
        series.reporter.note(
            f"--mask {config.mask} holds a set of weights: --protect {config.protect} trains these "
            "and no others, whether or not they are those of neurons"
        )
    about = {"source": given.source, "path": config.mask, "name": given.name}
    inputs = {
        "model_id": subject.identity,
        "mask": given.mask.fingerprint,
        **_control(config),
        **about,
    }

    def compute(folder: Path) -> Output:
        return _write(folder, given.mask, config, subject, about)

    return series.run("set", inputs, compute)


def make_set(
    series: Series, config: TuneConfig, subject: Subject, prompts: Mapping[str, PromptSet]
) -> RunRecord:
    """Calibrate, score on safety and utility, and cut the top q minus the top p.

    Raises:
        UserError: Too few answers to score on, or an empty set.
    """
    answers = {name: calibrated(series, config, subject, name, prompts[name]) for name in SCORED}
    how = {name: _scoring(config, name) for name in SCORED}
    scored = {
        name: {**subject.inputs, "prompts": kept.fingerprint, **how[name].inputs}
        for name, kept in answers.items()
    }
    q, p = config.shares
    inputs = {"scores": scored, "q": q, "p": p, "group": config.group, **_control(config)}
    if config.keep_scores or not series.has("set", inputs):
        for name, kept in answers.items():
            series.run(
                f"scores-{name}",
                scored[name],
                partial(_score, series=series, subject=subject, prompts=kept, how=how[name]),
                units=len(prompts[name]) * UNITS_PER_EXAMPLE,
            )
    record = series.run("set", inputs, lambda folder: _cut(folder, series, config, subject))
    if not config.keep_scores:
        for name in SCORED:
            discard(series.out / f"scores-{name}")
    return record


def _scoring(config: TuneConfig, name: str) -> Scoring:
    # `seed` is the training's; a random score is drawn as a random set is
    seed = config.sample_seed + (name == "utility")
    return dataclasses.replace(scoring(config, name), seed=seed)


def _score(
    folder: Path, series: Series, subject: Subject, prompts: PromptSet, how: Scoring
) -> Output:
    scores = score(subject.model, subject.tokenizer, prompts, how, reporter=series.reporter)
    write_scores(folder / SCORES_FILE, scores)
    result = {"num_examples": scores.num_examples, "num_tokens": scores.num_tokens}
    return Output(result, [SCORES_FILE])


def _cut(folder: Path, series: Series, config: TuneConfig, subject: Subject) -> Output:
    """Write the safety-critical set S(q, p)."""
    q, p = config.shares
    folders = {name: series.out / f"scores-{name}" for name in SCORED}
    scores = {name: read_scores(path / SCORES_FILE) for name, path in folders.items()}
    top_utility = top_fraction(scores["utility"], p, group=config.group)
    critical = top_fraction(scores["safety"], q, group=config.group) - top_utility
    if not critical.num_selected:
        raise UserError(
            f"the top {q:g} of the safety scores lies inside the top {p:g} of the utility scores, "
            "so there is nothing to protect; take a larger --q or a smaller --p"
        )
    counts = {name: RunRecord.read(path).result for name, path in folders.items()}
    about = {
        "source": "made here",
        "path": None,
        "name": set_name("critical", q, p),
        "scores": {"method": config.method, **counts},
    }
    return _write(folder, critical, config, subject, about)


def _control(config: TuneConfig) -> dict[str, Any]:
    seed = None if config.control is None else config.sample_seed
    return {"control": config.control, "seed": seed}


def _write(
    folder: Path,
    mask: WeightMask,
    config: TuneConfig,
    subject: Subject,
    about: Mapping[str, Any],
) -> Output:
    """Write a set, or as many random weights of every matrix in its place."""
    if config.control is not None:
        match = CONTROLS[config.control]
        mask = matched_random(mask, subject.model, seed=config.sample_seed, match=match)
    write_mask(folder / SET_FILE, mask)
    result = {
        **about,
        "control": config.control,
        "num_selected": mask.num_selected,
        "num_weights": mask.num_weights,
        "fraction": mask.fraction,
        "fingerprint": mask.fingerprint,
        "where": where(mask),
    }
    return Output(result, [SET_FILE])


def read_protected(out: Path, config: TuneConfig) -> WeightMask | None:
    """Return the set that a run protects, from its folder; None where it protects none."""
    if not PROTECTIONS[config.protect].needs_mask:
        return None
    mask = load(out / "set")
    assert isinstance(mask, WeightMask)
    return mask
