"""Find the safety-critical set of a model before any training, for runs that hold or follow it."""

from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, UserError, write_mask
from safetypin.models import load_model, model_id
from safetypin.select import top_fraction
from safetypin.stages._overlaps import where
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output, discard, held
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._series import Series
from safetypin.stages._sets import set_name
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_groups import shares_of
from safetypin.stages._track_prompts import check_prompts, read_sets, short_sets
from safetypin.stages._track_scores import read_whole
from safetypin.stages._track_scoring import TrackScores

SET_FILE = "mask.safetensors"
SCORE_STAGES = tuple(f"scores-{name}" for name in SCORED)
CALIBRATION_STAGES = tuple(f"calibration-{name}" for name in SCORED)


def identify(config: TrackConfig, out: str | Path, *, reporter: Reporter) -> RunRecord:
    """Score a model on safety and on utility prompts, and cut the top q minus the top p.

    Leaves `calibration-*` and `scores-*` in `out`, as a track with the same settings makes them
    of its reference, and the set in `out/set`.

    Args:
        config: What to score, on what, and which shares; `reference` names the model.
        out: The run folder.
        reporter: Told how it goes on.

    Returns:
        The record of the set.

    Raises:
        UserError: Bad input, too few answers to score on, or an empty set.
    """
    prompts, out = read_sets(config, SCORED), Path(out)
    with held(out), reporter.running():
        series = Series(out, reporter)
        subject = _load(config, reporter)
        check_prompts(config, subject, prompts)
        for note in short_sets(config, prompts):
            reporter.note(note)
        asked = sum(map(len, prompts.values()))
        reporter.expect(asked * (config.max_new_tokens + UNITS_PER_EXAMPLE))
        q, p = shares_of(config, None)
        scores = TrackScores(series, config, subject, prompts, (q, p))
        inputs = {"scores": scores.inputs, "q": q, "p": p, "group": config.group}
        if not series.has("set", inputs):  # else they were of no more use, or are still there
            scores.score_reference(subject)
        record = series.run("set", inputs, lambda folder: _cut(folder, out, config, subject))
        reporter.finish()
    return record


def discard_scores(out: Path) -> None:
    """Remove the scores that an `identify` left, which take 4 bytes a weight each."""
    for name in SCORE_STAGES:
        discard(out / name)


def _load(config: TrackConfig, reporter: Reporter) -> Subject:
    reporter.stage("loading the model")
    model, tokenizer = load_model(str(config.reference), dtype=config.dtype, device=config.device)
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))


def _cut(folder: Path, out: Path, config: TrackConfig, subject: Subject) -> Output:
    q, p = shares_of(config, None)
    safety, utility = (
        top_fraction(read_whole(out / f"scores-{name}"), share, group=config.group)
        for name, share in zip(SCORED, (q, p), strict=True)
    )
    critical = safety - utility
    if not critical.num_selected:
        raise UserError(
            f"the top {q:g} of the safety scores lies inside the top {p:g} of the utility scores, "
            "so there is nothing to hold or follow; take a larger q or a smaller p"
        )
    write_mask(folder / SET_FILE, critical)
    result: dict[str, Any] = {
        "name": set_name("critical", q, p),
        "num_selected": critical.num_selected,
        "num_weights": critical.num_weights,
        "fraction": critical.fraction,
        "fingerprint": critical.fingerprint,
        "where": where(critical),
        "calibration": {
            name: RunRecord.read(out / f"calibration-{name}").result for name in SCORED
        },
    }
    return Output(result, [SET_FILE])
