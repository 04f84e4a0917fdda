"""`safetypin tune`: fine-tune under a protection, and prove what was kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
from safetypin.evaluate import judge_names
from safetypin.intervene import PROTECTIONS
from safetypin.report import print_judge
from safetypin.scores import SCORERS
from safetypin.stages import (
    GAUGES,
    IMPORTANCES,
    ROTATIONS,
    TUNE_PRESETS,
    idle_tune_options,
    make_tune_config,
    refuse_idle,
)
from safetypin.stages import tune as run_tune

GATE_FAILED = 1
DATA, PROTECTION, TRAINING = "Data", "Protection", "Training"
EVALUATION, SET, GATES = "Evaluation", "A set that is made here", "Gates"
WITH_SET = ", ".join(name for name, kind in PROTECTIONS.items() if kind.needs_mask)


def _option(text: str, panel: str | None = None) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


def _switch(name: str, text: str, panel: str | None = None) -> Any:  # noqa: ANN401
    both = f"{name}/--no-{name.removeprefix('--')}"
    return typer.Option(both, help=text, rich_help_panel=panel, show_default=False)


def tune(
    model: Annotated[str | None, typer.Argument(help="smollm2, smollm2-aligned, a folder, or a Hub id owner/name[@revision].", show_default=False)] = None,
    *,
    out: OutOption,
    preset: Annotated[str | None, _option(f"{', '.join(TUNE_PRESETS)}; standard where none is given.")] = None,
    config: Annotated[Path | None, _option("TOML file with any of the settings below, by their names.")] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, _switch("--plain", "Send prompts as plain text, without a chat template.")] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of the training; 42.")] = None,
    sample_seed: Annotated[int | None, _option("Seed of samples of prompts, of the held-out part and of a random set; 0.")] = None,
    draw_seed: Annotated[int | None, _option("Seed of random masks and rotations of warp; the sample seed where none is given.")] = None,
    data: Annotated[str | None, _option("Examples to train on, with responses: file, source name or Hub id.", DATA)] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.", DATA)] = None,
    response_column: Annotated[str | None, _option("Column of the response in --data and --eval-data.", DATA)] = None,
    num_data: Annotated[int | None, _option("Take so many examples, at random.", DATA)] = None,
    eval_data: Annotated[str | None, _option("Held-out examples for the task loss; a part of --data where none are given.", DATA)] = None,
    eval_fraction: Annotated[float | None, _option("Share of --data to hold out; 0.1.", DATA)] = None,
    num_task: Annotated[int | None, _option("The most held-out examples; 100.", DATA)] = None,
    exact_match: Annotated[bool | None, _switch("--exact-match", "Answer the held-out examples too, and compare the last number with the solution's, as for GSM8K.", DATA)] = None,
    exact_match_tokens: Annotated[int | None, _option("Where such an answer is cut off, in tokens; 256.", DATA)] = None,
    allow_shared_prompts: Annotated[bool | None, _switch("--allow-shared-prompts", "Let training, calibration and evaluation share prompts.", DATA)] = None,
    protect: Annotated[str | None, _option(f"{', '.join(PROTECTIONS)}; what each does: docs/methods.md. none and lora hold nothing, nor does lora-base, which is there to compare.", PROTECTION)] = None,
    mask: Annotated[Path | None, _option(f"The set to protect: a folder of select, of an audit or of another tuning. Made here where none is given and one is needed ({WITH_SET}).", PROTECTION)] = None,
    set: Annotated[str | None, _option("Which set of an audit, such as q0.01-p0.01; the verdict's where none is named.", PROTECTION)] = None,
    control: Annotated[str | None, _option("Protect as many other weights instead: random, or matched on |w|.", PROTECTION)] = None,
    any_model: Annotated[bool | None, _switch("--any-model", "Use a set of another model of the same shape.", PROTECTION)] = None,
    lora_rank: Annotated[int | None, _option("Rank of the adapters; 8.", PROTECTION)] = None,
    lora_alpha: Annotated[float | None, _option("Scale of the adapters times their rank; 16.", PROTECTION)] = None,
    lora_dropout: Annotated[float | None, _option("Dropout before the adapters; 0.05.", PROTECTION)] = None,
    lora_targets: Annotated[str | None, _option("Modules with an adapter, comma-separated; q_proj,v_proj.", PROTECTION)] = None,
    lora_coverage: Annotated[float | None, _option("For lora-column: keep off the columns that hold this share of each matrix's protected weights; 1.", PROTECTION)] = None,
    epochs: Annotated[float | None, _option("Passes over the data; 3.", TRAINING)] = None,
    max_steps: Annotated[int | None, _option("Stop after so many optimizer steps.", TRAINING)] = None,
    learning_rate: Annotated[float | None, _option("2e-5, with adapters 1e-4, where none is given.", TRAINING)] = None,
    batch_size: Annotated[int | None, _option("Examples in a batch; 4.", TRAINING)] = None,
    accumulation: Annotated[int | None, _option("Batches in a step; 4.", TRAINING)] = None,
    max_length: Annotated[int | None, _option("Tokens at which an example is cut off; 512.", TRAINING)] = None,
    weight_decay: Annotated[float | None, _option("Of the optimizer; 0.", TRAINING)] = None,
    optimizer: Annotated[str | None, _option("As the Trainer of transformers names it; adamw_torch.", TRAINING)] = None,
    schedule: Annotated[str | None, _option("Of the learning rate, as transformers names it; linear.", TRAINING)] = None,
    warmup_ratio: Annotated[float | None, _option("Share of the steps with a rising learning rate; 0.", TRAINING)] = None,
    max_grad_norm: Annotated[float | None, _option("Norm at which gradients are clipped; 1.", TRAINING)] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16; auto is bf16 on an accelerator.", TRAINING)] = None,
    gradient_checkpointing: Annotated[bool | None, _switch("--gradient-checkpointing", "Less memory, more time.", TRAINING)] = None,
    save_steps: Annotated[int | None, _option("Keep a checkpoint every so many steps. Where none is given, the newest alone is kept, to go on from after a kill: made after a minute, then every ten, and removed at the end.", TRAINING)] = None,
    report_to: Annotated[str | None, _option("Trackers of the Trainer, comma-separated: trackio, wandb, mlflow; none where none is given.", TRAINING)] = None,
    attack: Annotated[str | None, _option("Held-out harmful prompts for the ASR.", EVALUATION)] = None,
    harmless: Annotated[str | None, _option("Held-out harmless prompts for over-refusal.", EVALUATION)] = None,
    borderline: Annotated[str | None, _option("Harmless prompts that sound harmful.", EVALUATION)] = None,
    text: Annotated[str | None, _option("Texts for the perplexity.", EVALUATION)] = None,
    num_attack: Annotated[int | None, _option("How many attack prompts; 100.", EVALUATION)] = None,
    num_harmless: Annotated[int | None, _option("How many held-out harmless prompts; 50.", EVALUATION)] = None,
    num_borderline: Annotated[int | None, _option("How many borderline prompts; 50.", EVALUATION)] = None,
    num_text: Annotated[int | None, _option("How many texts; 60.", EVALUATION)] = None,
    max_new_tokens: Annotated[int | None, _option("Where an answer is cut off, in tokens; 32.", EVALUATION)] = None,
    answer_batch_size: Annotated[int | None, _option("Prompts in a batch of answers; 32.", EVALUATION)] = None,
    window: Annotated[int | None, _option("Most tokens of a text for a perplexity; 512.", EVALUATION)] = None,
    judge: Annotated[str | None, _option(f"One of {judge_names()}; phrases where none is given.", EVALUATION)] = None,
    judge_option: JudgeOption = None,
    max_degenerate: Annotated[float | None, _option("Degenerate share above which there is no ASR; 0.2.", EVALUATION)] = None,
    safety: Annotated[str | None, _option("Harmful prompts to score on.", SET)] = None,
    utility: Annotated[str | None, _option("Harmless prompts to score on.", SET)] = None,
    num_safety: Annotated[int | None, _option("How many safety prompts; 128.", SET)] = None,
    num_utility: Annotated[int | None, _option("How many utility prompts; 128.", SET)] = None,
    method: Annotated[str | None, _option(f"One of {', '.join(SCORERS)}; snip where none is given.", SET)] = None,
    counted: Annotated[str | None, _option("Tokens that Wanda and SparseGPT count: response, predictive, prompt, last, all.", SET)] = None,
    reduction: Annotated[str | None, _option("SNIP's loss over a response: mean, or sum as the paper writes.", SET)] = None,
    score_batch_size: Annotated[int | None, _option("Prompts in a batch of scores; 8.", SET)] = None,
    targets: Annotated[str | None, _option("Modules to score, comma-separated patterns.", SET)] = None,
    group: Annotated[str | None, _option("Take tops in each row, matrix, layer or model.", SET)] = None,
    q: Annotated[float | None, _option("Share of the safety top: 0.01 is 1 %, and the default.", SET)] = None,
    p: Annotated[float | None, _option("Share of the utility top that is left out; the same as q where none is given.", SET)] = None,
    keep_scores: Annotated[bool | None, _switch("--keep-scores", "Keep the score files (4 bytes a weight).", SET)] = None,
    rotation: Annotated[str | None, _option(f"For warp: the basis, {', '.join(ROTATIONS)}; input.", SET)] = None,
    layers: Annotated[str | None, _option("For warp: which layers, such as all, early, last, 30-31; all.", SET)] = None,
    basis_counted: Annotated[str | None, _option("For warp: the tokens whose inputs make the basis; all.", SET)] = None,
    importance: Annotated[str | None, _option(f"For warp: what the mask is of, {', '.join(IMPORTANCES)}; gradient.", SET)] = None,
    keep_ratio: Annotated[float | None, _option("For warp: the share of coefficients that is held; 0.1.", SET)] = None,
    keep_group: Annotated[str | None, _option("For warp: take it in each matrix, or over the model; matrix.", SET)] = None,
    form: Annotated[str | None, _option("For warp: hold single coefficients (entry) or whole directions (column).", SET)] = None,
    train_others: Annotated[bool | None, _switch("--train-others", "For warp: train all other parameters too, unprotected.", PROTECTION)] = None,
    gate: Annotated[list[str] | None, _option(f"Exit with 1 unless this holds, such as 'asr<=0.1'; repeatable. The measured value is compared; its interval stands beside it. Names: {', '.join(GAUGES)}. perplexity and perplexity_ratio are on plain text, task_loss and task_perplexity_ratio on the task, its held-out responses.", GATES)] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Fine-tune MODEL under a protection; measure its safety and its task before and after.

    Example: `safetypin tune smollm2-aligned --data train.jsonl --protect freeze --gate "asr<=0.1" --out runs/tuned`
    """
    options = dict(locals())
    for name in ("model", "out", "preset", "config", "quiet", "verbose"):
        options.pop(name)
    for name in ("targets", "lora_targets", "report_to"):
        options[name] = names(options[name])
    options["mask"] = None if mask is None else str(mask)
    options["judge_options"] = options.pop("judge_option") or None
    options["gates"] = options.pop("gate") or None
    settings = make_tune_config(model, preset, config, options)
    refuse_idle(options, idle_tune_options(settings))
    metrics = run_tune(settings, out, reporter=reporting(out, quiet=quiet, verbose=verbose))
    console = Console()
    show_tuning(metrics, console)
    for what, path in {"model": out / "training" / "model", "report": out / "report.html"}.items():
        console.print(f"{what}: {path}", soft_wrap=True, highlight=False)
    if metrics["passed"] is False:
        raise typer.Exit(GATE_FAILED)


