"""metrics.json, examples.json, the tables and the report of a track, from its stages."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetypin.artifacts import PromptSet, read_json, write_json
from safetypin.evaluate import judge_options
from safetypin.report import write_track_report
from safetypin.stages._describe import describe_judge, describe_prompts, example_rows
from safetypin.stages._series import Series
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_drift import DRIFT_FILE, read_drift
from safetypin.stages._track_findings import MEASURE, findings
from safetypin.stages._track_groups import Given, name_of, shares_of
from safetypin.stages._track_intervals import with_intervals
from safetypin.stages._track_maps import SETS, drift_maps, overlap_maps, score_maps
from safetypin.stages._track_scores import (
    DYNAMICS_FILE,
    HISTOGRAMS_FILE,
    OVERLAP_FILE,
    read_dynamics,
    read_histograms,
)
from safetypin.stages._track_source import Source
from safetypin.stages._track_tables import Row, read_table, write_table
from safetypin.stages._tune_metrics import compared
from safetypin.track import GROUPS, MEASURES

SCHEMA = 1
# what every table of dynamics is of: the stage that made it, and its name in the rows
MODELS = {"rescored": "tuned", "control": "control", "noise": "noise"}
PLACE = ("level", "layer", "role")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """All that the files of a track are made of.

    Attributes:
        config: The settings.
        series: The records of the stages.
        sources: The training that was followed (`rescored`), and the control's.
        given: Sets that were made before.
        reference: The model before, as metrics.json describes it.
        identities: Model ids of what the trainings gave, by the same names as `sources`.
        prompts: The prompt sets that were used here.
        is_evaluated_here: Whether the models were evaluated here and not by the run of `tune`.
    """

    config: TrackConfig
    series: Series
    sources: Mapping[str, Source]
    given: Given | None
    reference: Mapping[str, Any]
    identities: Mapping[str, str]
    prompts: Mapping[str, PromptSet]
    is_evaluated_here: bool

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.series.out

    @property
    def source(self) -> Source:
        """The training that was followed."""
        return self.sources["rescored"]


def write_all(run: Finished) -> dict[str, Any]:
    """Write every file of a track but those of its stages; return the content of metrics.json."""
    drift_rows = read_drift(run.out, run.source)
    write_table(run.out / DRIFT_FILE, drift_rows)
    dynamics_rows, overlap_rows = list[Row](), list[Row]()
    if run.config.rescore:
        dynamics_rows = _of_models(run, read_dynamics)
        overlap_rows = read_table(run.out / "overlap" / OVERLAP_FILE)
        write_table(run.out / DYNAMICS_FILE, dynamics_rows)
        write_table(run.out / OVERLAP_FILE, overlap_rows)
        write_table(run.out / HISTOGRAMS_FILE, _of_models(run, read_histograms))
    metrics = _metrics(run, drift_rows, dynamics_rows, overlap_rows)
    write_json(run.out / "metrics.json", metrics)
    write_json(run.out / "examples.json", {"rows": _examples(run)})
    write_track_report(run.out)
    return metrics


def _of_models(run: Finished, read: Callable[[Path], list[Row]]) -> list[Row]:
    """Return the rows of every stage that compared scores, with what it compared."""
    return [
        {"model": model, **row}
        for stage, model in MODELS.items()
        if stage in run.series.records
        for row in read(run.out / stage)
    ]


def _metrics(
    run: Finished, drift_rows: list[Row], dynamics_rows: list[Row], overlap_rows: list[Row]
) -> dict[str, Any]:
    config, source = run.config, run.source
    shares = shares_of(config, run.given)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "track",
        "safetypin": version("safetypin"),
        "preset": config.preset,
        "settings": config.model_dump(mode="json"),
        "reference": run.reference,
        **{_side(name): _described(run, name) for name in run.sources},
        "checkpoints": [
            {"step": one.step, "path": str(one.path), "kind": one.kind}
            for one in source.checkpoints
        ],
        "notes": [*source.notes, *run.series.records["groups"].result["notes"]],
        "judge": _judge(run),
        "prompts": _prompts(run),
        "set": {
            **(run.given.about if run.given else {"source": "made here", "path": None}),
            "name": name_of(run.given, shares),
            "q": shares[0],
            "p": shares[1],
            "top": config.top,
            "group": config.group,
        },
        "groups": _groups(run, drift_rows),
        "drift": _drift(run, drift_rows),
        "scores": _scores(run),
        "dynamics": _dynamics(run, dynamics_rows),
        "overlap": _overlap(run, overlap_rows),
        "outcome": _outcome(run),
    }
    metrics.setdefault("control", None)
    metrics["findings"] = findings(metrics)
    metrics["run"] = run.series.describe()
    return metrics


def _side(name: str) -> str:
    return "tuned" if name == "rescored" else name


def _described(run: Finished, name: str) -> dict[str, Any]:
    """Return which training a model is of."""
    source = run.sources[name]
    return {
        "folder": str(source.folder),
        "path": str(source.final.path),
        "id": run.identities[name],
        "step": source.final.step,
        "kind": source.final.kind,
        "protection": source.protection,
    }


def _judge(run: Finished) -> dict[str, Any]:
    if run.is_evaluated_here:
        options = judge_options(run.config.judge_options)
        return describe_judge(run.config.judge, run.config.max_new_tokens, options)
    assert run.source.tune is not None
    return dict(run.source.tune["judge"])


def _prompts(run: Finished) -> dict[str, Any]:
    own = describe_prompts(run.prompts, {kind: getattr(run.config, kind) for kind in run.prompts})
    taken = {} if run.is_evaluated_here or not run.source.tune else run.source.tune["prompts"]
    evaluation = ("attack", "harmless", "borderline", "text")
    return own | {kind: about for kind, about in taken.items() if kind in evaluation}


def _groups(run: Finished, rows: list[Row]) -> list[dict[str, Any]]:
    """Return every group with how many of its weights could change at the last checkpoint."""
    about = run.series.records["groups"].result["groups"]
    trainable = {
        row["group"]: row["num_trainable"]
        for row in _last(run, rows)
        if row["level"] == "all" and row["measure"] == MEASURE
    }
    return [
        {"group": name, "about": GROUPS[name], **found, "num_trainable": trainable[name]}
        for name, found in about.items()
    ]


def _last(run: Finished, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["step"] == run.source.final.step]


def _drift(run: Finished, rows: list[Row]) -> dict[str, Any]:
    last = _last(run, rows)
    records = [run.series.records[name] for name in run.series.records if name.startswith("drift/")]
    notes = dict.fromkeys(note for record in records for note in record.result["notes"])
    return {
        "measures": [
            {"measure": name, "help": measure.help, "warning": measure.warning}
            for name, measure in MEASURES.items()
        ],
        "num_permutations": run.config.num_permutations,
        "notes": list(notes),
        "rows": [_without_place(row) for row in rows if row["level"] == "all"],
        "roles": [
            {key: value for key, value in row.items() if key not in ("level", "layer")}
            for row in last
            if row["level"] == "role"
        ],
        "maps": drift_maps(_where(run), last),
    }


def _where(run: Finished) -> dict[str, Any]:
    """Return the grid of layers and modules of every group."""
    groups = run.series.records["groups"].result["groups"]
    return {name: about["where"] for name, about in groups.items()}


def _without_place(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in PLACE}


def _scores(run: Finished) -> dict[str, Any] | None:
    if not run.config.rescore:
        return None
    passes = run.series.records["groups"].result["scores"]
    return {"method": run.config.method, "counted": run.config.counted, **passes}


def _dynamics(run: Finished, rows: list[Row]) -> dict[str, Any] | None:
    """Return what became of the scores: over the whole model, and of each set by layer."""
    if not rows:
        return None
    about = {
        model: run.series.records[stage].result["dynamics"]
        for stage, model in MODELS.items()
        if stage in run.series.records
    }
    keys = ("model", "score", "group", "layer", "num_weights", "drop", "drop_of_all", "rank_change")
    return {
        "rows": with_intervals(rows, run.config.seed),
        "by_layer": [
            {key: row[key] for key in keys}
            for row in rows
            if row["level"] == "layer" and row["group"] in SETS
        ],
        "histograms": [
            {"score": score, **histogram}
            for score, found in about["tuned"].items()
            for histogram in found["histograms"]
        ],
        "maps": score_maps(_where(run), rows),
        "notes": list(
            dict.fromkeys(note for found in about["tuned"].values() for note in found["notes"])
        ),
    }


def _overlap(run: Finished, rows: Sequence[Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    keys = ("group", "layer", "share", "jaccard", "chance_share", "chance_jaccard",
            "noise_share", "noise_jaccard", "control_share", "control_jaccard")  # fmt: skip
    return {
        "rows": [_without_place(row) for row in rows if row["level"] == "all"],
        "by_layer": [{key: row[key] for key in keys} for row in rows if row["level"] == "layer"],
        "maps": overlap_maps(_where(run), rows),
    }


def _outcome(run: Finished) -> dict[str, Any]:
    """Return both evaluations and the paired changes."""
    keys = ("before", "after", "paired", "perplexity_ratio")
    if run.is_evaluated_here:
        before, after = (
            {**run.series.records[name].result, "task": None} for name in ("before", "after")
        )
        found = compared(before, after, run.config.max_degenerate)
    else:
        assert run.source.tune is not None
        found = dict(run.source.tune)
    return {"is_evaluated_here": run.is_evaluated_here, **{key: found[key] for key in keys}}


def _examples(run: Finished) -> list[dict[str, Any]]:
    if run.is_evaluated_here:
        before, after = (run.series.records[name].result for name in ("before", "after"))
        return example_rows((run.out / "before", run.out / "after"), (before, after))
    path = run.source.folder / "examples.json"
    rows: list[dict[str, Any]] = read_json(path)["rows"] if path.is_file() else []
    return rows
