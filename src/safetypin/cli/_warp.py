"""`safetypin warp`: rotate the weights, hold what carries safety, train the rest."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from safetypin.artifacts import UserError
from safetypin.cli._options import (
    DeviceOption,
    JudgeOption,
    OutOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    names,
    reporting,
)
from safetypin.cli._tune import GATE_FAILED, show_tuning
from safetypin.evaluate import judge_names
from safetypin.models import LAYER_WORDS
from safetypin.stages import (
    GAUGES,
    TUNE_PRESETS,
    idle_tune_options,
    make_tune_config,
    refuse_idle,
    warp_basis,
    warp_importance,
    warp_tune,
)
from safetypin.stages import tune as run_tune

MODULES = "ffn_down, ffn_up, ffn_gate, attn_q, attn_k, attn_v, attn_o"
WHOLE = "all"  # the command behind `safetypin warp MODEL`


class PhaseGroup(TyperGroup):
    """Takes `warp MODEL ...` for `warp all MODEL ...`, where no phase is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Name the whole run where no phase is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [WHOLE, *args]
        return super().parse_args(ctx, args)


warp = typer.Typer(
    name="warp",
    cls=PhaseGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Fine-tune MODEL in rotated coordinates, in which the most important ones for safety stay.\n\n"
    "Example: `safetypin warp smollm2-aligned --safety builtin-harmful:calibration --data train.jsonl --out runs/warp`\n\n"
    "`safetypin warp MODEL` runs all phases; `warp basis`, `warp importance` and `warp tune` one, from the folder of the one before. "
    "All options: `safetypin warp all --help`.",
)


def _option(text: str) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, show_default=False)


def _switch(name: str, text: str) -> Any:  # noqa: ANN401
    return typer.Option(name, help=text, show_default=False)


ModelArgument = Annotated[str, typer.Argument(help="smollm2, smollm2-aligned, a folder, or a Hub id owner/name[@revision].", show_default=False)]  # fmt: skip
SafetyOption = Annotated[str | None, _option("Harmful prompts whose refusals carry safety: a file, a source name or a Hub id. With a column `response`, such as refusals of the model, or answered by the model.")]  # fmt: skip
NumSafetyOption = Annotated[int | None, _option("How many of them; 100.")]
ModulesOption = Annotated[str | None, _option(f"Modules to rotate and train, comma-separated: {MODULES}; all of them where none is given.")]  # fmt: skip
LayersOption = Annotated[str | None, _option(f"Their layers: {', '.join(LAYER_WORDS)}, 31, 30-31 or 0-5; all.")]  # fmt: skip
RotationOption = Annotated[str | None, _option("input, or as a control identity (the original space) or random; input.")]  # fmt: skip
CountedOption = Annotated[str | None, _option("Tokens whose inputs make the basis: all, response, prompt, predictive or last; all.")]  # fmt: skip
DtypeOption = Annotated[str | None, _option("auto, float32, bfloat16 or float16.")]
PlainOption = Annotated[bool | None, _switch("--plain", "Send prompts as plain text, without a chat template.")]  # fmt: skip
ScoreBatchOption = Annotated[int | None, _option("Prompts in a batch of basis and importance; 4.")]
KeepRatioOption = Annotated[float | None, _option("Share of the coefficients that is held: 0.1 is 10 %, and the default.")]  # fmt: skip
KeepGroupOption = Annotated[str | None, _option("Take the share in each matrix, or over the whole model; matrix.")]  # fmt: skip
ImportanceOption = Annotated[str | None, _option("gradient, or as a control random or bottom; gradient.")]  # fmt: skip
FormOption = Annotated[str | None, _option("Hold single coefficients (entry) or whole directions (column), as adapters need.")]  # fmt: skip
SampleSeedOption = Annotated[int | None, _option("Seed of samples of prompts and of random controls; 0.")]  # fmt: skip
DrawSeedOption = Annotated[
    int | None, _option("Seed of a random mask; the seed of the samples where none is given.")
]
DataOption = Annotated[str | None, _option("Examples of the task to train on, with responses.")]
NumDataOption = Annotated[int | None, _option("Take so many, at random; all where none is given.")]
EvalDataOption = Annotated[str | None, _option("Held-out examples for the task loss; a part of --data where none are given.")]  # fmt: skip
EpochsOption = Annotated[float | None, _option("Passes over the data; 3.")]
StepsOption = Annotated[int | None, _option("Stop after so many optimizer steps.")]
RateOption = Annotated[float | None, _option("Learning rate; 5e-5.")]
BatchOption = Annotated[int | None, _option("Examples in a batch; 2.")]
AccumulationOption = Annotated[int | None, _option("Batches in a step; 4.")]
LengthOption = Annotated[int | None, _option("Tokens at which an example is cut off; 512.")]
DecayOption = Annotated[float | None, _option("Weight decay of the free coefficients; 0.")]
PrecisionOption = Annotated[str | None, _option("auto, fp32, bf16 or fp16; auto is bf16 on an accelerator.")]  # fmt: skip
OthersOption = Annotated[bool | None, _switch("--train-others", "Train all other parameters too, unprotected, as the published code does.")]  # fmt: skip
SeedOption = Annotated[int | None, _option("Seed of the training; 42.")]
AttackOption = Annotated[str | None, _option("Held-out harmful prompts for the ASR.")]
NumAttackOption = Annotated[int | None, _option("How many; 100.")]
NewTokensOption = Annotated[int | None, _option("Where an answer is cut off, in tokens; 32.")]
JudgeNameOption = Annotated[str | None, _option(f"One of {judge_names()}; phrases.")]
GateOption = Annotated[list[str] | None, _option(f"Exit with 1 unless this holds, such as 'asr<=0.1'; repeatable. Names: {', '.join(GAUGES)}.")]  # fmt: skip
PresetOption = Annotated[str | None, _option(f"{', '.join(TUNE_PRESETS)}; warp, the document's settings, where none is given.")]  # fmt: skip
ConfigOption = Annotated[Path | None, _option("TOML file with any settings of `safetypin tune`.")]
LoraOption = Annotated[bool | None, _switch("--lora", "Train adapters that never read the held directions.")]  # fmt: skip


