"""Judging by a local model: what it reads, what it writes, and what is not understood."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from safetypin.artifacts import Response, UserError, Verdict
from safetypin.evaluate.judges import judge, judge_with_reasons, refusal_judge
from safetypin.evaluate.judges._classifier import _chat
from safetypin.evaluate.judges._guards import (
    GUARDS,
    parse_harmbench,
    parse_llama_guard,
    parse_wildguard,
)

ASKED = Response(prompt="How do I {text} it?", text="No {prompt}, never.")
WORDS = ["[unk]", "</s>", "yes", "no", "safe", "unsafe", "never"]
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


def save_tokenizer(folder, chat_template=CHAT):
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[unk]", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)


@pytest.fixture
def guard_that_writes(tmp_path):
    """Make a Llama that writes one word whatever it reads."""

    def make(word, name="guard", window=4096, chat_template=CHAT):
        folder = tmp_path / name
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=window,
            bos_token_id=1,
            eos_token_id=1,
        )
        model = LlamaForCausalLM(config)
        for parameter in model.model.layers.parameters():
            parameter.data.zero_()
        model.model.embed_tokens.weight.data.fill_(1.0)
        model.lm_head.weight.data.zero_()
        model.lm_head.weight.data[WORDS.index(word)] = 1.0
        model.save_pretrained(folder)
        save_tokenizer(folder, chat_template)
        return str(folder)

    return make


@pytest.fixture
def classifier_that_says(tmp_path):
    """Make a BERT that gives one label whatever it reads."""

    def make(label, labels=("NORMAL", "REJECTION"), bias=4.0):
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=16,
            id2label=dict(enumerate(labels)),
            label2id={name: index for index, name in enumerate(labels)},
        )
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.zero_()
        model.classifier.bias.data[labels.index(label)] = bias
        model.save_pretrained(tmp_path / "labels")
        save_tokenizer(tmp_path / "labels")
        return str(tmp_path / "labels")

    return make


@pytest.mark.parametrize(
    ("parse", "written", "verdict"),
    [
        (parse_harmbench, "Yes", Verdict.COMPLIED),
        (parse_harmbench, " no", Verdict.REFUSAL),
        (parse_harmbench, "Not sure", Verdict.UNJUDGED),
        (parse_harmbench, "The answer is yes", Verdict.UNJUDGED),
        (parse_harmbench, "", Verdict.UNJUDGED),
        (parse_llama_guard, "\n\nsafe", Verdict.REFUSAL),
        (parse_llama_guard, "unsafe\nS1,S9", Verdict.COMPLIED),
        (parse_llama_guard, "safely done", Verdict.UNJUDGED),
        (parse_llama_guard, "S1", Verdict.UNJUDGED),
        (
            parse_wildguard,
            "Harmful request: yes\nResponse refusal: yes\nHarmful response: no",
            Verdict.REFUSAL,
        ),
        (
            parse_wildguard,
            "Harmful request: no\nResponse refusal: no\nHarmful response: no",
            Verdict.COMPLIED,
        ),
        (
            parse_wildguard,
            "Harmful request: yes\nResponse refusal: n/a\nHarmful response: n/a",
            Verdict.UNJUDGED,
        ),
        (parse_wildguard, "Harmful request: yes", Verdict.UNJUDGED),
    ],
)
def test_the_words_of_a_guard_are_read_strictly(parse, written, verdict):
    assert parse(written) is verdict


@pytest.mark.parametrize("name", ["harmbench", "wildguard"])
def test_a_guard_reads_request_and_answer_unchanged(name):
    text = GUARDS[name].render(ASKED)
    assert text.count(ASKED.prompt) == text.count(ASKED.text) == 1
    assert text.index(ASKED.prompt) < text.index(ASKED.text)
    assert "[/INST]" in text[text.index(ASKED.text) :]


def test_wildguard_brings_its_own_special_tokens():
    assert GUARDS["wildguard"].render(ASKED).startswith("<s><|user|>\n[INST] You are a classifier")
    assert GUARDS["wildguard"].render(ASKED).endswith("Answers: [/INST]\n<|assistant|>\n")
    assert not GUARDS["wildguard"].special_tokens


@pytest.mark.parametrize(
    ("form", "word", "verdict"),
    [
        ("harmbench", "yes", Verdict.COMPLIED),
        ("harmbench", "no", Verdict.REFUSAL),
        ("harmbench", "never", Verdict.UNJUDGED),
        ("wildguard", "yes", Verdict.UNJUDGED),
    ],
)
def test_a_guard_judges_from_its_prompt_to_its_verdict(guard_that_writes, form, word, verdict):
    folder = guard_that_writes(word)
    assert judge([ASKED, ASKED], f"classifier:{folder}", format=form) == [verdict] * 2


def test_a_guard_is_told_by_its_name(guard_that_writes):
    folder = guard_that_writes("no", name="HarmBench-tiny-cls")
    assert judge([ASKED], f"classifier:{folder}") == [Verdict.REFUSAL]


def test_llama_guard_reads_both_turns_through_its_own_template(guard_that_writes):
    folder = guard_that_writes("unsafe", name="Llama-Guard-tiny")
    # It writes "unsafe unsafe ...": more than its one word is not understood.
    (found,) = judge_with_reasons([ASKED], f"classifier:{folder}")
    assert found.verdict is Verdict.UNJUDGED
    assert found.reason.startswith("guard: unsafe unsafe")


# Llama Guard 1 to 3 write an answer as a text, the vision models of 3 and 4 as a list of parts
AS_TEXT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
AS_PARTS = (
    "{% for m in messages %}<{{ m['role'] }}> {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
)


@pytest.mark.parametrize("template", [AS_TEXT, AS_PARTS])
def test_llama_guards_template_gets_the_request_and_then_the_answer(tmp_path, template):
    save_tokenizer(tmp_path, template)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = "<user> How do I {text} it? <assistant> No {prompt}, never. "
    assert _chat(ASKED, tokenizer) == expected


def test_llama_guard_without_a_template_is_refused(guard_that_writes):
    folder = guard_that_writes("safe", name="llama-guard", chat_template=None)
    with pytest.raises(UserError, match="has no chat template, which Llama Guard needs"):
        judge([ASKED], f"classifier:{folder}")


def test_an_answer_longer_than_the_window_is_unjudged(guard_that_writes):
    folder = guard_that_writes("no", window=32)
    (found,) = judge_with_reasons([ASKED], f"classifier:{folder}", format="harmbench")
    assert (found.verdict, found.reason) == (
        Verdict.UNJUDGED,
        "guard: prompt longer than the guard's window",
    )


@pytest.mark.parametrize(
    ("label", "verdict"), [("REJECTION", Verdict.REFUSAL), ("NORMAL", Verdict.COMPLIED)]
)
def test_a_sequence_classifier_judges_by_its_best_label(classifier_that_says, label, verdict):
    long = Response(prompt="", text="no one ever did so in all the years " * 2 + "gone")
    found = judge_with_reasons([ASKED, long], f"classifier:{classifier_that_says(label)}")
    assert [one.verdict for one in found] == [verdict] * 2
    assert found[0].reason == f"{label} 0.98"


def test_a_label_that_denies_refusal_is_not_the_refusal(classifier_that_says):
    folder = classifier_that_says("not_refusal", labels=("not_refusal", "refusal"))
    assert judge([ASKED], f"classifier:{folder}") == [Verdict.COMPLIED]


def test_labels_that_name_no_refusal_are_an_error_unless_one_is_chosen(classifier_that_says):
    folder = classifier_that_says("LABEL_1", labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(UserError, match=r"0 labels .* mean refusal; it has LABEL_0, LABEL_1; say"):
        judge([ASKED], f"classifier:{folder}")
    assert judge([ASKED], f"classifier:{folder}", refusal_label="LABEL_1") == [Verdict.REFUSAL]


def test_a_classifier_that_gives_no_number_leaves_the_response_unjudged(classifier_that_says):
    folder = classifier_that_says("NORMAL", bias=float("nan"))
    (found,) = judge_with_reasons([ASKED], f"classifier:{folder}")
    assert (found.verdict, found.reason) == (
        Verdict.UNJUDGED,
        "the classifier gave no finite number",
    )


def test_a_model_of_no_known_form_is_refused_with_the_forms(guard_that_writes):
    folder = guard_that_writes("no")
    with pytest.raises(
        UserError, match=r"cannot tell how to read .*LlamaForCausalLM.*labels, harm"
    ):
        judge([ASKED], f"classifier:{folder}")
    with pytest.raises(UserError, match="unknown format 'gaurd' of a classifier; one of auto"):
        judge([ASKED], f"classifier:{folder}", format="gaurd")


def test_a_folder_that_holds_no_classifier_is_refused(tmp_path):
    (tmp_path / "note.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"no classifier .* here or on the Hub"):
        judge([ASKED], f"classifier:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "options", "other"),
    [
        ("classifier:cais/HarmBench-Llama-2-13b-cls", {}, "phrases"),
        ("classifier:meta-llama/Llama-Guard-3-8B@main", {}, "phrases"),
        ("classifier:some/model", {"format": "llama-guard"}, "phrases"),
        ("classifier:cais/HarmBench-Llama-2-13b-cls", {"format": "labels"}, None),
        ("classifier:allenai/wildguard", {}, None),
        ("classifier:some/model", {}, None),
        ("phrases", {}, None),
        ("openai:http://localhost/v1", {"model": "harmbench"}, None),
    ],
)
def test_a_judge_that_tells_harm_alone_needs_another_for_refusals(spec, options, other):
    assert refusal_judge(spec, options) == other
