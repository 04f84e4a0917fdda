"""The page for readers of the papers: each of its commands runs, and no name of theirs is missing.

The commands run in the order of the page, on a tiny model and tiny prompt sets in the place of the
named ones, with options that make them short.
"""

import contextlib
import json
import random
import re
import shlex

import pytest
import torch
from typer.testing import CliRunner

from doc_pages import ROOT, blocks, section, tables, text_of
from end_to_end import tiny as tiny_model
from safetypin.artifacts import load
from safetypin.cli import app
from safetypin.models import chosen_layers, load_model
from safetypin.stages import TUNE_PRESETS

PAGE = ROOT / "docs/coming-from-the-papers.md"
SEEDS = ROOT.parent / "shared" / "seeds"
KINDS = ("safety", "utility", "attack", "harmless", "borderline", "text")
SOURCES = {
    "builtin-harmful:calibration": "safety",
    "builtin-harmless:calibration": "utility",
    "gsm8k-100": "train",
    "builtin-harmful:evaluation": "guard-unsafe",
    "builtin-harmless:evaluation": "guard-safe",
}
SIZES = {"safety": 16, "utility": 16, "attack": 8, "harmless": 4, "borderline": 4, "text": 2}
TRAINING = {"learning-rate": 1e-2, "max-steps": 3, "max-length": 60}
SHORT = {"max-new-tokens": 10}
# what makes a phase of warp short
PHASES = {
    "basis": ("num-safety", "max-new-tokens"),
    "importance": (),
    "tune": ("attack", "num-attack", "max-steps", "max-length", "learning-rate"),
    "all": (
        "num-safety", "attack", "num-attack", "max-steps", "max-length", "learning-rate",
        "max-new-tokens",
    ),
}  # fmt: skip

# what the documents name: tasks, options, scripts, classes, files
TASKS = """identify_safety_neurons identify_utility_neurons fine_tune_frozen fine_tune_unfrozen
    eval_score_dynamics eval_weight_drift"""
OPTIONS = """task model original_model_path fine_tuned_model_path prune_method prune_data
    sparsity_ratio nsamples safety_masks utility_masks training_data num_epochs learning_rate
    batch_size max_length original_safety_masks_path original_safety_scores_path
    fine_tuned_safety_scores_path safety_masks_path utility_masks_path original_weights_path
    eval_attack model_save_path results_path seed device use_peft peft_r peft_alpha
    peft_target_modules original_scores fine_tuned_scores masks output_dir"""
SCRIPTS = """main_extension.py plot_wanda_scores.py verify_peft_installation.py quick_test.sh
    run_full_pipeline.sh config_example.sh"""
FILES = """original_safety_masks.pt original_safety_scores.pt fine_tuned_safety_scores.pt
    original_utility_masks.pt original_weights.pt fine_tuned_frozen_model
    fine_tuned_unfrozen_model fine_tuned_model results/ plots"""
# and what its code writes besides
WRITTEN = """original_utility_scores.pt fine_tuned_safety_masks.pt score_dynamics_analysis.json
    asr_results_frozen.json asr_results_unfrozen.json"""
CLASSES = """SafetyNeuronAnalyzer FineTuner ScoreDynamicsAnalyzer WeightDriftAnalyzer
    compute_weight_drift eval_attack get_llm get_loaders"""
# of the document on WaRP
WARP_OPTIONS = """phase model_name safety_samples batch_size target_layers layer_type device dtype
    seed basis_dir keep_ratio masks_dir utility_samples epochs learning_rate debug
    gradient_checkpointing"""