@warp.command(WHOLE, hidden=True)
def whole(
    model: ModelArgument,
    *,
    out: OutOption,
    safety: SafetyOption = None,
    data: DataOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    num_safety: NumSafetyOption = None,
    modules: ModulesOption = None,
    layers: LayersOption = None,
    rotation: RotationOption = None,
    basis_counted: CountedOption = None,
    score_batch_size: ScoreBatchOption = None,
    keep_ratio: KeepRatioOption = None,
    keep_group: KeepGroupOption = None,
    importance: ImportanceOption = None,
    form: FormOption = None,
    sample_seed: SampleSeedOption = None,
    lora: LoraOption = None,
    num_data: NumDataOption = None,
    eval_data: EvalDataOption = None,
    epochs: EpochsOption = None,
    max_steps: StepsOption = None,
    learning_rate: RateOption = None,
    batch_size: BatchOption = None,
    accumulation: AccumulationOption = None,
    max_length: LengthOption = None,
    weight_decay: DecayOption = None,
    precision: PrecisionOption = None,
    train_others: OthersOption = None,
    seed: SeedOption = None,
    attack: AttackOption = None,
    num_attack: NumAttackOption = None,
    max_new_tokens: NewTokensOption = None,
    judge: JudgeNameOption = None,
    judge_option: JudgeOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    plain: PlainOption = None,
    system: SystemOption = None,
    gate: GateOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make the basis and the mask, train MODEL under it, and measure before and after.

    Example: `safetypin warp smollm2-aligned --safety builtin-harmful:calibration --data train.jsonl --out runs/warp`
    """
    options = _settings(locals())
    otherwise = {"preset": "warp", "protect": "warp"}
    settings = make_tune_config(model, preset, config, options, otherwise=otherwise)
    if not settings.is_rotated:
        raise UserError(
            f"{config} asks for protect {settings.protect!r}, and `safetypin warp` has warp and "
            "warp-lora; leave it out of the file, or use `safetypin tune --config`"
        )
    refuse_idle(options, idle_tune_options(settings))
    metrics = run_tune(settings, out, reporter=reporting(out, quiet=quiet, verbose=verbose))
    _show(metrics, out)


@warp.command("basis")
def basis(
    model: ModelArgument,
    *,
    out: OutOption,
    safety: SafetyOption = None,
    num_safety: NumSafetyOption = None,
    modules: ModulesOption = None,
    layers: LayersOption = None,
    rotation: RotationOption = None,
    basis_counted: CountedOption = None,
    score_batch_size: ScoreBatchOption = None,
    sample_seed: SampleSeedOption = None,
    max_new_tokens: NewTokensOption = None,
    judge: JudgeNameOption = None,
    judge_option: JudgeOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    plain: PlainOption = None,
    system: SystemOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Phase 1: the directions of the layers' inputs on safety prompts.

    Example: `safetypin warp basis smollm2-aligned --safety builtin-harmful:calibration --out runs/basis`
    """
    options = _settings(locals())
    found = warp_basis(model, out, options, reporter=reporting(out, quiet=quiet, verbose=verbose))
    full = sum(site["rank"] == site["d_in"] for site in found["sites"])
    text = f"{found['num_sites']} input sites of {found['num_matrices']} matrices"
    if found["sites"]:
        text += f", {full} of full rank, from {found['num_tokens']:,} tokens"
    typer.echo(f"{text}: {out / 'basis'}")


@warp.command("importance")
def importance_(
    run: Annotated[Path, typer.Argument(help="Folder of `warp basis`.", show_default=False)],
    *,
    out: Annotated[Path | None, _option("Run folder; RUN itself where none is given.")] = None,
    keep_ratio: KeepRatioOption = None,
    keep_group: KeepGroupOption = None,
    importance: ImportanceOption = None,
    form: FormOption = None,
    draw_seed: DrawSeedOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Phase 2: which coefficients of the weights in that basis matter most for the refusals.

    Example: `safetypin warp importance runs/basis --keep-ratio 0.1 --out runs/mask`
    """
    options = _settings(locals())
    folder = out or run
    reporter = reporting(folder, quiet=quiet, verbose=verbose)
    found = warp_importance(run, out, options, reporter=reporter)
    share = f"{found['num_selected']:,} of {found['num_weights']:,} ({found['fraction']:.2%})"
    typer.echo(f"{share} coefficients: {folder / 'set'}")


@warp.command("tune")
def tune_(
    run: Annotated[Path, typer.Argument(help="Folder of `warp importance`.", show_default=False)],
    *,
    out: OutOption,
    data: DataOption = None,
    preset: PresetOption = None,
    lora: LoraOption = None,
    num_data: NumDataOption = None,
    eval_data: EvalDataOption = None,
    epochs: EpochsOption = None,
    max_steps: StepsOption = None,
    learning_rate: RateOption = None,
    batch_size: BatchOption = None,
    accumulation: AccumulationOption = None,
    max_length: LengthOption = None,
    weight_decay: DecayOption = None,
    precision: PrecisionOption = None,
    train_others: OthersOption = None,
    seed: SeedOption = None,
    attack: AttackOption = None,
    num_attack: NumAttackOption = None,
    device: DeviceOption = None,
    gate: GateOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Phase 3: train the other coefficients on a task, and measure before and after.

    Example: `safetypin warp tune runs/mask --data train.jsonl --out runs/warp`
    """
    options = {**_settings(locals()), "preset": preset}
    reporter = reporting(out, quiet=quiet, verbose=verbose)
    _show(warp_tune(run, out, options, reporter=reporter), out)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of `tune` that options of the commands here are."""
    own = ("model", "run", "out", "preset", "config", "quiet", "verbose")
    options = {name: value for name, value in given.items() if name not in own}
    renamed = {"modules": "targets", "gate": "gates", "judge_option": "judge_options"}
    for old, new in renamed.items():
        if old in options:
            value = options.pop(old)
            options[new] = (names(value) if old == "modules" else value) or None
    if "lora" in options:
        options["protect"] = "warp-lora" if options.pop("lora") else None
    return options


def _show(metrics: dict[str, Any], out: Path) -> None:
    console = Console()
    show_tuning(metrics, console)
    held = metrics["training"].get("protection")
    if held:
        text = f"held coefficients moved by at most {held['frozen_change']:.1e} of the largest one"
        console.print(text, highlight=False)
    for what, path in {"model": out / "training" / "model", "report": out / "report.html"}.items():
        console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
    if metrics["passed"] is False:
        raise typer.Exit(GATE_FAILED)
