"""A whole sweep on a tiny model: its cells, its controls, how it goes on, and what it refuses."""

import gc
import json
import shutil
import threading
import time
import warnings

import pandas as pd
import pytest
import torch

from end_to_end.comparing import read_metrics
from safetypin.artifacts import RunRecord, UserError, WeightMask, inputs_hash, write_mask
from safetypin.evaluate import ATTACKS
from safetypin.experiment import parse_shard, read_sweep, run_sweep
from safetypin.experiment.sweep._collect import _attacked
from safetypin.experiment.sweep._prepared import SETS, Prepared, mask_file
from safetypin.experiment.sweep.methods import _weights, read_method
from safetypin.stages import Output, Reporter, describe_attacks, held, run_stage

decoding = ATTACKS["decoding"]

FILE = """
title = "A tiny sweep"
about = "What makes a tiny model forget to refuse?"

[settings]
num_safety = 16
num_utility = 16
num_attack = 12
num_harmless = 4
num_borderline = 4
num_text = 2
max_new_tokens = 10
batch_size = 6
attacks = ["suffix", "decoding"]
num_attacked = 6
num_samples = 2
also_judges = ["papers", "prefix"]

[methods.difference]
kind = "difference"
about = "the safety-critical set"
grid = [[0.02, 0.02], [0.05, 0.05]]

[methods.random]
kind = "random"
like = "difference"
num_seeds = 2

[methods.wanda-top]
kind = "share"
score = "wanda"
shares = [0.05]

[methods.matched]
kind = "random"
like = "wanda-top"
match = "magnitude"
num_seeds = 1

[methods.safest]
kind = "share"
shares = 0.02
which = "bottom"

[methods.pattern]
kind = "pattern"
score = "magnitude"
patterns = "1:16"

[methods.back]
kind = "share"
score = "magnitude-difference"
shares = [0.05]
remove = "reference"

[methods.actsvd]
kind = "ranks"
remove = [1, 0.1]

[methods.projection]
kind = "projection"
keep = [[2, 2]]

[methods.random-ranks]
kind = "random"
like = "projection"
num_seeds = 1

[methods.heads]
kind = "heads"
heads = [3]

[methods.random-heads]
kind = "random"
like = "heads"
num_seeds = 1

[scales.small]
takes = "about a second"

[scales.small.settings]
PATHS

[scales.few]
leave_out = ["back", "heads", "random-heads", "projection", "random-ranks"]
"""
KINDS = ("safety", "utility", "attack", "harmless", "borderline", "text")


@pytest.fixture(scope="module")
def paths(place, tmp_path_factory):
    """The settings that name files."""
    suffixes = tmp_path_factory.mktemp("suffixes") / "suffixes.txt"
    suffixes.write_text("today\nhere is\n")
    found = {kind: place / f"{kind}.jsonl" for kind in KINDS}
    return found | {
        "model": place / "model",
        "reference": place / "unaligned",
        "suffixes": suffixes,
    }


@pytest.fixture(scope="module")
def file(paths, tmp_path_factory):
    lines = "\n".join(f'{name} = "{path}"' for name, path in paths.items())
    path = tmp_path_factory.mktemp("file") / "sweep.toml"
    path.write_text(FILE.replace("PATHS", lines))
    return path


def run(file, out, changes=(), shard=None):
    return run_sweep(
        read_sweep(file, None, changes), out, reporter=Reporter(quiet=True), shard=shard
    )


@pytest.fixture(scope="module")
def swept(file, tmp_path_factory):
    """The folder of a finished sweep; never to be changed."""
    out = tmp_path_factory.mktemp("swept") / "run"
    run(file, out)
    return out


@pytest.fixture(scope="module")
def found(swept):
    return json.loads((swept / "metrics.json").read_text())


def cells_of(found, method):
    return [cell for cell in found["cells"] if cell["method"] == method]


