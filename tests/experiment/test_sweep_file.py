"""The file of the shipped sweep, at both scales."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from safetypin.experiment import is_chain, is_sweep, read_sweep
from safetypin.experiment.sweep._file import Measures
from safetypin.experiment.sweep._known import PROJECTION, is_known, known
from safetypin.prompts import PROMPT_SOURCES

FILE = Path(__file__).parents[2] / "experiments" / "figure2.toml"


def test_the_file_is_a_sweep_and_no_chain():
    assert is_sweep(FILE)
    assert not is_chain(FILE)
    assert not is_sweep(FILE.with_name("contrast-guard.toml"))
    assert not is_sweep(FILE.with_name("frozen-regime.toml"))


@pytest.mark.parametrize(("scale", "num_sizes"), [("small", 4), ("paper", 3)])
def test_both_scales_have_eight_methods_at_several_sizes_and_three_seeds(scale, num_sizes):
    sweep = read_sweep(FILE, scale)
    sizes = dict.fromkeys(sweep.methods, 0)
    for cell in sweep.cells:
        sizes[cell.method] += cell.like is None
    methods = [name for name, count in sizes.items() if count >= num_sizes]
    assert len(methods) >= 8
    assert {cell.seed for cell in sweep.cells if cell.method == "random"} == {0, 1, 2}
    assert len({cell.id for cell in sweep.cells}) == len(sweep.cells)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_kind_has_a_random_control_and_the_matched_one_three_draws(scale):
    sweep = read_sweep(FILE, scale)
    controlled = {sweep.of(cell).kind for cell in sweep.cells if cell.like is not None}
    kinds = {method.kind for method in sweep.methods.values()} - {"random"}
    assert controlled == kinds == {"difference", "share", "ranks", "projection", "heads"}
    seeds = {}
    for cell in sweep.cells:
        if sweep.methods[cell.method].kind == "random":
            seeds.setdefault((cell.method, cell.like), set()).add(cell.seed)
    assert {"random-actsvd", "random-safest", "matched"} <= {name for name, _ in seeds}
    assert all(drawn == {0, 1, 2} for drawn in seeds.values()), seeds


def test_the_small_scale_has_the_cells_that_were_timed():
    assert len(read_sweep(FILE, "small").cells) == 65


def test_the_small_scale_needs_nothing_from_the_network():
    sweep = read_sweep(FILE, "small")
    kinds = ("safety", "utility", "attack", "harmless", "borderline", "text")
    sources = {getattr(sweep.config, kind).partition(":")[0] for kind in kinds}
    assert sources <= set(PROMPT_SOURCES)
    assert all(source.startswith("builtin") for source in sources)
    assert (sweep.config.model, sweep.measures.reference) == ("smollm2-aligned", "smollm2")


def test_other_judges_are_checked_before_anything_runs():
    judges = ("prefix", "classifier:folder")
    assert Measures(also_judges=judges).also_judges == judges
    with pytest.raises(ValidationError, match="lacks its argument; write classifier:"):
        Measures(also_judges=("classifier",))
    with pytest.raises(ValidationError, match="no judge 'prefx'; nearest: prefix"):
        Measures(also_judges=("prefx",))


def test_only_snips_differences_stand_beside_the_papers():
    model = "meta-llama/Llama-2-7b-chat-hf"
    assert known(model, "difference", (0.01, 0.01))[0] == "1/1"
    assert known(model, "difference", (0.02, 0.04))[0] == "4/2"  # the paper writes p/q
    assert known(model, "difference", (0.03, 0.07))[0] == "7/3"
    assert known(model, "difference", (0.01, 0.02))[0] == "2/1"
    assert known(model, "projection", (646, 96)) == ("3450/4000", PROJECTION[646, 96])
    assert known("smollm2", "difference", (0.01, 0.01)) is None
    methods = read_sweep(FILE, "paper").methods
    assert methods["snip-difference"].is_of_the_paper
    assert not methods["wanda-difference"].is_of_the_paper


def test_the_paper_scale_has_the_papers_rows():
    sweep = read_sweep(FILE, "paper")
    for name in ("snip-top", "wanda-top", "magnitude"):
        assert {0.01, 0.05, 0.1} <= set(sweep.methods[name].shares)
    grid = read_sweep(FILE, "paper").methods["snip-difference"].grid
    assert {(0.01, 0.01), (0.02, 0.04), (0.05, 0.05), (0.06, 0.06)} <= set(grid)


@pytest.mark.parametrize(
    "model",
    [
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Llama-2-7b-chat-hf@main",
        "/models/Llama-2-7b-chat/",
    ],
)
def test_the_papers_model_is_known_wherever_it_lies(model):
    assert is_known(model)


@pytest.mark.parametrize(
    "model",
    ["me/llama-2-7b-chat-hf-tuned", "llama-2-7b-chat-hf/checkpoint-9", "my-llama-2-7b-chat"],
)
def test_a_model_made_of_the_papers_has_no_row_of_it(model):
    assert not is_known(model)
    assert known(model, "difference", (0.01, 0.01)) is None