CHOICES = "wanda wandg align align_short alpaca_cleaned_no_safety"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, prompt files, the experiments, and files of the extension."""
    folder = tmp_path_factory.mktemp("papers")
    tiny_model.make_model(folder / "model")
    tiny_model.write_prompts(folder)
    generator = random.Random(7)
    prompts = [tiny_model.request("paint", generator) for _ in range(40)]
    rows = [{"prompt": prompt, "response": tiny_model.ANSWER} for prompt in prompts]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model.make_model(folder / "unaligned", aligned=False)
    for kind, verb in {"unsafe": "hurt", "safe": "greet"}.items():
        asked = [{"prompt": tiny_model.request(verb, generator)} for _ in range(30)]
        text = "".join(json.dumps(row) + "\n" for row in asked)
        (folder / f"guard-{kind}.jsonl").write_text(text)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    _save_as_the_extension_did(folder)
    return folder


def _save_as_the_extension_did(folder):
    model, _ = load_model(str(folder / "model"), dtype="float32", device="cpu")
    masks, scores = {}, {}
    for name, weight in model.named_parameters():
        if "proj" in name:
            values, indices = torch.topk(weight.detach().abs().flatten(), 20)
            mask = torch.zeros_like(weight, dtype=torch.bool)
            mask.view(-1)[indices] = True
            module = name.removesuffix(".weight")
            masks[module] = mask
            scores[module] = {"indices": indices, "scores": values, "shape": weight.shape}
    torch.save(masks, folder / "original_safety_masks.pt")
    torch.save(scores, folder / "original_safety_scores.pt")


def commands():
    for block in blocks(PAGE, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] == "safetypin", line
            yield words[1:]


def idle(words):
    """Return the options that would do nothing beside those on the page, and so are refused."""
    scored = {"safety", "utility", "num-safety", "num-utility"}
    found = {"max-steps"} if "--epochs" in words else set()
    if words[0] == "tune" and ("--mask" in words or "none" in words):
        found |= scored
    if words[0] == "track":  # of a run of tune, which answered its prompts itself
        found |= {*KINDS, *(f"num-{kind}" for kind in KINDS)} - scored
        if "--no-rescore" in words:
            found |= {*scored, *SHORT}
    if words[0] == "contrast" and "prompt" in words:  # no answers are made
        found |= {*SHORT}
    return found


def shortened(words, place):
    """Return a command as it is on the page, on tiny things, with what makes it short."""
    files = {name: str(place / f"{kind}.jsonl") for name, kind in SOURCES.items()}
    files["smollm2-aligned"] = str(place / "model")
    files["smollm2"] = str(place / "unaligned")
    given = {kind: str(place / f"{kind}.jsonl") for kind in KINDS}
    counts = {f"num-{kind}": size for kind, size in SIZES.items()}
    pair = {"prompts": str(place / "safety.jsonl"), "num-prompts": 8}
    kinds = {
        "contrast": {**SHORT, **pair},
        "patch": {**SHORT, "attack": given["attack"], "num-attack": 6, "fractions": "0.5,1"},
        "score": {**SHORT, "num-prompts": 16},
        "tune": {**given, **counts, **TRAINING, **SHORT},
        "track": {**given, **counts, **SHORT, "num-permutations": 19},
        "evaluate": {
            "harmful": given["attack"],
            **{kind: given[kind] for kind in ("harmless", "borderline", "text")},
            **SHORT,
        },
    }
    found = [files.get(word, word) for word in words]
    extra = {k: v for k, v in kinds.get(words[0], {}).items() if k not in idle(words)}
    found += [part for name, value in extra.items() for part in (f"--{name}", str(value))]
    if words[0] == "warp":
        phase = words[1] if words[1] in PHASES else "all"
        found += [
            part
            for name, value in {**given, **counts, **TRAINING, **SHORT}.items()
            if name in PHASES[phase] and name not in idle(words)
            for part in (f"--{name}", str(value))
        ]
    if "experiments/contrast-guard.toml" in words:
        unsafe, safe = (str(place / f"guard-{kind}.jsonl") for kind in ("unsafe", "safe"))
        settings = {
            "model": files["smollm2-aligned"], "reference": files["smollm2"], "unsafe": unsafe,
            "safe": safe, "other_unsafe": given["attack"], "other_safe": str(place / "train.jsonl"),
            "prompts": pair["prompts"], "attack": given["attack"], "num_attack": 6,
            "num_random": 1, "fractions": [0.5, 1.0], "max_new_tokens": 8,
        }  # fmt: skip
        return [*found, *(p for n, v in settings.items() for p in ("--set", f"{n}={v}"))]
    if words[0] == "run":
        settings = {**given, **counts, **TRAINING, **SHORT, "num-permutations": 19}
        settings |= {"model": files["smollm2-aligned"], "data": files["gsm8k-100"], "seeds": [42]}
        for name, value in settings.items():
            found += ["--set", f"{name.replace('-', '_')}={value}"]
    return found


@pytest.fixture(scope="module")
def ended(place):
    """The output of every command of the page, in its order."""
    shown = []
    with contextlib.chdir(place):
        for words in commands():
            result = CliRunner().invoke(app, shortened(words, place))
            shown.append((words, result))
            assert result.exit_code == 0, (words, result.output, result.exception)
    return shown


def test_every_command_of_the_page_runs(ended):
    assert len(ended) == len(list(commands())) >= 20


def test_every_task_of_the_extension_has_left_its_result(ended, place):
    runs = place / "runs"
    for path in (
        "papers/frozen/training/model/config.json",
        "papers/lora-base/training/model/adapter_config.json",
        "papers/unfrozen/training/checkpoints",
        "papers/dynamics/dynamics.parquet",
        "papers/drift/drift.parquet",
        "papers/attacked-after/summary.json",
        "frozen/report.html",
        "frozen-lora/report.html",
        "unfrozen/report.html",
        "warp/basis/basis/basis.json",
        "warp/mask/set/mask.safetensors",
        "warp/tuned/training/protection.json",
        "warp/whole/report.html",
        "papers/contrast/neurons/neurons.safetensors",
        "papers/patch/report.html",
        "papers/guard/guard/guard.safetensors",
        "contrast-guard/report.html",
    ):
        assert (runs / path).exists(), path
    assert list((runs / "papers/dynamics/figures").glob("*.png"))


def test_imported_files_are_the_sets_that_were_saved(ended, place):
    imported = [load(place / "runs/papers" / name) for name in ("imported-set", "imported-scores")]
    assert imported[0].fingerprint == imported[1].fingerprint
    assert imported[0].num_selected == 20 * len(imported[0].tensors)


def test_the_frozen_weights_are_the_ones_that_were_identified(ended, place):
    mask = load(place / "runs/papers/set")
    models = [place / "model", place / "runs/papers/frozen/training/model"]
    before, after = (
        dict(load_model(str(path), dtype="float32", device="cpu")[0].named_parameters())
        for path in models
    )
    for name, members in mask.tensors.items():
        assert torch.equal(before[name][members], after[name][members])


def test_the_table_of_document_004_has_our_model_beside_it_and_its_rates_are_those_of_its_counts():
    part = section(PAGE, "### Activation contrasting and the classifier (document 004)")
    head = next(line for line in part.splitlines() if line.startswith("| features"))
    assert re.findall(r"\((\d+)", head) == ["885", "60", "96"]
    sizes = [885, None, 60, 96]
    checked = 0
    for _, *cells in tables(part)[0]:
        for cell, size in zip(cells, sizes, strict=True):
            found = re.match(r"([\d.]+) %, ([\d.]+) %, (\d+) / (\d+), (\d+) / (\d+)", cell)
            if found is None:
                continue
            accuracy, recall = float(found[1]), float(found[2])
            right, alarm, missed, caught = map(int, found.groups()[2:])
            assert right + alarm + missed + caught == size
            assert accuracy == pytest.approx(100 * (right + caught) / size, abs=0.006)
            assert recall == pytest.approx(100 * caught / (missed + caught), abs=0.006)
            checked += 1
    assert checked == 3 + 5 + 4


@pytest.mark.parametrize(
    "name", sorted(f"{TASKS} {SCRIPTS} {FILES} {WRITTEN} {CLASSES} {CHOICES}".split()), ids=str
)
def test_every_name_of_the_documents_is_on_the_page(name):
    assert re.search(rf"(?<!\w){re.escape(name)}", text_of(PAGE))


@pytest.mark.parametrize("name", f"{OPTIONS} {WARP_OPTIONS}".split())
def test_every_option_of_the_documents_is_in_the_table(name):
    assert f"<code>--{name}</code>" in text_of(PAGE)


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the source documents are not at hand")
def test_the_lists_above_hold_all_that_the_documents_name():
    texts = [path.read_text() for path in SEEDS.glob("00[02]_*.txt")]
    assert len(texts) == 2
    text = "\n".join(texts)
    assert set(re.findall(r"(?<![-\w])--([a-z]\w+)", text)) <= set(OPTIONS.split())
    assert set(re.findall(r"--task (\w+)", text)) <= set(TASKS.split())
    assert set(re.findall(r"\w+\.pt\b", text)) <= set(FILES.split())
    assert set(re.findall(r"\w+\.sh\b", text)) <= set(SCRIPTS.split())
    (contrast,) = SEEDS.glob("004_*.txt")
    numbers = re.findall(r"(?:accuracy|recall): (0\.\d+)", contrast.read_text())
    assert len(numbers) == 6
    page = text_of(PAGE)
    assert all(f"{100 * float(number):.2f} %" in page for number in numbers)
    (warp,) = SEEDS.glob("003_*.txt")
    options = re.findall(r"(?<![-\w])--([a-z]\w+)", warp.read_text())
    others = {"index", "no", "force", "batch", "samples"}  # of conda, pip and its shell scripts
    assert set(options) - others <= set(WARP_OPTIONS.split())


def test_the_defaults_of_warp_are_those_of_the_document():
    preset = TUNE_PRESETS["warp"]
    assert (preset["num_safety"], preset["score_batch_size"], preset["batch_size"]) == (100, 4, 2)
    assert (preset["keep_ratio"], preset["epochs"], preset["learning_rate"]) == (0.1, 3.0, 5e-5)
    assert chosen_layers("early", 32) == tuple(range(11))
    assert chosen_layers("middle", 32) == tuple(range(11, 22))
    assert chosen_layers("late", 32) == tuple(range(22, 32))
    assert chosen_layers("last", 32) == chosen_layers("31", 32) == (31,)
    assert chosen_layers("30-31", 32) == (30, 31)
    assert chosen_layers("0-5", 32) == tuple(range(6))
    assert chosen_layers("early", 30) == tuple(range(10))
