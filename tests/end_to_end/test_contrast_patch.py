"""Contrast and patch on the tiny pair: from the command line to the pages."""

import json
import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from safetypin.artifacts import ArtifactMismatchError, NeuronSet, UserError, inputs_hash, load, save
from safetypin.cli import app
from safetypin.models import load_model
from safetypin.passes import forward
from safetypin.report import write_report
from safetypin.stages import (
    contrast_models,
    make_contrast_config,
    make_patch_config,
    patch_models,
)
from safetypin.stages._run import PARTIAL_FILE


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def pair(place):
    return {"model": str(place / "model"), "reference": str(place / "unaligned")}


@pytest.fixture(scope="module")
def contrasted(place, pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("contrast") / "out"
    ended = run(
        "contrast", pair["model"], "--reference", pair["reference"], "--prompts",
        place / "safety.jsonl", "--num-prompts", 16, "--max-new-tokens", 10, "--fraction", 0.1,
        "--device", "cpu", "--out", out, "-q",
    )  # fmt: skip
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return out


@pytest.fixture(scope="module")
def patched(place, pair, contrasted, tmp_path_factory):
    out = tmp_path_factory.mktemp("patch") / "out"
    ended = run(
        "patch", pair["model"], "--reference", pair["reference"], "--neurons", contrasted,
        "--attack", place / "attack.jsonl", "--num-attack", 12, "--max-new-tokens", 10,
        "--text", place / "text.jsonl", "--num-text", 2,
        "--fractions", "0.1,1", "--ablate-fractions", "0.1", "--num-random", 2,
        "--device", "cpu", "--out", out, "-q",
    )  # fmt: skip
    assert ended.exit_code == 0, (ended.output, ended.exception)
    return out


def stage_inputs(folder):
    return json.loads((folder / "run.json").read_text())["inputs"]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_contrast_leaves_scores_a_set_numbers_and_a_page(contrasted):
    neurons, scores = load(contrasted / "neurons"), load(contrasted / "scores")
    assert isinstance(neurons, NeuronSet)
    assert neurons.num_selected == round(0.1 * 128) == metrics_of(contrasted)["set"]["num_selected"]
    assert scores.reference_id == neurons.reference_id
    page = (contrasted / "report.html").read_text()
    for words in ("13 neurons", "Where the set is", "Repeatable"):
        assert words in page
    assert "<image" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org\S+", "", page)


@pytest.mark.parametrize("apart", [False, True])
def test_each_model_reads_each_prompt_once(place, pair, tmp_path, monkeypatch, apart):
    read = []

    def counted(model, batch, **options):
        read.extend([model.config.name_or_path] * len(batch.input_ids))
        return forward(model, batch, **options)

    monkeypatch.setattr("safetypin.scores._contrast.forward", counted)
    config = make_contrast_config(
        pair["model"],
        {
            "reference": pair["reference"],
            "prompts": str(place / "safety.jsonl"),
            "num_prompts": 9,
            "counted": "prompt",
            "one_at_a_time": apart,
            "device": "cpu",
        },
    )
    found = contrast_models(config, tmp_path / "out")
    assert sorted(read) == sorted([pair["model"], pair["reference"]] * 9)
    assert found["num_examples"] == 9
    assert found["noise"]["jaccard"] > 0


def test_the_same_numbers_give_the_same_page(contrasted, patched):
    for folder in (contrasted, patched):
        before = (folder / "report.html").read_bytes()
        assert run("report", folder).exit_code == 0
        assert (folder / "report.html").read_bytes() == before


def test_a_second_run_takes_what_is_there(contrasted, pair, place):
    config = metrics_of(contrasted)["settings"]
    found = contrast_models(make_contrast_config(config.pop("model"), config), contrasted)
    assert all(stage["reused"] for stage in found["run"]["stages"])


def test_one_model_after_the_other_gives_the_same_set(contrasted, tmp_path):
    config = metrics_of(contrasted)["settings"] | {"one_at_a_time": True}
    contrast_models(make_contrast_config(config.pop("model"), config), tmp_path / "out")
    apart, both = load(tmp_path / "out/neurons"), load(contrasted / "neurons")
    assert apart.fingerprint == both.fingerprint
    assert not (tmp_path / "out/scores/.activations").exists()


def test_patching_every_neuron_and_random_sets_are_on_the_curve(patched):
    found = metrics_of(patched)
    cells = {(c["direction"], c["arm"], c["fraction"], c["seed"]): c for c in found["cells"]}
    assert len(cells) == 1 + 2 + 1 + 1 + 2
    assert found["unsafe"]["asr"]["value"] > 0.8
    assert found["safe"]["asr"]["value"] < 0.2
    own, drawn = cells["patch", "contrast", 0.1, None], cells["patch", "random", 0.1, 0]
    assert own["num_selected"] == drawn["num_selected"] > drawn["num_shared"]
    inputs = [stage_inputs(patched / f"patch-random-0.1-{seed}") for seed in (0, 1)]
    assert inputs[0]["neurons"] != inputs[1]["neurons"]
    assert cells["patch", "contrast", 1.0, None]["num_selected"] == found["num_units"]
    assert found["verdict"]["answer"] in {"cause", "no more than random", "undecided"}
    assert all(cell["perplexity_ratio"] > 0 for cell in found["cells"])
    whole = cells["patch", "contrast", 1.0, None]
    assert whole["perplexity_ratio"] != 1.0
    page = (patched / "report.html").read_text()
    for words in ("Recovery against size", "The other direction", "All units patched"):
        assert words in page


def test_patching_goes_on_where_it_was_killed(patched, tmp_path):
    shutil.copytree(patched, tmp_path / "out")
    cut = tmp_path / "out/patch-contrast-1"
    inputs = json.loads((cut / "run.json").read_text())["inputs"]
    (cut / "run.json").unlink()
    mark = inputs_hash({"stage": "patch-contrast-1", **inputs})
    (cut / PARTIAL_FILE).write_text(mark)
    lines = (cut / "responses.jsonl").read_text().splitlines(keepends=True)
    (cut / "responses.jsonl").write_text("".join(lines[:5]) + lines[5][:9])
    config = metrics_of(patched)["settings"]
    found = patch_models(make_patch_config(config.pop("model"), config), tmp_path / "out")
    fresh = [stage["name"] for stage in found["run"]["stages"] if not stage["reused"]]
    assert fresh == ["patch-contrast-1"]
    assert found["cells"] == metrics_of(patched)["cells"]


def test_prompts_that_the_neurons_were_found_on_are_refused(patched, place, tmp_path):
    config = metrics_of(patched)["settings"] | {"attack": str(place / "safety.jsonl")}
    with pytest.raises(UserError, match="are among those that the neurons were found on"):
        patch_models(make_patch_config(config.pop("model"), config), tmp_path / "out")


def test_a_set_of_another_model_and_an_empty_one_are_refused(patched, contrasted, tmp_path):
    neurons = load(contrasted / "neurons")
    other = NeuronSet(tensors=neurons.tensors, model_id="other#123")
    save(other, tmp_path / "other")
    empty = NeuronSet(
        tensors={n: m & False for n, m in neurons.tensors.items()}, model_id=neurons.model_id
    )
    save(empty, tmp_path / "empty")
    save(load(contrasted / "scores"), tmp_path / "scores")
    config = metrics_of(patched)["settings"]
    for name, kind, said in (
        ("other", ArtifactMismatchError, "are of other#123, the model is"),
        ("empty", UserError, "is empty"),
        ("scores", UserError, "holds no set of neurons"),
        ("nowhere", UserError, "no folder"),
    ):
        given = config | {"neurons": str(tmp_path / name)}
        with pytest.raises(kind, match=said):
            patch_models(make_patch_config(given.pop("model"), given), tmp_path / "out")


def test_a_pair_with_other_tokens_is_refused_with_what_differs(place, pair, tmp_path):
    changed = tmp_path / "model"
    shutil.copytree(pair["reference"], changed)
    model, tokenizer = load_model(str(changed), device="cpu")
    words = json.loads((changed / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["noun1"], vocabulary["noun2"] = vocabulary["noun2"], vocabulary["noun1"]
    (changed / "tokenizer.json").write_text(json.dumps(words))
    for apart in (False, True):
        options = {"reference": str(changed), "num_prompts": 4, "one_at_a_time": apart}
        with pytest.raises(ArtifactMismatchError, match="differ in 2 tokens, first 'noun1'"):
            contrast_models(make_contrast_config(pair["model"], options), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("counted", ["response", "prompt"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_pair_of_other_shape_is_refused_before_anything_is_run(
    place, pair, tmp_path, apart, counted
):
    from transformers import LlamaForCausalLM

    model, tokenizer = load_model(pair["reference"], device="cpu")
    model.config.num_hidden_layers = 3
    LlamaForCausalLM(model.config).save_pretrained(tmp_path / "deep")
    tokenizer.save_pretrained(tmp_path / "deep")
    options = {"reference": str(tmp_path / "deep"), "prompts": str(place / "safety.jsonl")}
    options |= {"num_prompts": 4, "one_at_a_time": apart, "counted": counted}
    config = make_contrast_config(pair["model"], options)
    with pytest.raises(ArtifactMismatchError, match="differ in their layers: 2 and 3"):
        contrast_models(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no reference was given; name the unaligned model with --reference"),
        ({"reference": "x", "adapter_off": True}, "--adapter-off makes the reference"),
        ({"method": "ablation", "reference": "x"}, "the ablation effect is of one model"),
        ({"reference": "x", "foundation": "y"}, "--foundation belongs to --method ablation"),
        ({"reference": "x", "fraction": 5}, "fraction must be between 0 and 1, got 5; 5 % is 0.05"),
        ({"reference": "x", "site": "query"}, "site 'query' is unknown"),
        ({"reference": "x", "scael": "free"}, "unknown key 'scael'; did you mean scale"),
    ],
)
def test_settings_that_make_no_contrast_are_errors(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make_contrast_config("m", options)


def test_settings_that_make_no_patching_are_errors():
    for options, said in (
        ({"neurons": "x"}, "no reference was given"),
        ({"reference": "x"}, "no neurons was given"),
        ({"neurons": "x", "reference": "y", "fractions": (5.0,)}, "at most 1, got 5; 5 % is 0.05"),
    ):
        with pytest.raises(UserError, match=said):
            make_patch_config("m", options)


def test_ablation_effects_intersect_over_prompts_and_lose_foundation_units(place, pair, tmp_path):
    options = {
        "method": "ablation", "counted": "prompt", "prompts": str(place / "safety.jsonl"),
        "num_prompts": 8, "fraction": 0.5, "group": "layer",
        "foundation": str(place / "text.jsonl"),
        "foundation_fraction": 0.3, "device": "cpu",
    }  # fmt: skip
    found = contrast_models(make_contrast_config(pair["model"], options), tmp_path / "out")
    chosen = found["set"]
    assert 0 < chosen["num_selected"] <= chosen["num_common"] < 64
    foundation = load_foundation(tmp_path / "out")
    assert (load(tmp_path / "out/neurons") & foundation).num_selected == 0
    page = write_report(tmp_path / "out").read_text()
    assert "Ablation effects in" in page
    options |= {"site": "query", "foundation": None}
    by_query = contrast_models(make_contrast_config(pair["model"], options), tmp_path / "query")
    assert by_query["set"]["site"] == "query"


@pytest.mark.parametrize("inner", [False, True])
def test_a_set_that_is_no_top_of_its_scores_is_patched_as_it_is(inner, place, pair, tmp_path):
    options = {
        "method": "ablation", "counted": "prompt", "prompts": str(place / "safety.jsonl"),
        "num_prompts": 8, "fraction": 0.5, "group": "layer",
        "foundation": str(place / "text.jsonl"), "foundation_fraction": 0.3, "device": "cpu",
    }  # fmt: skip
    found = contrast_models(make_contrast_config(pair["model"], options), tmp_path / "set")
    neurons = tmp_path / "set/neurons" if inner else tmp_path / "set"
    options = {
        "reference": pair["reference"], "neurons": str(neurons), "num_attack": 4,
        "attack": str(place / "attack.jsonl"), "text": str(place / "text.jsonl"), "num_text": 1,
        "fractions": (0.1, 0.4, 1.0), "ablate_fractions": (), "num_random": 1,
        "max_new_tokens": 4, "device": "cpu",
    }  # fmt: skip
    patched = patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    sizes = {(cell["arm"], cell["num_selected"]) for cell in patched["cells"]}
    own, every = found["set"]["num_selected"], patched["num_units"]
    assert sizes == {("contrast", own), ("random", own), ("contrast", every)}
    options["attack"] = str(place / "safety.jsonl")
    with pytest.raises(UserError, match="are among those that the neurons were found on"):
        patch_models(make_patch_config(pair["model"], options), tmp_path / "leak")


def test_sizes_that_a_set_without_a_ranking_has_not_are_refused_before_anything_is_answered(
    pair, place, contrasted, tmp_path
):
    save(load(contrasted / "neurons"), tmp_path / "bare")
    options = patching(place, tmp_path / "bare") | {"reference": pair["reference"]}
    options |= {"fractions": (0.05, 0.5)}
    with pytest.raises(UserError) as error:
        patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    assert "has no ranking, so it has no other size than its own 13 of 128" in str(error.value)
    assert "with --fractions 0.05,0.5 there is nothing to patch" in str(error.value)
    assert not (tmp_path / "out").exists()
    # what it says to give instead
    advised = re.search(r"give --fractions (\S+),", str(error.value))[1]
    options |= {"fractions": (float(advised),)}
    found = patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    assert {cell["num_selected"] for cell in found["cells"]} == {13}


def test_tops_of_every_layer_are_patched_as_tops_of_every_layer(place, pair, tmp_path):
    options = {
        "reference": pair["reference"], "prompts": str(place / "safety.jsonl"), "num_prompts": 8,
        "max_new_tokens": 4, "fraction": 0.1, "group": "layer", "device": "cpu",
    }  # fmt: skip
    contrast_models(make_contrast_config(pair["model"], options), tmp_path / "set")
    options = {
        "reference": pair["reference"], "neurons": str(tmp_path / "set"), "num_attack": 4,
        "attack": str(place / "attack.jsonl"), "text": str(place / "text.jsonl"), "num_text": 1,
        "fractions": (0.1,), "ablate_fractions": (), "num_random": 0,
        "max_new_tokens": 4, "device": "cpu",
    }  # fmt: skip
    patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    inputs = json.loads((tmp_path / "out/patch-contrast-0.1/run.json").read_text())["inputs"]
    assert inputs["neurons"] == load(tmp_path / "set/neurons").fingerprint


def load_foundation(out):
    from safetypin.artifacts import read_neurons

    return read_neurons(out / "scores" / "foundation.neurons.safetensors")


def test_an_adapter_on_and_off_is_contrasted_with_one_set_of_weights(place, pair, tmp_path):
    import warnings

    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_model(pair["reference"], device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
        both = get_peft_model(model, config)
        both.peft_config["default"].base_model_name_or_path = pair["reference"]
        both.save_pretrained(tmp_path / "adapter")
    options = {
        "adapter_off": True, "prompts": str(place / "safety.jsonl"), "num_prompts": 4,
        "max_new_tokens": 4, "device": "cpu",
    }  # fmt: skip
    adapter = str(tmp_path / "adapter")
    found = contrast_models(make_contrast_config(adapter, options), tmp_path / "out")
    base = load_model(pair["reference"], device="cpu")[0]
    from safetypin.models import model_fingerprint

    assert found["reference_id"].endswith(model_fingerprint(base))
    assert tokenizer is not None
    # the set is of the model that other commands load, with the adapter merged, and of the base
    options = patching(place, tmp_path / "out")
    options |= {"reference": pair["reference"], "fractions": (0.5,), "num_random": 0}
    done = patch_models(make_patch_config(adapter, options), tmp_path / "patch")
    assert done["cells"][0]["num_selected"] == 64


def patching(place, neurons):
    """The settings of a small patching run."""
    return {
        "neurons": str(neurons), "num_attack": 4, "attack": str(place / "attack.jsonl"),
        "text": str(place / "text.jsonl"), "num_text": 1, "fractions": (0.1,),
        "ablate_fractions": (), "num_random": 0, "max_new_tokens": 4, "device": "cpu",
    }  # fmt: skip


@pytest.fixture
def untemplated(pair, tmp_path):
    """The unaligned model without a chat template, as base models come."""
    folder = shutil.copytree(pair["reference"], tmp_path / "base")
    for path in folder.glob("chat_template*"):
        path.unlink()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings))
    return folder


def test_a_base_model_without_a_template_reads_the_aligned_one_s(
    pair, place, contrasted, patched, untemplated, tmp_path, monkeypatch
):
    notes = []
    monkeypatch.setattr(
        "safetypin.stages._progress.Reporter.note", lambda _, text: notes.append(text)
    )
    config = metrics_of(contrasted)["settings"] | {"reference": str(untemplated)}
    contrast_models(make_contrast_config(config.pop("model"), config), tmp_path / "contrast")
    assert (
        load(tmp_path / "contrast/neurons").fingerprint == load(contrasted / "neurons").fingerprint
    )
    config = metrics_of(patched)["settings"] | {"reference": str(untemplated), "fractions": (0.1,)}
    found = patch_models(make_patch_config(config.pop("model"), config), tmp_path / "patch")
    assert found["unsafe"] == metrics_of(patched)["unsafe"]
    assert found["cells"][0] == metrics_of(patched)["cells"][0]
    assert sum("both read every prompt in the aligned model's" in note for note in notes) == 2


def test_what_changed_since_is_scored_anew(pair, place, tmp_path):
    aligned = shutil.copytree(pair["model"], tmp_path / "model")
    options = {
        "reference": pair["reference"], "prompts": str(place / "safety.jsonl"), "num_prompts": 4,
        "counted": "prompt", "one_at_a_time": True, "device": "cpu",
    }  # fmt: skip
    config = make_contrast_config(str(aligned), options)
    before = contrast_models(config, tmp_path / "out")
    model, _ = load_model(str(aligned), device="cpu")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    model.save_pretrained(aligned)
    after = contrast_models(config, tmp_path / "out")
    assert after["model_id"] != before["model_id"]
    assert not any(stage["reused"] for stage in after["run"]["stages"])


def test_other_foundation_texts_make_another_set_and_are_named_again(pair, place, tmp_path):
    text = tmp_path / "general.txt"
    text.write_text("the cat sat\non a mat\n")
    options = {
        "method": "ablation", "counted": "prompt", "prompts": str(place / "safety.jsonl"),
        "num_prompts": 2, "fraction": 0.5, "foundation": str(text), "num_foundation": 2,
        "foundation_fraction": 0.1, "device": "cpu",
    }  # fmt: skip
    config = make_contrast_config(pair["model"], options)
    contrast_models(config, tmp_path / "out")
    again = contrast_models(config, tmp_path / "out")
    assert all(stage["reused"] for stage in again["run"]["stages"])
    assert again["prompts"]["foundation"]["num_prompts"] == 2
    text.write_text("quite other words\nand more of them\n")
    changed = contrast_models(config, tmp_path / "out")
    assert not any(stage["reused"] for stage in changed["run"]["stages"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--method", "ablation", "--scale", "free"],
            "--scale would do nothing: --method ablation",
        ),
        (["--method", "ablation", "--both-at-once"], "--one-at-a-time would do nothing"),
        (["--reference", "x", "--num-foundation", 3], "there is no --foundation"),
        (["--adapter-off", "--one-at-a-time"], "--adapter-off has one set of weights"),
        (
            ["--reference", "x", "--counted", "prompt", "--max-new-tokens", 9],
            "--counted prompt needs no answers",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(command, tmp_path, words, said):
    ended = command("contrast", "m", *words, "--out", tmp_path / "out")
    assert ended.code == 2
    assert said in ended.text


def test_a_set_whose_prompts_are_not_known_says_that_leaks_were_not_checked(
    pair, place, contrasted, tmp_path
):
    save(load(contrasted / "neurons"), tmp_path / "bare")
    options = patching(place, tmp_path / "bare") | {"reference": pair["reference"]}
    found = patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    assert found["are_prompts_known"] is False
    assert "are not known, so attack prompts may be" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("held", ["zero", "mean", "reference"])
def test_the_other_direction_holds_units_at_what_was_asked(held, pair, place, contrasted, tmp_path):
    options = patching(place, contrasted) | {
        "reference": pair["reference"], "ablate_fractions": (1.0,), "ablate_with": held,
        "max_new_tokens": 10,
    }  # fmt: skip
    found = patch_models(make_patch_config(pair["model"], options), tmp_path / "out")
    row = next(cell for cell in found["cells"] if cell["direction"] == "ablate")
    words = {"zero": "held at zero", "mean": "their mean", "reference": "by the unaligned model"}
    assert words[held] in (tmp_path / "out/report.html").read_text()
    if held == "reference":  # with all its neurons it is nearly the unaligned model
        assert row["asr"]["value"] > found["safe"]["asr"]["value"]
    changed = stage_inputs(tmp_path / "out/ablate-contrast-1")
    assert changed["with"] == held
    assert len(changed["models"]) == (2 if held == "reference" else 1)


def test_a_model_that_overflows_is_said_before_anything_is_patched(
    pair, place, contrasted, tmp_path
):
    loud = tmp_path / "loud"
    model, tokenizer = load_model(pair["reference"], device="cpu")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1e6)
    model.save_pretrained(loud)
    tokenizer.save_pretrained(loud)
    options = patching(place, contrasted) | {"reference": str(loud), "dtype": "float16"}
    with pytest.raises(UserError, match=r"the unsafe model overflows torch\.float16 before"):
        patch_models(
            make_patch_config(pair["model"], options | {"any_model": True}), tmp_path / "out"
        )
    assert not (tmp_path / "out/patch-contrast-0.1").exists()


def test_patching_refuses_a_pair_that_differs(pair, place, contrasted, tmp_path):
    from transformers import LlamaForCausalLM

    model, tokenizer = load_model(pair["reference"], device="cpu")
    model.config.num_hidden_layers = 3
    LlamaForCausalLM(model.config).save_pretrained(tmp_path / "deep")
    tokenizer.save_pretrained(tmp_path / "deep")
    longer = shutil.copytree(pair["reference"], tmp_path / "longer")
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(longer)
    for name, said in (("deep", "in their layers: 2 and 3"), ("longer", "in the number of tokens")):
        options = patching(place, contrasted) | {"reference": str(tmp_path / name)}
        with pytest.raises(ArtifactMismatchError, match=said):
            patch_models(make_patch_config(pair["model"], options), tmp_path / "out")


def test_a_prompt_of_100_000_characters_is_an_error_that_names_it(
    pair, place, contrasted, tmp_path
):
    path = tmp_path / "long.txt"
    path.write_text("short\n" + "how do I " + "noun1 " * 20_000 + "\n")
    options = {"reference": pair["reference"], "prompts": str(path), "num_prompts": 2}
    config = make_contrast_config(pair["model"], options | {"device": "cpu"})
    begins = re.escape(repr(("how do I " + "noun1 " * 20)[:60]))
    said = rf"^row 1 of 'long.txt' has [\d,]+ tokens and leaves no room .*: {begins}; shorten it"
    with pytest.raises(UserError, match=said):
        contrast_models(config, tmp_path / "contrast")
    options = patching(place, contrasted) | {"reference": pair["reference"], "attack": str(path)}
    with pytest.raises(UserError, match=said):
        patch_models(make_patch_config(pair["model"], options), tmp_path / "patch")


@pytest.mark.parametrize("counted", ["response", "all"])
def test_a_prompt_of_a_half_is_named_by_its_row(pair, tmp_path, counted):
    """Responses are given, so nothing is answered: the two shuffled halves are read at once."""
    rows = [{"prompt": f"please greet the noun{i}", "response": "no"} for i in range(12)]
    rows[7]["prompt"] = "noun3 " * 80
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"reference": pair["reference"], "prompts": str(path), "counted": counted}
    config = make_contrast_config(pair["model"], options | {"device": "cpu"})
    begins = re.escape(repr(("noun3 " * 80)[:60]))
    said = rf"^row 7 of 'some.jsonl' has \d+ tokens with its response, .*: {begins}$"
    with pytest.raises(UserError, match=said):
        contrast_models(config, tmp_path / "out")
