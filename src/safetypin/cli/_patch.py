"""`safetypin patch`: is a set of units the cause?"""

from typing import Annotated, Any

import typer

from safetypin.cli._options import (
    DeviceOption,
    JudgeOption,
    OutOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    numbers,
    reporting,
)
from safetypin.evaluate import judge_names
from safetypin.stages import make_patch_config, patch_models


def _option(text: str) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, show_default=False)


def _switch(name: str, text: str) -> Any:  # noqa: ANN401
    return typer.Option(name, help=text, show_default=False)


def patch(
    model: Annotated[str | None, typer.Argument(help="The aligned model.", show_default=False)] = None,
    *,
    out: OutOption,
    reference: Annotated[str | None, _option("The unaligned model, which is patched.")] = None,
    neurons: Annotated[str | None, _option("A folder of `contrast`.")] = None,
    fractions: Annotated[str | None, _option("Shares of units to patch, by rank; 0.01,0.05,0.2,1.")] = None,
    ablate_fractions: Annotated[str | None, _option("Shares to ablate in the aligned model; 0.05.")] = None,
    ablate_with: Annotated[str | None, _option("What the aligned model's units are held at: zero (the default), mean (over the plain text) or reference, the unaligned model's.")] = None,
    num_random: Annotated[int | None, _option("Random sets beside each, of the same size in every layer; 3.")] = None,
    attack: Annotated[str | None, _option("Held-out harmful prompts.")] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.")] = None,
    num_attack: Annotated[int | None, _option("How many, at random; 48.")] = None,
    text: Annotated[str | None, _option("Plain text for the perplexity; builtin-text.")] = None,
    num_text: Annotated[int | None, _option("How many texts; 16.")] = None,
    window: Annotated[int | None, _option("Tokens of a text that are measured; 512.")] = None,
    max_new_tokens: Annotated[int | None, _option("Where an answer is cut off; 32.")] = None,
    batch_size: Annotated[int | None, _option("Prompts in a batch; 16.")] = None,
    judge: Annotated[str | None, _option(f"One of {judge_names()}.")] = None,
    judge_option: JudgeOption = None,
    max_degenerate: Annotated[float | None, _option("Degenerate share above which there is no ASR; 0.2.")] = None,
    any_model: Annotated[bool | None, _switch("--any-model", "Use a set of other models of the same shape.")] = None,
    allow_shared_prompts: Annotated[bool | None, _switch("--allow-shared-prompts", "Attack with prompts that the neurons were found on.")] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, _switch("--plain", "Send prompts as plain text, without a chat template.")] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of the sample of prompts.")] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Write MODEL's activations at a set into the unaligned model, and take them out of MODEL.

    Example: `safetypin patch smollm2-aligned --reference smollm2 --neurons runs/contrast --out runs/patch`
    """
    options = dict(locals())
    for name in ("model", "out", "quiet", "verbose"):
        options.pop(name)
    options["judge_options"] = options.pop("judge_option") or None
    for name in ("fractions", "ablate_fractions"):
        options[name] = numbers(options[name])
    config = make_patch_config(model, options)
    found = patch_models(config, out, reporter=reporting(out, quiet=quiet, verbose=verbose))
    said = found["verdict"]
    typer.echo(f"{said['answer'].upper()}")
    if said["recovery"] is not None:
        low, high = said["recovery"]["interval"]
        typer.echo(
            f"top {said['fraction']:.2%} of units: recovery {said['recovery']['value']:.0%} (95 % "
            f"interval {low:.0%} to {high:.0%}), strongest random set {said['random']:.0%}"
        )
    typer.echo(f"report: {out / 'report.html'}")
