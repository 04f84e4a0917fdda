"""`safetypin track`: what a fine-tune moved."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
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
from safetypin.report import print_judge
from safetypin.scores import SCORERS
from safetypin.stages import (
    TRACK_PRESETS,
    idle_track_options,
    make_track_config,
    refuse_idle,
)
from safetypin.stages import track as run_track

SETS, SCORES, SOURCES = "Groups of weights", "Scores before and after", "Prompts"


def _option(text: str, panel: str | None = None) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


def _switch(name: str, text: str, panel: str | None = None) -> Any:  # noqa: ANN401
    both = f"{name}/--no-{name.removeprefix('--')}"
    return typer.Option(both, help=text, rich_help_panel=panel, show_default=False)


def track(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run of safetypin tune, a folder of checkpoints in Hugging Face form (whole models or PEFT adapters), or one model.", show_default=False)] = None,
    *,
    out: OutOption,
    reference: Annotated[str | None, _option("The model that the training began with; a run of tune says it itself.")] = None,
    preset: Annotated[str | None, _option(f"{', '.join(TRACK_PRESETS)}; standard where none is given.")] = None,
    config: Annotated[Path | None, _option("TOML file with any of the settings below, by their names.")] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, _switch("--plain", "Send prompts as plain text, without a chat template.")] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of samples, random groups, permutations and resamples; 0.")] = None,
    groups: Annotated[str | None, _option("The set to follow: a folder of select, of an audit or of a tune. Else what the run of tune held; else it is made here from scores.", SETS)] = None,
    set: Annotated[str | None, _option("Which set of an audit, such as q0.01-p0.01; the verdict's where none is named.", SETS)] = None,
    any_model: Annotated[bool | None, _switch("--any-model", "Use a set of another model of the same shape.", SETS)] = None,
    q: Annotated[float | None, _option("Share of the safety top: 0.01 is 1 %; that of the given set, else 0.01.", SETS)] = None,
    p: Annotated[float | None, _option("Share of the utility top; the same as q.", SETS)] = None,
    top: Annotated[float | None, _option("Share of the tops of safety and of utility that are followed beside the set; q and p where none is given.", SETS)] = None,
    group: Annotated[str | None, _option("Take tops in each row, matrix, layer or model.", SETS)] = None,
    num_permutations: Annotated[int | None, _option("Reorderings behind each p-value; 999.", SETS)] = None,
    control: Annotated[str | None, _option("A run that held nothing, for the overlap: as RUN.", SCORES)] = None,
    rescore: Annotated[bool | None, typer.Option("--rescore/--no-rescore", help="Score both models, for score dynamics and overlaps.", rich_help_panel=SCORES, show_default=False)] = None,
    method: Annotated[str | None, _option(f"One of {', '.join(SCORERS)}; snip where none is given.", SCORES)] = None,
    counted: Annotated[str | None, _option("Tokens that Wanda and SparseGPT count: response, predictive, prompt, last, all.", SCORES)] = None,
    reduction: Annotated[str | None, _option("SNIP's loss over a response: mean, or sum as the paper writes.", SCORES)] = None,
    score_batch_size: Annotated[int | None, _option("Prompts in a batch of scores.", SCORES)] = None,
    targets: Annotated[str | None, _option("Modules to score, comma-separated patterns.", SCORES)] = None,
    keep_scores: Annotated[bool | None, _switch("--keep-scores", "Keep the score files (4 bytes a weight, four times).", SCORES)] = None,
    safety: Annotated[str | None, _option("Harmful prompts to score on: file, source name or Hub id.", SOURCES)] = None,
    utility: Annotated[str | None, _option("Harmless prompts to score on.", SOURCES)] = None,
    attack: Annotated[str | None, _option("Held-out harmful prompts for the ASR.", SOURCES)] = None,
    harmless: Annotated[str | None, _option("Held-out harmless prompts for over-refusal.", SOURCES)] = None,
    borderline: Annotated[str | None, _option("Harmless prompts that sound harmful.", SOURCES)] = None,
    text: Annotated[str | None, _option("Texts for the perplexity.", SOURCES)] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.", SOURCES)] = None,
    allow_shared_prompts: Annotated[bool | None, _switch("--allow-shared-prompts", "Let calibration and evaluation share prompts.", SOURCES)] = None,
    num_safety: Annotated[int | None, _option("How many safety prompts.", SOURCES)] = None,
    num_utility: Annotated[int | None, _option("How many utility prompts.", SOURCES)] = None,
    num_attack: Annotated[int | None, _option("How many attack prompts.", SOURCES)] = None,
    num_harmless: Annotated[int | None, _option("How many held-out harmless prompts.", SOURCES)] = None,
    num_borderline: Annotated[int | None, _option("How many borderline prompts.", SOURCES)] = None,
    num_text: Annotated[int | None, _option("How many texts.", SOURCES)] = None,
    max_new_tokens: Annotated[int | None, _option("Where an answer is cut off, in tokens.", SOURCES)] = None,
    answer_batch_size: Annotated[int | None, _option("Prompts in a batch of answers.", SOURCES)] = None,
    window: Annotated[int | None, _option("Most tokens of a text for the perplexity.", SOURCES)] = None,
    judge: Annotated[str | None, _option(f"One of {judge_names()}; phrases where none is given.", SOURCES)] = None,
    judge_option: JudgeOption = None,
    max_degenerate: Annotated[float | None, _option("Degenerate share above which the tuned model counts as destroyed.", SOURCES)] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Tell what a fine-tune moved: weights, scores and sets, beside chance and controls.

    Example: `safetypin track runs/tuned --out runs/tracked`
    """
    options = dict(locals())
    for name in ("run", "out", "preset", "config", "quiet", "verbose"):
        options.pop(name)
    options["judge_options"] = options.pop("judge_option") or None
    options["targets"] = names(targets)
    settings = make_track_config(run, preset, config, options)
    refuse_idle(options, idle_track_options(settings))
    reporter = reporting(out, quiet=quiet, verbose=verbose)
    metrics = run_track(settings, out, reporter=reporter)
    console = Console(soft_wrap=True)
    for finding in metrics["findings"]:
        console.print(Text.assemble((finding["question"], "bold"), f" {finding['answer']}"))
        console.print(Text(f"  {finding['sentence']}", style="dim"))
    print_judge(metrics["judge"], console)
    console.print(f"report: {out / 'report.html'}", highlight=False)
