"""`safetypin contrast`: which units act differently in an aligned and an unaligned model."""

from typing import Annotated, Any

import typer

from safetypin.cli._options import (
    DeviceOption,
    OutOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    reporting,
)
from safetypin.stages import (
    contrast_models,
    idle_contrast_options,
    make_contrast_config,
    refuse_idle,
)


def _option(text: str) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, show_default=False)


def _switch(name: str, text: str) -> Any:  # noqa: ANN401
    return typer.Option(name, help=text, show_default=False)


def contrast(
    model: Annotated[str | None, typer.Argument(help="The aligned model: smollm2-aligned, a folder, or a Hub id owner/name[@revision].", show_default=False)] = None,
    *,
    out: OutOption,
    reference: Annotated[str | None, _option("The unaligned model, of the same architecture.")] = None,
    adapter_off: Annotated[bool | None, _switch("--adapter-off", "MODEL is a folder with an adapter: compare it with itself, the adapter turned off.")] = None,
    method: Annotated[str | None, _option("contrast (Chen et al.), the default; or ablation (Zhao et al.), of MODEL alone.")] = None,
    site: Annotated[str | None, _option("neuron (the default) or residual; with --method ablation neuron or query.")] = None,
    scale: Annotated[str | None, _option("plain (the default), or free: divided by the reference's size of each unit.")] = None,
    weighting: Annotated[str | None, _option("token (the default) or example: whether long examples count for more.")] = None,
    fraction: Annotated[float | None, _option("Share of units in the set: 0.05 is 5 %, and the default.")] = None,
    group: Annotated[str | None, _option("Take the top of the whole model (the default) or of each layer.")] = None,
    prompts: Annotated[str | None, _option("Prompts: file, source name or Hub id; builtin-harmful:calibration where none are given.")] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.")] = None,
    num_prompts: Annotated[int | None, _option("How many, at random; 64.")] = None,
    counted: Annotated[str | None, _option("Tokens that count: response (the default; the reference answers where there is none), prompt, last, all, predictive.")] = None,
    max_new_tokens: Annotated[int | None, _option("Where an answer is cut off; 32.")] = None,
    batch_size: Annotated[int | None, _option("Prompts in a batch; the scores do not depend on it.")] = None,
    foundation: Annotated[str | None, _option("With --method ablation: general text, whose common units are taken away.")] = None,
    num_foundation: Annotated[int | None, _option("How many of these texts; 64.")] = None,
    foundation_fraction: Annotated[float | None, _option("Their share; --fraction where none is given.")] = None,
    one_at_a_time: Annotated[bool | None, typer.Option("--one-at-a-time/--both-at-once", help="Read one model after the other; decided by the free memory where neither is given.", show_default=False)] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, _switch("--plain", "Send prompts as plain text, without a chat template.")] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of the sample of prompts.")] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Find the units that act differently in MODEL and an unaligned model on the same tokens.

    Example: `safetypin contrast smollm2-aligned --reference smollm2 --fraction 0.05 --out runs/contrast`
    """
    options = dict(locals())
    for name in ("model", "out", "quiet", "verbose"):
        options.pop(name)
    config = make_contrast_config(model, options)
    refuse_idle(options, idle_contrast_options(config))
    found = contrast_models(config, out, reporter=reporting(out, quiet=quiet, verbose=verbose))
    chosen = found["set"]
    typer.echo(
        f"{chosen['num_selected']:,} of {chosen['num_units']:,} units ({chosen['fraction']:.3%}) in "
        f"{out / 'neurons'}"
    )
    typer.echo(f"report: {out / 'report.html'}")
