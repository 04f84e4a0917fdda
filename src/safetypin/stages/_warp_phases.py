"""`safetypin warp` in phases: the basis, the importance, the training, each in a run folder.

What a later phase must agree on with an earlier one (model, layers, modules, chat template, safety
prompts) it reads from the earlier one's folder, and verifies.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safetypin.artifacts import RunRecord, UserError, read_json, write_json
from safetypin.evaluate import check_judge, judge_options
from safetypin.models import load_model, model_id
from safetypin.stages._idle import idle_tune_options, refuse_idle
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._run import held
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._series import Series
from safetypin.stages._subject import Subject
from safetypin.stages._tune import tune
from safetypin.stages._tune_config import TUNE_PRESETS, TuneConfig, make_tune_config
from safetypin.stages._tune_data import read_scored
from safetypin.stages._tune_folder import differences
from safetypin.stages._warp import (
    BASIS,
    basis_in,
    check_basis_inputs,
    check_made_in,
    keep_basis,
    make_basis,
)
from safetypin.stages._warp_mask import cut_inputs, make_mask

SETTINGS_FILE = "warp.json"  # what a phase was asked for, for the next one
NO_DATA = "not yet"  # of a phase that needs no task
# of the phases: what each may be told beside what it reads
BASIS_SETTINGS = (
    "model", "dtype", "device", "plain", "system", "sample_seed", "safety", "num_safety",
    "prompt_column", "targets", "layers", "rotation", "basis_counted", "score_batch_size",
    "max_new_tokens", "answer_batch_size", "judge", "judge_options",
)  # fmt: skip
MASK_SETTINGS = (
    "keep_ratio",
    "keep_group",
    "importance",
    "form",
    "reduction",
    "draw_seed",
    "device",
)

Options = Mapping[str, Any]


def warp_basis(
    model: str, out: Path, options: Options, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Make the basis of safety's inputs in `out/basis`.

    Args:
        model: Alias, folder or Hub id.
        out: The run folder.
        options: Of `BASIS_SETTINGS`; None is not given.
        reporter: Told how it goes on.

    Returns:
        The result of the record: rank and spectrum of every site among it.

    Raises:
        UserError: Bad input, too few refusals, or activations that are not finite.
    """
    config = _config({"model": model}, options, BASIS_SETTINGS)
    with _open(out, reporter) as series:
        _run_basis(series, config)
        return dict(series.records[BASIS].result)


def _run_basis(series: Series, config: TuneConfig) -> None:
    prompts = read_scored(config, "safety")
    check_judge(config.judge, judge_options(config.judge_options))
    series.reporter.expect(len(prompts) * (config.max_new_tokens + UNITS_PER_EXAMPLE))
    subject = _subject(series, config)
    make_basis(series, config, subject, prompts)
    write_json(series.out / SETTINGS_FILE, _chosen(config))
    series.reporter.finish()


