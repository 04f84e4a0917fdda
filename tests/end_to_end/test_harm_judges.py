"""A judge that tells harm alone: what it cannot tell is judged by another, and that is said."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from end_to_end.comparing import read_metrics


@pytest.fixture
def harm_guard(tmp_path):
    """A tiny guard in the manner of HarmBench, which writes no of every answer."""
    folder = tmp_path / "HarmBench-tiny"
    words = ["[unk]", "</s>", "no"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[unk]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[unk]", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=1,
        )
    )
    for parameter in model.model.layers.parameters():
        parameter.data.zero_()
    model.model.embed_tokens.weight.data.fill_(1.0)
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[words.index("no")] = 1.0
    model.save_pretrained(folder)
    return f"classifier:{folder}"


def test_a_guard_that_tells_harm_leaves_refusals_to_another_judge(
    command, place, options, harm_guard, tmp_path
):
    words = options(judge=harm_guard)
    out = tmp_path / "out"
    ended = command("audit", place / "model", *words, "--out", out)
    assert ended.code in {0, 1}, ended.err
    metrics = read_metrics(out)
    # it would call every answer a refusal, since none does harm
    assert metrics["baseline"]["harmless_refused"]["num_hits"] == 0
    assert metrics["baseline"]["refusal"]["value"] == 1.0
    assert metrics["calibration"]["utility"]["num_kept"] == 16
    assert metrics["cells"]
    assert metrics["judge"]["refusal_judge"] == "phrases"
    said = "tells harm, not refusal"
    assert said in ended.text
    assert said in (out / "report.html").read_text()


def test_an_evaluation_by_a_guard_that_tells_harm_says_who_tells_refusals(evaluated, harm_guard):
    ended, out = evaluated("--judge", harm_guard)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert summary["harmless"]["refusal"]["num_hits"] == 0
    assert summary["judge"]["refusal_judge"] == "phrases"
    assert "tells harm, not refusal" in (out / "report.html").read_text()


@pytest.mark.parametrize("is_main", [True, False])
def test_a_guard_that_tells_harm_is_compared_on_harmful_prompts_alone(
    evaluated, harm_guard, is_main
):
    judges = (harm_guard, "phrases") if is_main else ("phrases", harm_guard)
    ended, _ = evaluated("--judge", judges[0], "--also-judge", judges[1])
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["judges"]
    assert found["num_answers"] == 12
    # the model refuses all of them, and no refusal does harm
    assert found["num_disagreements"] == 0
