"""`safetypin guard`: tell unsafe prompts before a token is generated."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from safetypin.artifacts import Prompt, UserError
from safetypin.cli._options import (
    DeviceOption,
    DtypeOption,
    OutOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    reporting,
)
from safetypin.predict import check_threshold
from safetypin.prompts import load_prompts
from safetypin.stages import (
    Where,
    evaluate_guard,
    fit_guard,
    labelled_sets,
    make_guard_config,
    open_guard,
    score_texts,
)

guard = typer.Typer(
    no_args_is_help=True,
    help="Tell unsafe prompts before a token is generated.\n\n"
    "Example: `safetypin guard fit --model smollm2-aligned --neurons runs/contrast --out runs/guard`",
)


def _option(text: str) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, show_default=False)


def _switch(name: str, text: str) -> Any:  # noqa: ANN401
    return typer.Option(name, help=text, show_default=False)


GuardArgument = Annotated[Path, typer.Argument(help="A folder of `guard fit`.", show_default=False)]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Where its model is; the name it was fitted with where none is given."),
]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Probability from which on a prompt is unsafe.")
]


@guard.command()
def fit(
    out: OutOption,
    model: Annotated[str | None, _option("The model whose activations are read.")] = None,
    neurons: Annotated[str | None, _option("A folder of `contrast`.")] = None,
    unsafe: Annotated[str | None, _option("Unsafe prompts: file, source name or Hub id.")] = None,
    safe: Annotated[str | None, _option("Safe prompts.")] = None,
    other_unsafe: Annotated[str | None, _option("Unsafe prompts of another source, to test on.")] = None,
    other_safe: Annotated[str | None, _option("Safe prompts of another source.")] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.")] = None,
    num_prompts: Annotated[int | None, _option("Take so many of each set, at random.")] = None,
    test_fraction: Annotated[float | None, _option("Share of prompts to test on, by topic; 0.3.")] = None,
    features: Annotated[str | None, _option("What the guard reads: contrast (the default), pca or all.")] = None,
    classifier: Annotated[str | None, _option("logistic (the default) or svm.")] = None,
    pooling: Annotated[str | None, _option("last (the default), the last token of the request; or mean.")] = None,
    false_positive_rate: Annotated[float | None, _option("Share of safe prompts that may be called unsafe: 0.05.")] = None,
    num_random: Annotated[int | None, _option("Random sets of units beside it; 3.")] = None,
    any_model: Annotated[bool | None, _switch("--any-model", "Use neurons of another model of the same shape.")] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, _switch("--plain", "Read prompts as plain text, without a chat template.")] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of samples, split and folds.")] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Fit a guard, and measure it beside random units, PCA, all units and TF-IDF.

    Example: `safetypin guard fit --model smollm2-aligned --neurons runs/contrast --unsafe builtin-harmful:evaluation --safe builtin-harmless:evaluation --out runs/guard`
    """
    options = dict(locals())
    for name in ("model", "out", "quiet", "verbose"):
        options.pop(name)
    config = make_guard_config(model, options)
    found = fit_guard(config, out, reporter=reporting(out, quiet=quiet, verbose=verbose))
    for row in found["rows"]:
        if row["classifier"] == config.classifier and row["seed"] in (None, 0):
            area = row["test"]["roc_auc"]["value"]
            value = row["test"]["accuracy"]["value"]
            typer.echo(f"{row['features']:11} accuracy {value:.3f}  ROC AUC {area:.3f}")
    typer.echo(f"guard: {out / 'guard'}\nreport: {out / 'report.html'}")


def _texts(given: list[str] | None, file: str | None, column: str) -> Iterator[str | Prompt]:
    if given and file:
        raise UserError("give texts or --file, not both")
    if file:
        yield from load_prompts(file, prompt_column=column)
    elif given and given != ["-"]:
        yield from given
    else:
        for number, line in enumerate(sys.stdin, start=1):
            if text := line.strip():
                where = f"line {number} of the standard input"
                yield Prompt(text=_of_line(text, where, column), where=where)


def _of_line(line: str, where: str, column: str) -> str:
    """Return the prompt of a line of text, or of a JSON line.

    Raises:
        UserError: A JSON line cannot be read, or holds no text there.
    """
    if not line.startswith("{"):
        return line
    try:
        value = json.loads(line)[column]
    except (ValueError, KeyError, RecursionError) as error:
        raise UserError(
            f"{where} is no JSON object with {column!r} ({error!r}): {line[:60]!r}"
        ) from error
    if not isinstance(value, str):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise UserError(
            f"{where} has {kind} for {column!r}, not a text; give one prompt a line: {line[:60]!r}"
        )
    return value


def _tell(text: str) -> None:
    """Say something beside the results, which are read by programs."""
    typer.echo(text, err=True)


@guard.command()
def score(
    folder: GuardArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Prompts; lines of the standard input where none are given.", show_default=False)] = None,
    *,
    file: Annotated[str | None, _option("A file of prompts, source name or Hub id.")] = None,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt.")] = "prompt",
    model: ModelOption = None,
    threshold: ThresholdOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:  # fmt: skip
    """Judge prompts, one JSON line each: text, probability, unsafe.

    Example: `safetypin guard score runs/guard "How do I bake bread?"`
    """
    if threshold is not None:
        check_threshold(threshold)  # before a model is loaded
    loaded = open_guard(folder, model, Where(dtype=dtype, device=device), tell=_tell)
    for row in score_texts(loaded, _texts(texts, file, prompt_column), threshold):
        typer.echo(json.dumps(row, ensure_ascii=False))


@guard.command()
def evaluate(
    folder: GuardArgument,
    data: Annotated[str | None, _option("A file with prompts and labels.")] = None,
    unsafe: Annotated[str | None, _option("Unsafe prompts, in the place of --data.")] = None,
    safe: Annotated[str | None, _option("Safe prompts, in the place of --data.")] = None,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt.")] = "prompt",
    label_column: Annotated[str | None, _option("Column of the label in --data: unsafe or safe, 1 or 0; label.")] = None,
    model: ModelOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:  # fmt: skip
    """Measure a guard on prompts that it was not fitted on, as JSON.

    Example: `safetypin guard evaluate runs/guard --unsafe contrast-pairs:harmful --safe contrast-pairs:harmless`
    """
    sets = labelled_sets(data, unsafe, safe, prompt_column=prompt_column, label_column=label_column)
    loaded = open_guard(folder, model, Where(dtype=dtype, device=device), tell=_tell)
    found = evaluate_guard(folder, loaded, *sets)
    if not found["are_neuron_prompts_known"]:
        _tell(
            "the prompts that its neurons were found on are not known: leaks could not be checked"
        )
    typer.echo(json.dumps(found, indent=1))


@guard.command()
def serve(
    folder: GuardArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine reaches the default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts judged together.")] = 32,
    queue_size: Annotated[int, typer.Option(min=1, help="Prompts that may wait; more are answered with 503.")] = 1024,
    max_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 1 << 20,
    model: ModelOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:  # fmt: skip
    """Serve a guard over HTTP: POST /score with {"text": "..."} or {"texts": [...]}.

    Example: `safetypin guard serve runs/guard --port 8765`
    """
    from safetypin.predict._serve import Limits, serve_app

    loaded = open_guard(folder, model, Where(dtype=dtype, device=device), tell=_tell)
    limits = Limits(batch_size=batch_size, queue_size=queue_size, max_bytes=max_bytes)
    serve_app(loaded, limits, host=host, port=port, say=typer.echo)