def warp_importance(
    run: Path, out: Path | None, options: Options, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Make the mask of what matters most in a basis, in `out/set`.

    Args:
        run: Folder of `warp_basis`.
        out: The run folder; `run` itself where None.
        options: Of `MASK_SETTINGS`; None is not given.
        reporter: Told how it goes on.

    Returns:
        The result of the record.

    Raises:
        UserError: Bad input, or gradients that are not finite.
        ArtifactMismatchError: The model or its chat template is not that of the basis any more.
    """
    config = _config(read_settings(run), options, MASK_SETTINGS)
    with _open(out or run, reporter) as series:
        prompts = read_scored(config, "safety")
        series.reporter.expect(len(prompts) * UNITS_PER_EXAMPLE)
        subject = _subject(series, config)
        basis_in(run, subject, config)
        check_basis_inputs(run, config, subject, prompts)
        keep_basis(series, run)
        if series.out != run:  # where it is killed from here on, it is known what is missing
            write_json(series.out / SETTINGS_FILE, _chosen(config))
        answers = make_basis(series, config, subject, prompts)
        record = make_mask(series, config, subject, answers)
        write_json(series.out / SETTINGS_FILE, _chosen(config))
        series.reporter.finish()
    return dict(record.result)


def warp_tune(
    run: Path, out: Path, options: Options, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train under the mask of a run, and measure before and after; as `tune` does.

    Args:
        run: Folder of `warp_importance`.
        out: The run folder.
        options: Settings of `tune`; what the mask depends on is read from `run`.
        reporter: Told how it goes on.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Bad input, also where an option would change what the mask depends on.
        ArtifactMismatchError: The model or its chat template is not that of the basis any more.
    """
    known = read_settings(run)
    if not (run / "set" / "run.json").exists():
        raise UserError(
            f"{run} holds no mask yet; make it with `safetypin warp importance {run}` first"
        )
    _check_mask(run, _config(known, {}, ()))
    for name in (*BASIS_SETTINGS, *MASK_SETTINGS):
        given = options.get(name)
        if name == "device":  # every phase runs where it likes
            continue
        if given is not None and given != known.get(name, given):
            raise UserError(
                f"{name} is {known.get(name)!r} in {run}, and {given!r} here; a phase takes it "
                "from the one before. Leave it out, or make the basis and the mask anew"
            )
    settings = dict.fromkeys((*BASIS_SETTINGS, *MASK_SETTINGS))
    kept = {name: known[name] for name in settings if known.get(name) is not None}
    joined = {**kept, **{key: value for key, value in options.items() if value is not None}}
    joined |= {"mask": str(run), "protect": options.get("protect") or "warp"}
    config = make_tune_config(joined.pop("model"), joined.pop("preset", "warp"), None, joined)
    own = {key: value for key, value in options.items() if key not in kept}
    refuse_idle(own, idle_tune_options(config))
    return tune(config, out, reporter=reporter)


def _check_mask(run: Path, config: TuneConfig) -> None:
    """Raise unless the mask of a run is that of its basis and of its settings.

    A later `warp basis` into the folder leaves the mask, and a killed `warp importance` too.
    """
    check_made_in(run)
    wanted = cut_inputs(config)
    found = read_json(run / "set" / "run.json")["inputs"]
    if odd := differences({name: found.get(name) for name in wanted}, wanted):
        raise UserError(
            f"the mask in {run} was made with other settings than {SETTINGS_FILE} has "
            f"({'; '.join(odd)}); make it again with `safetypin warp importance {run}`, with the "
            "options that you want"
        )


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings of an earlier phase.

    Raises:
        UserError: The folder is not one of `safetypin warp`.
    """
    if not (run / SETTINGS_FILE).exists():
        raise UserError(
            f"{run} is no run of `safetypin warp basis`; make one first: "
            f"`safetypin warp basis MODEL --safety SET --out {run}`"
        )
    RunRecord.read(run / BASIS)  # verifies every file before anything is loaded
    settings: dict[str, Any] = read_json(run / SETTINGS_FILE)
    return settings


@contextlib.contextmanager
def _open(out: Path, reporter: Reporter | None) -> Iterator[Series]:
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        yield Series(out, reporter)


def _config(known: Options, options: Options, names: tuple[str, ...]) -> TuneConfig:
    """Return checked settings; what the next phases will need is filled in."""
    given = {key: value for key, value in options.items() if value is not None}
    if odd := [key for key in given if key not in names]:
        raise UserError(f"this phase takes no {odd[0]}; it takes {', '.join(names)}")
    values = {**TUNE_PRESETS["warp"], **known, **given, "data": NO_DATA, "protect": "warp"}
    try:
        config = TuneConfig(**values)
    except ValidationError as error:
        own = error.errors()[0].get("ctx", {}).get("error")
        if isinstance(own, UserError):
            raise own from error
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    refuse_idle(given, idle_tune_options(config))
    return config


def _chosen(config: TuneConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    return {name: values[name] for name in dict.fromkeys((*BASIS_SETTINGS, *MASK_SETTINGS))}


def _subject(series: Series, config: TuneConfig) -> Subject:
    series.reporter.stage("loading the model")
    model, tokenizer = load_model(config.model, dtype=config.dtype, device=config.device)
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))