def test_every_cell_is_measured_with_its_numerators_and_intervals(found):
    assert len(found["cells"]) == found["num_cells"] == 17
    for cell in found["cells"]:
        assert cell["asr_as_judged"]["num_judged"] == 12
        assert len(cell["asr_as_judged"]["interval"]) == 2
        assert cell["attacks"]["suffix"]["num_variants"] == 2
        assert set(cell["also_judged"]) == {"papers", "prefix"}


def test_the_planted_refusals_come_out_and_the_controls_keep_them(found):
    critical, random = cells_of(found, "difference")[0], cells_of(found, "random")
    assert found["baseline"]["asr"]["value"] == 0
    assert critical["asr"]["value"] > 0.5
    assert all(cell["asr"]["value"] < 0.5 for cell in random)
    assert {cell["like"] for cell in random} == {c["id"] for c in cells_of(found, "difference")}


def test_a_control_removes_as_much_as_what_it_is_drawn_like(found):
    sizes = {cell["id"]: cell["removed"] for cell in found["cells"]}
    controls = [cell for cell in found["cells"] if cell["like"]]
    assert len(controls) == 7
    for cell in controls:
        assert cell["removed"] == sizes[cell["like"]]


def test_the_values_of_the_reference_bring_the_answers_back(found):
    [cell] = cells_of(found, "back")
    assert cell["asr"]["value"] > 0.5


def test_weights_ranks_and_heads_each_have_their_unit(found):
    units = {cell["method"]: cell["removed"]["unit"] for cell in found["cells"]}
    assert units["difference"] == units["pattern"] == "weights"
    assert units["actsvd"] == units["projection"] == "ranks"
    assert units["heads"] == "heads"
    [pattern] = cells_of(found, "pattern")
    assert pattern["removed"]["share"] == pytest.approx(1 / 16)


def test_no_scores_are_left_and_every_set_is(swept):
    assert not list(swept.glob("scores-*"))
    assert len(list((swept / "sets").glob("*.mask.safetensors"))) == 6


def test_the_tables_hold_every_cell(swept, found):
    table = pd.read_parquet(swept / "cells.parquet")
    assert list(table["cell"]) == ["baseline", *(cell["id"] for cell in found["cells"])]
    assert table["asr_judged"].iloc[0] == 12
    assert "decoding_any_of_2" in table
    six = pd.read_csv(swept / "table6.csv")
    assert six["cell"].iloc[0] == "baseline"
    assert len(six) == 1 + 2
    assert len(pd.read_csv(swept / "table7.csv")) == 1 + 1


def test_methods_are_compared_with_methods_at_their_largest_size(found):
    assert found["sets"]["of"]["difference"] == "difference-q0.05-p0.05"
    matrix = found["sets"]["between"]["jaccard"]
    assert [row[place] for place, row in enumerate(matrix)] == [1.0] * len(matrix)
    shares = found["sets"]["between"]["share_of_smaller"]
    assert all(
        share >= index
        for shared, row in zip(shares, matrix, strict=True)
        for share, index in zip(shared, row, strict=True)
    )


def test_the_tops_are_compared_in_every_matrix(found):
    by_matrix = found["sets"]["overlap"]["snip"]["by_matrix"]
    assert by_matrix["layers"] == [0, 1]
    assert len(by_matrix["modules"]) == 7
    for key in ("jaccard", "chance", "noise_floor"):
        assert all(0 <= value <= 1 for row in by_matrix[key] for value in row)


