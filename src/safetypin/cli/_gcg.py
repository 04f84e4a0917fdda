"""`safetypin gcg`: adversarial suffixes found on a model."""

from typing import Annotated

import typer

from safetypin import stages
from safetypin.cli._options import (
    DeviceOption,
    DtypeOption,
    ModelArgument,
    OutOption,
    PlainOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    reporting,
)
from safetypin.evaluate import GcgSettings

STANDARD = GcgSettings()


def gcg(
    model: ModelArgument,
    out: OutOption,
    behaviors: Annotated[str, typer.Option(help="Harmful requests to search on: file, source name or Hub id. Attack others.")] = "builtin-harmful:calibration",
    num_prompts: Annotated[int | None, typer.Option(min=1, help="Take a random sample of so many; one suffix serves them all.")] = 8,
    num_suffixes: Annotated[int, typer.Option(help="Searches, each with a seed of its own; the paper has 3.")] = 1,
    num_steps: Annotated[int, typer.Option(help="Swaps to try in a search; 500 in the paper.")] = STANDARD.num_steps,
    num_candidates: Annotated[int, typer.Option(help="Swaps drawn at every step; 512 in the paper.")] = STANDARD.num_candidates,
    top_k: Annotated[int, typer.Option(help="Tokens that the gradient names at each place.")] = STANDARD.top_k,
    num_tokens: Annotated[int, typer.Option(help="Tokens of a suffix.")] = STANDARD.num_tokens,
    target: Annotated[str, typer.Option(help="What the answers shall begin with.")] = STANDARD.target,
    batch_size: Annotated[int, typer.Option(help="Swaps measured at once.")] = STANDARD.batch_size,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt in files.")] = "prompt",
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the first search.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    plain: PlainOption = False,
    system: SystemOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Find suffixes on MODEL by greedy coordinate gradient, for `evaluate --attack suffix`.

    Example: `safetypin gcg smollm2-aligned --num-prompts 4 --num-steps 50 --out runs/gcg`
    """
    settings = GcgSettings(
        num_tokens=num_tokens,
        num_steps=num_steps,
        num_candidates=num_candidates,
        top_k=top_k,
        target=target,
        seed=seed,
        batch_size=batch_size,
        plain=plain,
        system=system,
    )
    result = stages.gcg_files(
        model=model,
        out=out,
        behaviors=behaviors,
        num_prompts=num_prompts,
        prompt_column=prompt_column,
        settings=settings,
        num_suffixes=num_suffixes,
        dtype=dtype,
        device=device,
        reporter=reporting(out, quiet=quiet, verbose=verbose),
    )
    for row in result["suffixes"]:
        first, last = row["loss"]
        typer.echo(f"loss {first:.3f} to {last:.3f} on {result['num_prompts']} requests")
    typer.echo(f"suffixes: {out / stages.SUFFIXES_FILE}")
