"""`safetypin import`: sets and scores of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from safetypin import stages
from safetypin.cli._options import DtypeOption, OutOption


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt file with a set or scores by module, as the brittleness extension saved them.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model that it was made of.", show_default=False)],
    out: OutOption,
    method: Annotated[str, typer.Option(help="How its scores were made, for the record.")] = "imported",
    dtype: DtypeOption = "auto",
) -> None:  # fmt: skip
    """Import a set or scores from a .pt file, for the commands that take a folder of them.

    Of scores of which the file holds the highest only, the set of these is imported. Nothing but
    tensors is ever loaded from the file.

    Example: `safetypin import original_safety_masks.pt --model meta-llama/Llama-2-7b-chat-hf --out runs/set`
    """
    record = stages.import_files(file=file, model=model, out=out, method=method, dtype=dtype)
    result = record.result
    if record.stage == "mask":
        found = (
            f"{result['num_selected']:,} of {result['num_weights']:,} weights "
            f"({result['fraction']:.3%})"
        )
    else:
        found = f"scores of {result['num_matrices']} matrices"
    typer.echo(f"{found} in {out}")