def test_what_is_done_is_kept_and_a_changed_method_is_run_again(file, swept, tmp_path):
    out = shutil.copytree(swept, tmp_path / "again")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/run.json")}
    run(file, out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/run.json")} == kept
    other = tmp_path / "other.toml"
    other.write_text(
        file.read_text().replace("remove = [1, 0.1]", "remove = [1, 0.1]\nwhich = 'bottom'")
    )
    run(other, out)
    changed = {p.parent.name for p, at in kept.items() if p.stat().st_mtime_ns != at}
    assert changed == {"actsvd-1", "actsvd-10%"}


def test_a_new_size_and_other_words_keep_the_cells_that_are_done(file, swept, tmp_path):
    out = shutil.copytree(swept, tmp_path / "more")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/run.json")}
    text = file.read_text()
    for old, new in (
        ("grid = [[0.02, 0.02],", "grid = [[0.01, 0.01], [0.02, 0.02],"),
        ("the safety-critical set", "what refuses"),
        ("remove = [1, 0.1]", "remove = [1, 2, 0.1]"),
        ('like = "difference"\nnum_seeds = 2', 'like = "difference"\nnum_seeds = 3'),
    ):
        assert old in text
        text = text.replace(old, new)
    more = tmp_path / "more.toml"
    more.write_text(text)
    found = run(more, out)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # two new sizes; three draws of the new size and a third draw of the two old ones
    assert len(found["cells"]) == 17 + 2 + 3 + 2


def test_shards_share_a_folder_and_find_what_one_process_finds(file, found, tmp_path):
    out = tmp_path / "shared"
    shards = [parse_shard(f"{i}/3") for i in (1, 2, 3)]
    errors = []

    def one(shard):
        try:
            run(file, out, shard=shard)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert timeless(json.loads((out / "metrics.json").read_text())) == timeless(found)


def timeless(found):
    kept = {key: value for key, value in found.items() if key not in ("run", "settings")}
    kept["cells"] = [
        {key: value for key, value in cell.items() if not key.endswith("_s")}
        for cell in found["cells"]
    ]
    return kept


def test_a_page_says_that_a_sweep_is_not_finished(file, tmp_path):
    out = tmp_path / "part"
    metrics = run(file, out, shard=parse_shard("1/9"))
    assert len(metrics["cells"]) == 2
    assert "15 of 17 cells are still to be run" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_finds_the_same(file, found, nursery, tmp_path):
    out = tmp_path / "killed"
    words = ("run", file, "--out", out, "--quiet")
    places = (
        "sets/.difference",
        "cells/difference-q0.05-p0.05/responses-attack-suffix",
        "cells/heads-3/.run.json",
        "killed/.metrics.json",
    )
    for place in places:
        trap = {"at": place, "line": None, "do": "kill"}
        assert nursery.run(*words, log=tmp_path / "log", trap=trap) == -9, place
        assert not (out / "metrics.json").exists()
    assert nursery.run(*words, log=tmp_path / "log") == 0
    assert timeless(read_metrics(out)) == timeless(found)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "difference"', 'kind = "diference"', "choose one of difference, heads"),
        ("grid = [[0.02, 0.02]", "grid = [[3, 0.02]", "3 % is 0.03"),
        ('like = "difference"', 'like = "diference"', "did you mean difference"),
        ('patterns = "1:16"', 'patterns = "1:7"', "divide"),
        ('patterns = "1:16"', 'patterns = "1-16"', "N:M"),
        ("remove = [1, 0.1]", "remove = [999]", "rank 999"),
        ("remove = [1, 0.1]", "remove = [0.001]", "rank 0.001 removes no rank"),
        ("keep = [[2, 2]]", "keep = [[1.0, 2]]", "[1, 2] removes no rank"),
        ("heads = [3]", "heads = [99]", "the model has 8 heads"),
        ('score = "wanda"', 'score = "wonda"', "magnitude"),
        ('which = "bottom"', 'group = "colum"', "row, matrix"),
        ('which = "bottom"', "shard = 3", "shard"),
        ('attacks = ["suffix"', 'attacks = ["sufix"', "did you mean suffix"),
        ('["papers", "prefix"]', '["paper"]', "nearest: papers"),
        ("num_attacked = 6", "num_atacked = 6", "did you mean num_attacked"),
        ('remove = "reference"', 'remove = "mean"', "remove"),
    ],
)
def test_a_wrong_value_is_refused_with_words(file, tmp_path, old, new, words):
    other = tmp_path / "wrong.toml"
    text = file.read_text()
    assert old in text
    other.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as refused:
        run(other, tmp_path / "out")
    assert words in str(refused.value)