def show_tuning(metrics: Mapping[str, Any], console: Console) -> None:
    """Print what changed, and what the gates say."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", "before", "after", "change (95 % interval)"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for row in _rows(metrics):
        table.add_row(*row)
    console.print(table)
    print_judge(metrics["judge"], console)
    if held := _held(metrics):
        console.print(held, soft_wrap=True, highlight=False)
    if why := metrics["after"]["destroyed"]:
        console.print(Text(f"the tuned model is destroyed: {why}", style="bold"))
    for gate in metrics["gates"]:
        mark = "holds" if gate["holds"] else "does not hold"
        console.print(Text(f"gate {gate['gate']}: {mark} ({_found(gate)})"), soft_wrap=True)


def _held(metrics: Mapping[str, Any]) -> str | None:
    """Return how many weights were found to be as before, where a protection looked."""
    found = metrics["training"].get("protection") or {}
    if "held" not in found:
        return None
    is_adapter = metrics["protect"]["kind"].startswith("lora")
    how = "with a change of exactly zero" if is_adapter else "bit-identical"
    return f"held: {found['held']:,} weights {how}, checked after training"


def _found(gate: Mapping[str, Any]) -> str:
    """Return the number of a gate, its interval, and the limit."""
    if gate["value"] is None:
        return f"n/a, {gate['why']}"
    shown = f"{gate['value']:.4g}"
    if gate["interval"] is not None:
        low, high = gate["interval"]
        shown += f", 95 % interval {low:.4g} to {high:.4g}"
    beside = "" if gate["beside"] is None else f"; {gate['beside']}"
    return f"{shown}; limit {gate['limit']:g}{beside}"


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    sides, paired = (metrics["before"], metrics["after"]), metrics["paired"]
    shares = {
        "attack success rate": ("asr", "asr"),
        "degenerate answers": ("degenerate", "degenerate"),
        "harmless refused": ("harmless_refused", "over_refusal"),
        "borderline refused": ("borderline_refused", "borderline_refusal"),
    }
    rows: list[tuple[str, ...]] = [
        (label, *(_share(side[name]) for side in sides), _points(paired[pair]))
        for label, (name, pair) in shares.items()
    ]
    texts = {"perplexity": "perplexity_ratio", "task": "task_perplexity_ratio"}
    labels = {"perplexity": "perplexity, plain text", "task": "perplexity, task"}
    for name, pair in texts.items():
        values = [
            side[name] and side[name]["perplexity" if name == "task" else "value"] for side in sides
        ]
        shown = ["n/a" if value is None else f"{value:.3g}" for value in values]
        rows.append((labels[name], shown[0], shown[1], _change(paired[pair], ".3f", "x")))
    return rows


def _share(rate: Mapping[str, Any] | None) -> str:
    if rate is None or rate["value"] is None:
        return "n/a"
    return f"{rate['value']:.1%} ({rate['num_hits']}/{rate['num_judged']})"


def _points(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "n/a"
    shown = f"{100 * found['value']:+.1f} points"
    if found["interval"] is None:
        return shown
    return f"{shown} ({100 * found['interval'][0]:+.1f} to {100 * found['interval'][1]:+.1f})"


def _change(found: Mapping[str, Any] | None, form: str, sign: str = "") -> str:
    if found is None or found["value"] is None:
        return "n/a"
    shown = f"{sign}{found['value']:{form}}"
    if found["interval"] is None:
        return shown
    low, high = found["interval"]
    return f"{shown} ({low:{form}} to {high:{form}})"
