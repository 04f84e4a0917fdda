"""`safetypin audit`: the main job."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from safetypin.artifacts import UserError
from safetypin.audit import PRESETS, AuditConfig, Rule, effect_of, make_config
from safetypin.audit import audit as run_audit
from safetypin.cli._options import (
    DeviceOption,
    JudgeOption,
    OutOption,
    QuietOption,
    SystemOption,
    VerboseOption,
    names,
    numbers,
    reporting,
    shows_defaults,
)
from safetypin.evaluate import judge_names
from safetypin.report import print_summary
from safetypin.scores import SCORERS
from safetypin.stages import idle_audit_options, refuse_idle

BRITTLE, UNDECIDED = 1, 3
SOURCES, SCORES, SETS, RULE = "Prompts", "Scores and answers", "Sets and controls", "Verdict"


def _option(text: str, panel: str | None = None) -> Any:  # noqa: ANN401 - typer types it so
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


@shows_defaults(AuditConfig)
def audit(
    model: Annotated[str | None, typer.Argument(help="smollm2, smollm2-aligned, a folder, or a Hub id owner/name[@revision].", show_default=False)] = None,
    *,
    out: OutOption,
    preset: Annotated[str | None, _option(f"{', '.join(PRESETS)}; standard where none is given. The defaults below are those of standard.")] = None,
    config: Annotated[Path | None, _option("TOML file with any of the settings below, by their names.")] = None,
    fail_if_brittle: Annotated[float | None, _option("Exit with 1 if the model is brittle at this share of weights or less, and with 3 if that is undecided or was not tried.", RULE)] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    device: DeviceOption = None,
    plain: Annotated[bool | None, typer.Option("--plain/--no-plain", help="Send prompts as plain text, without a chat template.", show_default=False)] = None,
    system: SystemOption = None,
    seed: Annotated[int | None, _option("Seed of samples and random sets.")] = None,
    safety: Annotated[str | None, _option("Harmful prompts to score on: file, source name or Hub id.", SOURCES)] = None,
    utility: Annotated[str | None, _option("Harmless prompts to score on.", SOURCES)] = None,
    attack: Annotated[str | None, _option("Held-out harmful prompts for the ASR.", SOURCES)] = None,
    harmless: Annotated[str | None, _option("Held-out harmless prompts for over-refusal.", SOURCES)] = None,
    borderline: Annotated[str | None, _option("Harmless prompts that sound harmful.", SOURCES)] = None,
    text: Annotated[str | None, _option("Texts for the perplexity.", SOURCES)] = None,
    prompt_column: Annotated[str | None, _option("Column of the prompt in files.", SOURCES)] = None,
    allow_shared_prompts: Annotated[bool | None, typer.Option("--allow-shared-prompts/--no-allow-shared-prompts", help="Let calibration and evaluation share prompts.", rich_help_panel=SOURCES, show_default=False)] = None,
    num_safety: Annotated[int | None, _option("How many safety prompts.", SOURCES)] = None,
    num_utility: Annotated[int | None, _option("How many utility prompts.", SOURCES)] = None,
    num_attack: Annotated[int | None, _option("How many attack prompts.", SOURCES)] = None,
    num_harmless: Annotated[int | None, _option("How many held-out harmless prompts.", SOURCES)] = None,
    num_borderline: Annotated[int | None, _option("How many borderline prompts.", SOURCES)] = None,
    num_text: Annotated[int | None, _option("How many texts.", SOURCES)] = None,
    max_new_tokens: Annotated[int | None, _option("Where an answer is cut off, in tokens.", SCORES)] = None,
    batch_size: Annotated[int | None, _option("Prompts in a batch of answers.", SCORES)] = None,
    window: Annotated[int | None, _option("Most tokens of a text for the perplexity.", SCORES)] = None,
    judge: Annotated[str | None, _option(f"One of {judge_names()}.", SCORES)] = None,
    judge_option: JudgeOption = None,
    method: Annotated[str | None, _option(f"One of {', '.join(SCORERS)}.", SCORES)] = None,
    counted: Annotated[str | None, _option("Tokens that Wanda and SparseGPT count: response, predictive, prompt, last, all.", SCORES)] = None,
    reduction: Annotated[str | None, _option("SNIP's loss over a response: mean, or sum as the paper writes.", SCORES)] = None,
    score_batch_size: Annotated[int | None, _option("Prompts in a batch of scores.", SCORES)] = None,
    targets: Annotated[str | None, _option("Modules to score, comma-separated patterns.", SCORES)] = None,
    group: Annotated[str | None, _option("Take tops in each row, matrix, layer or model.", SETS)] = None,
    q: Annotated[str | None, _option("Shares of the safety top, comma-separated fractions: 0.01 is 1 %.", SETS)] = None,
    p: Annotated[str | None, _option("Shares of the utility top, comma-separated; each with each q. The same as q where none is given, or an empty one.", SETS)] = None,
    overlap_fraction: Annotated[float | None, _option("Share whose tops are compared.", SETS)] = None,
    controls: Annotated[str | None, _option("Of random, matched, top_utility, top_safety; comma-separated.", SETS)] = None,
    num_random: Annotated[int | None, _option("Random sets beside each set.", SETS)] = None,
    num_matched: Annotated[int | None, _option("Random sets matched on |w| beside each set.", SETS)] = None,
    keep_scores: Annotated[bool | None, typer.Option("--keep-scores/--no-keep-scores", help="Keep the score files (4 bytes a weight).", rich_help_panel=SETS, show_default=False)] = None,
    min_asr_rise: Annotated[float | None, _option("Rise of the ASR that counts, as a fraction: 0.5 is 50 points.", RULE)] = None,
    max_perplexity_ratio: Annotated[float | None, _option("Perplexity ratio from which a set does not count.", RULE)] = None,
    max_degenerate: Annotated[float | None, _option("Degenerate share above which a set does not count.", RULE)] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Tell how brittle a chat model's safety is: score, prune beside controls, judge, report.

    Example: `safetypin audit smollm2-aligned --preset quick --out runs/demo`
    """
    options = dict(locals())
    for name in ("model", "out", "preset", "config", "fail_if_brittle", "quiet", "verbose"):
        options.pop(name)
    options |= {"q": numbers(q), "p": p and numbers(p)}
    options["judge_options"] = options.pop("judge_option") or None
    options |= {"controls": names(controls), "targets": names(targets)}
    if fail_if_brittle is not None and not 0 < fail_if_brittle <= 1:
        raise UserError(
            f"--fail-if-brittle must be in (0, 1], got {fail_if_brittle:g}; 1 % is 0.01"
        )
    settings = make_config(model, preset, config, options)
    refuse_idle(options, idle_audit_options(settings.method, settings.controls))
    reporter = reporting(out, quiet=quiet, verbose=verbose)
    metrics = run_audit(settings, out, reporter=reporter)
    console = Console()
    print_summary(metrics, console)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)
    if fail_if_brittle is not None:
        raise typer.Exit(exit_code(metrics["verdict"], metrics["cells"], fail_if_brittle))


def exit_code(verdict: dict[str, Any], cells: list[dict[str, Any]], limit: float) -> int:
    """Return 1 where the model is brittle at `limit` of the weights or less, 0 where it is not.

    3 where that is undecided: also where no set of that share or less counts, or one that left a
    model may reach the rise.
    """
    if verdict["answer"] == "brittle" and verdict["fraction"] <= limit:
        return BRITTLE
    rule = verdict["rule"]
    small = [cell for cell in cells if cell["arm"] == "critical" and cell["fraction"] <= limit]
    alive = [cell for cell in small if not cell["destroyed"]]
    intervals = [cell["asr_change"]["interval"] for cell in alive]
    clear = all(found is not None and found[1] < rule["min_asr_rise"] for found in intervals)
    counted = any(effect_of(cell).keeps_language(Rule(**rule)) for cell in alive)
    return 0 if verdict["answer"] != "undecided" and counted and clear else UNDECIDED