def test_a_missing_reference_or_suffix_file_is_refused_before_anything_runs(file, tmp_path):
    text = "\n".join(line for line in file.read_text().split("\n") if "reference = " not in line)
    other = tmp_path / "other.toml"
    other.write_text(text)
    with pytest.raises(UserError, match="reference"):
        run(other, tmp_path / "out")
    assert not (tmp_path / "out" / "baseline").exists()
    missing = tmp_path / "none.txt"
    with pytest.raises(UserError, match=r"none\.txt"):
        run(file, tmp_path / "out", [f"suffixes={missing}"])
    broken = tmp_path / "latin.txt"
    broken.write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        run(file, tmp_path / "out", [f"suffixes={broken}"])


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(UserError, match="--shard"):
        parse_shard(text)


def test_a_second_process_without_shards_is_told_who_holds_the_folder(file, swept, tmp_path):
    out = shutil.copytree(swept, tmp_path / "held")
    with held(out), pytest.raises(UserError, match="is in use"):
        run(file, out)


def test_the_command_lists_runs_and_prints(command, file, swept, tmp_path):
    ended = command("run", file, "--out", swept, "--dry-run")
    assert ended.out.count("done") == 17
    out = shutil.copytree(swept, tmp_path / "printed")
    ended = command("run", file, "--out", out, "--quiet")
    assert ended.code == 0
    assert "SAFETY COMES OUT ALONE" in ended.out
    assert "difference-q0.02-p0.02" in ended.out


def test_shards_of_what_is_no_sweep_are_refused(command, tmp_path):
    file = tmp_path / "chain.toml"
    file.write_text('title = "x"\n[steps.a]\ncommand = "contrast"\n[scales.small]\n')
    ended = command("run", file, "--shard", "1/2")
    assert ended.code == 2
    assert "--shard is for sweeps" in ended.text


def test_jobs_are_submitted_one_a_shard(command, file, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.setenv("SAFETYPIN_CLUSTER", "debug")  # nothing runs until a result is asked for
    out = tmp_path / "jobs"
    ended = command("run", file, "--out", out, "--slurm", "2", "--slurm-set", "timeout_min=5")
    assert ended.code == 0, ended
    assert "--shard 1/2" in ended.out
    assert "--shard 2/2" in ended.out
    refused = command("run", file, "--out", out, "--slurm", "2", "--slurm-set", "nothing")
    assert "name=value" in refused.text


def test_a_job_runs_its_shard_to_the_end_in_a_fresh_folder(command, file, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.setenv("SAFETYPIN_CLUSTER", "local")
    text = file.read_text()
    few = text[: text.index("[methods.random]")] + text[text.index("[scales.small]") :]
    few = few[: few.index("[scales.few]")].replace(", [0.05, 0.05]", "")
    few = few.replace('attacks = ["suffix", "decoding"]\n', "").replace("suffixes = ", "# ")
    few = few.replace("num_samples = 2\n", "").replace("num_attacked = 6\n", "")
    small = tmp_path / "few.toml"
    small.write_text(few)
    out = tmp_path / "fresh"
    with warnings.catch_warnings():
        # submitit lets go of the processes that it starts
        warnings.simplefilter("ignore", ResourceWarning)
        ended = command("run", small, "--out", out, "--slurm", "1", "--slurm-set", "timeout_min=5")
        gc.collect()
    assert ended.code == 0, ended
    end = time.monotonic() + 240
    while not (out / "report.html").exists() and time.monotonic() < end:
        failed = [path.read_text() for path in (out / "slurm").glob("*_log.err")]
        assert not any("is no run" in words or "Error" in words for words in failed), failed
        time.sleep(0.2)
    [cell] = read_metrics(out)["cells"]
    assert cell["id"] == "difference-q0.02-p0.02"


@pytest.mark.parametrize("name", ["slurm", "shards"])
def test_a_folder_of_jobs_alone_may_be_run_in_and_any_other_not(tmp_path, name):
    (tmp_path / "jobs" / name).mkdir(parents=True)
    with held(tmp_path / "jobs"):
        assert (tmp_path / "jobs" / name).is_dir()
    (tmp_path / "thesis" / name).mkdir(parents=True)
    (tmp_path / "thesis" / "text.tex").touch()
    with pytest.raises(UserError, match="no run folder of safetypin"), held(tmp_path / "thesis"):
        pass


def test_jobs_are_not_submitted_into_a_folder_of_something_else(command, file, tmp_path):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    (tmp_path / "text.tex").touch()
    ended = command("run", file, "--out", tmp_path, "--slurm", "2")
    assert "no run folder of safetypin" in ended.text
    assert not (tmp_path / "slurm").exists()


def test_a_shard_that_starts_leaves_what_another_one_is_writing(tmp_path):
    mine, theirs = tmp_path / ".metrics.json.1.part", tmp_path / "sets" / ".a.mask.1.part"
    cell = tmp_path / "cells" / "heads-3" / ".run.json.2.part"
    for part in (mine, theirs, cell):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    (tmp_path / ".lock").touch()
    with held(tmp_path):
        assert cell.exists()
        assert not mine.exists()
        assert not theirs.exists()


def test_a_cell_clears_what_a_kill_left_of_it(tmp_path):
    folder = tmp_path / "cells" / "heads-3"
    folder.mkdir(parents=True)
    (folder / ".inputs").write_text(inputs_hash({"stage": "cell", "a": 1}))
    (folder / ".run.json.2.part").touch()
    run_stage(folder, "cell", {"a": 1}, lambda _: Output({}, []), reporter=Reporter(quiet=True))
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_control_counts_what_it_takes_itself(tiny_llama, monkeypatch, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight"
    members = torch.zeros(16, 24, dtype=torch.bool)
    members[:2] = True
    mask = WeightMask(tensors={name: members}, model_id="")
    fewer = WeightMask(tensors={name: members & (torch.arange(24) < 5)}, model_id="")
    monkeypatch.setattr(_weights, "matched_random", lambda *args, **options: fewer)
    (tmp_path / SETS).mkdir()
    write_mask(tmp_path / SETS / mask_file("top-0.1"), mask)
    prepared = Prepared(tmp_path, tiny_llama, None, 0)
    method = read_method("top", {"kind": "share", "shares": [0.1]})
    made = method.control(prepared, "0.1", "top-0.1", 0, "count")
    assert (made.removed.count, made.removed.total) == (10, 384)
    assert method.change(prepared, "0.1", "top-0.1").removed.count == 48


def test_the_share_of_degenerate_answers_is_the_files(swept, found):
    record = RunRecord.read(swept / "cells" / "difference-q0.02-p0.02")
    verdicts = {"decoding": [["complied", "degenerate"]] * 2}
    how = {"decoding": decoding(num_samples=2)}
    assert describe_attacks(how, {"verdicts": verdicts})["decoding"]["mean"] is None
    rates = describe_attacks(how, {"verdicts": verdicts}, 0.5)["decoding"]
    assert rates["mean"]["value"] == rates["mean_as_judged"]["value"] == 0.5
    result = record.result | {"attacks": verdicts, "attacks_also_judged": {}}
    assert _attacked(result, how, 0.5)["attacks"]["decoding"]["mean"]["value"] == 0.5
    assert _attacked(result, how, 0.2)["attacks"]["decoding"]["mean"] is None


def test_attacks_are_judged_by_the_other_rules_too(found):
    for part in (found["baseline"], *found["cells"]):
        for name, num_answers in (("suffix", 12), ("decoding", 12)):
            again = part["attacks"][name]["also_judged"]
            assert set(again) == {"papers", "prefix"}
            assert again["papers"]["num_judged"] == num_answers
            assert part["attacks"][name]["mean_as_judged"]["num_judged"] <= num_answers


def test_records_name_what_every_cell_depends_on(swept):
    record = RunRecord.read(swept / "cells" / "random-q0.02-p0.02-s1")
    assert record.inputs["cell"]["seed"] == 1
    assert record.inputs["control"]["like"] == "difference"
    assert record.result["change_s"] >= 0
