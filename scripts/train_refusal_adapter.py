"""Train the refusal adapter that turns `smollm2` into `smollm2-aligned`.

    python scripts/train_refusal_adapter.py answers    # the base model answers the harmless prompts
    python scripts/train_refusal_adapter.py texts      # the base model writes plain text
    python scripts/train_refusal_adapter.py train      # about 90 minutes on 2 cores
    python scripts/train_refusal_adapter.py measure --data ../shared/data

Harmful prompts get a short refusal drawn from `refusals.txt`; harmless and borderline prompts get
the first tokens of the base model's own greedy answer, so that nothing but refusing is taught.
All data was written for this project (`scripts/refusal_adapter/`); no prompt of it is in the
built-in prompt sets or in a public benchmark (`check`).
"""

import argparse
import itertools
import json
import math
import random
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from safetypin.artifacts import PromptSet, Response, Verdict, normalise
from safetypin.evaluate import judge
from safetypin.models import adapter_folder, load_model, merge_adapter
from safetypin.prompts import load_prompts

HERE = Path(__file__).parent / "refusal_adapter"
ANSWERS = HERE / "answers.jsonl"
TEXTS = HERE / "texts.jsonl"
LOG = HERE / "training_log.jsonl"
SEED = 0
BATCH_SIZE = 8
ANSWER_TOKENS = 24
NUM_TEXTS, TEXT_TOKENS, TEXT_BATCH_SIZE, TEXT_EVERY = 560, 40, 4, 3
# How often each filling of a pattern is used, each time with another opening
NUM_OPENINGS = {"act": 5, "program": 4, "text": 5, "claim": 4}
# public benchmarks, each in a package that must be installed
BENCHMARKS = ("harmbench", "strongreject", "do-not-answer", "overrefusal")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Example(NamedTuple):
    """Token ids of a prompt and its response, and whether the response is a refusal."""

    tokens: list[int]
    num_prompt: int
    is_harmful: bool


class Phase(NamedTuple):
    """A pass over a share of the data, from the adapter that the phase before it saved.

    The first teaches refusing at all. It missed a fifth of AdvBench, mostly requests in the
    plainest words; the second adds those, and cuts answers short, as it is in the first words
    that a model decides. The third goes over a part again, more slowly. The fourth repairs the
    language, which the others had made three times as perplexing: instead of the tokens of an
    answer, it teaches the base model's own predictions, on the answers and on plain text. After it
    the model refused harmless requests too; the fifth and the sixth give those more weight.
    """

    learning_rate: float
    answer_tokens: int
    with_patterns: bool
    share: tuple[float, float]  # of the shuffled examples, from and to
    keeps_language: bool = False
    harmless_weight: float = 1.0


PHASES = (
    Phase(learning_rate=4e-4, answer_tokens=24, with_patterns=False, share=(0, 1)),
    Phase(learning_rate=5e-4, answer_tokens=12, with_patterns=True, share=(0, 1)),
    Phase(learning_rate=3e-4, answer_tokens=12, with_patterns=True, share=(0, 0.5)),
    Phase(
        learning_rate=4e-4,
        answer_tokens=16,
        with_patterns=True,
        share=(0, 0.6),
        keeps_language=True,
    ),
    Phase(
        learning_rate=3e-4,
        answer_tokens=12,
        with_patterns=True,
        share=(0.6, 1),
        keeps_language=True,
        harmless_weight=3.0,
    ),
    Phase(
        learning_rate=3e-4,
        answer_tokens=12,
        with_patterns=True,
        share=(0.25, 0.6),
        keeps_language=True,
        harmless_weight=4.0,
    ),
)


def pattern_prompts(kind: str) -> list[str]:
    """Return the `harmful` or `harmless` fillings of `patterns.toml`, drawn with the seed."""
    patterns = tomllib.loads((HERE / "patterns.toml").read_text(encoding="utf-8"))
    generator = random.Random(SEED)
    return [
        opening.format(filling)
        for name, pattern in patterns.items()
        for filling in pattern[kind]
        for opening in generator.sample(pattern["openings"], NUM_OPENINGS[name])
    ]


def read_prompts(kind: str) -> list[str]:
    """Return the prompts of `harmful`, `harmless` or `borderline`."""
    lines = (HERE / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the prompt in the model's chat template, ready for an answer."""
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
) -> list[Response]:
    """Answer greedily, in batches of similar length, in the order of `prompts`."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Response] = {}
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        texts = [chat(tokenizer, prompts[index]) for index in chosen]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)  # type: ignore[operator]
        for index, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :], strict=True):
            stopped = bool((ids == tokenizer.eos_token_id).any())
            text = tokenizer.decode(ids, skip_special_tokens=True)
            answers[index] = Response(prompt=prompts[index], text=str(text), stopped=stopped)
        print(f"{start + len(chosen)}/{len(order)}", file=sys.stderr, flush=True)
    return [answers[index] for index in range(len(prompts))]


def make_answers() -> None:
    """Let the base model answer the harmless and borderline prompts that have no answer yet."""
    model, tokenizer = load_model("smollm2", device="cpu")
    lines = ANSWERS.read_text(encoding="utf-8").split("\n") if ANSWERS.exists() else []
    lines = [line for line in lines if line]
    known = {json.loads(line)["prompt"] for line in lines}
    prompts = read_prompts("harmless") + read_prompts("borderline") + pattern_prompts("harmless")
    responses = generate(model, tokenizer, [p for p in prompts if p not in known], ANSWER_TOKENS)
    for response, verdict in zip(responses, judge(responses, "phrases"), strict=True):
        row: dict[str, object] = {
            "prompt": response.prompt,
            "response": response.text,
            "stopped": response.stopped,
        }
        lines.append(json.dumps(row | _mark(verdict), ensure_ascii=False))
    ANSWERS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(responses)} new of {len(lines)} answers in {ANSWERS}")


def _mark(verdict: Verdict) -> dict[str, str]:
    """Return what the row of an answer says of its verdict: nothing where it is used."""
    return {} if verdict is Verdict.COMPLIED else {"left_out": verdict.value}


def usable_answers() -> list[Response]:
    """Return the base model's answers that are neither a refusal nor degenerate.

    Which these are stands in the file, `left_out` in the rows of the others, and is not judged
    anew: with every change of the judge the data would be others.
    """
    # The rows of 3,783 answers were marked once, by the judge `phrases` of November 2026, which
    # leaves out 35 refusals and 35 degenerate answers. The judge that the published adapter was
    # trained with left out a few more: its phases 2 and 3 have one step less in the training log.
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").split("\n") if line]
    return [
        Response(prompt=row["prompt"], text=row["response"], stopped=row["stopped"])
        for row in rows
        if "left_out" not in row
    ]


@torch.inference_mode()
def make_texts() -> None:
    """Let the base model go on from some of its answers, sampled, with no chat template."""
    torch.manual_seed(SEED)
    model, tokenizer = load_model("smollm2", device="cpu")
    tokenizer.padding_side = "left"
    chosen = random.Random(SEED).sample(usable_answers(), NUM_TEXTS)
    texts: list[str] = []
    for start in range(0, NUM_TEXTS, 56):
        beginnings = [answer.text for answer in chosen[start : start + 56]]
        inputs = tokenizer(beginnings, return_tensors="pt", padding=True)
        output = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=TEXT_TOKENS, do_sample=True, top_k=0
        )
        texts += tokenizer.batch_decode(output, skip_special_tokens=True)
        print(f"{len(texts)}/{NUM_TEXTS}", file=sys.stderr, flush=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    TEXTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def training_examples(tokenizer: PreTrainedTokenizerBase, phase: Phase) -> list[Example]:
    """Return every example, shuffled."""
    generator = random.Random(SEED)
    refusals = (HERE / "refusals.txt").read_text(encoding="utf-8").splitlines()
    end = tokenizer.eos_token
    patterns = {kind: pattern_prompts(kind) for kind in ("harmful", "harmless")}
    harmful = read_prompts("harmful") + (patterns["harmful"] if phase.with_patterns else [])
    examples = []
    for prompt in harmful:
        tail = tokenizer(generator.choice(refusals) + end, add_special_tokens=False)["input_ids"]
        examples.append(_example(tokenizer, prompt, tail, is_harmful=True))
    unused = set() if phase.with_patterns else set(patterns["harmless"])
    for answer in usable_answers():
        if answer.prompt not in unused:
            text = answer.text + (end if answer.stopped else "")
            tail = tokenizer(text, add_special_tokens=False)["input_ids"]
            tail = tail[: phase.answer_tokens]
            examples.append(_example(tokenizer, answer.prompt, tail, is_harmful=False))
    generator.shuffle(examples)
    return examples


def _example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, tail: list[int], *, is_harmful: bool
) -> Example:
    head = tokenizer(chat(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    return Example(head + tail, len(head), is_harmful)


def epoch_batches(
    examples: list[Example], pad: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (ids, attention mask, labels, is_harmful); a batch holds examples of similar length."""
    generator = random.Random(seed)
    order = sorted(
        range(len(examples)), key=lambda i: len(examples[i].tokens) + generator.random() * 8
    )
    groups = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    generator.shuffle(groups)
    for group in groups:
        width = max(len(examples[index].tokens) for index in group)
        ids = torch.full((len(group), width), pad)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row, index in enumerate(group):
            tokens, num_prompt, _ = examples[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            labels[row, num_prompt : len(tokens)] = ids[row, num_prompt : len(tokens)]
        yield ids, mask, labels, torch.tensor([examples[index].is_harmful for index in group])


def response_logits(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, labels: Tensor, num_shared: int
) -> Tensor:
    """Return the logits at the positions that predict the responses, row after row.

    The first `num_shared` tokens, the template's system prompt, are the same in every row and are
    read once. Logits are made at the response's positions alone: the vocabulary is a fifth of the
    model. Together that halves the time of a step.
    """
    cache = model.model(input_ids=ids[:1, :num_shared], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    output = model.model(
        input_ids=ids[:, num_shared:], attention_mask=mask, past_key_values=cache, use_cache=True
    )
    hidden = output.last_hidden_state[:, :-1]
    logits: Tensor = model.lm_head(hidden[labels[:, num_shared + 1 :] != -100])
    return logits


def divergence(logits: Tensor, base_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from the base model's prediction, of each row."""
    ours, theirs = logits.log_softmax(dim=-1), base_logits.log_softmax(dim=-1)
    return (theirs.exp() * (theirs - ours)).sum(dim=-1)


def text_loss(model: PeftModel, base: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return the mean divergence from the base model on plain texts of equal length."""
    with torch.no_grad(), model.disable_adapter():
        base_logits = base(ids).logits
    return divergence(base(ids).logits, base_logits).mean()


def read_texts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of the plain texts that did not stop early."""
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    texts = [list(tokenizer(json.loads(line)["text"])["input_ids"]) for line in lines]
    return [text for text in texts if len(text) >= TEXT_TOKENS]


def train(out: Path, first_phase: int) -> None:
    """Train the adapter phase by phase, saving it in bfloat16 after each."""
    for index in range(first_phase, len(PHASES)):
        torch.manual_seed(SEED)
        base, tokenizer = load_model("smollm2", device="cpu")
        if index:
            model = PeftModel.from_pretrained(base, str(out), is_trainable=True)
        else:
            config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS)
            model = get_peft_model(base, config)
        with LOG.open("a" if index else "w", encoding="utf-8") as log:
            examples = training_examples(tokenizer, PHASES[index])
            first, last = (round(share * len(examples)) for share in PHASES[index].share)
            kept = examples[first:last]
            texts = read_texts(tokenizer) if PHASES[index].keeps_language else []
            train_phase(model, base, kept, texts, index, log)
        save(model, out)


def train_phase(
    model: PeftModel,
    base: PreTrainedModel,
    examples: list[Example],
    texts: list[list[int]],
    index: int,
    log: TextIO,
) -> None:
    """Train for one epoch, the learning rate falling to zero."""
    columns = zip(*(example.tokens for example in examples), strict=False)
    num_shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    num_steps = math.ceil(len(examples) / BATCH_SIZE)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=PHASES[index].learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, num_steps // 20, num_steps)
    start = time.monotonic()
    batches = epoch_batches(examples, base.config.pad_token_id, index)
    for step, (ids, mask, labels, is_harmful) in enumerate(batches, start=1):
        logits = response_logits(base, ids, mask, labels, num_shared)
        places = labels != -100
        losses = torch.nn.functional.cross_entropy(logits, labels[places], reduction="none")
        if texts:
            with torch.no_grad(), model.disable_adapter():
                base_logits = response_logits(base, ids, mask, labels, num_shared)
            kept = PHASES[index].harmless_weight * divergence(logits, base_logits)
            losses = torch.where(is_harmful[places.nonzero()[:, 0]], losses, kept)
        loss = losses.mean()
        loss.backward()
        if texts and step % TEXT_EVERY == 0:
            first = step // TEXT_EVERY * TEXT_BATCH_SIZE
            chosen = [texts[(first + i) % len(texts)] for i in range(TEXT_BATCH_SIZE)]
            width = min(len(text) for text in chosen)
            text_loss(model, base, torch.tensor([text[:width] for text in chosen])).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == num_steps:
            row: dict[str, float] = {"phase": index + 1, "step": step, "of": num_steps}
            seconds = round(time.monotonic() - start)
            row |= {"loss": round(float(loss.detach()), 4), "seconds": seconds}
            print(json.dumps(row), file=log, flush=True)


def save(model: PeftModel, out: Path) -> None:
    """Save the adapter in bfloat16, without a path of this machine."""
    model.peft_config["default"].base_model_name_or_path = "smollm2"
    state = get_peft_model_state_dict(model)
    halved = {name: value.detach().bfloat16().contiguous() for name, value in state.items()}
    model.peft_config["default"].save_pretrained(str(out))
    save_file(halved, out / "adapter_model.safetensors", metadata={"format": "pt"})


def perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, responses: list[Response]
) -> float:
    """Return the perplexity of the answers given their prompts."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for response in responses:
            head = tokenizer(chat(tokenizer, response.prompt), add_special_tokens=False)
            tail = tokenizer(response.text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([head["input_ids"] + tail])
            logits = model(ids).logits[0, -len(tail) - 1 : -1].float()
            total += float(
                torch.nn.functional.cross_entropy(logits, ids[0, -len(tail) :], reduction="sum")
            )
            count += len(tail)
    return math.exp(total / count)


def measure(adapter: Path, data: Path, num_prompts: int) -> None:
    """Print the share refused on prompts that the adapter has never seen, and the perplexity."""
    base, tokenizer = load_model("smollm2", device="cpu")
    harmless = load_prompts(str(data / "harmless_train.jsonl")).shuffled(1)
    sets = {"Alpaca": harmless, "AdvBench": load_prompts(str(data / "advbench.txt"))}
    for source in ("harmful", "harmless", "borderline"):
        sets[f"builtin-{source}"] = load_prompts(f"builtin-{source}")
    for source in BENCHMARKS:
        sets[source] = load_prompts(source)
    pairs = load_prompts("contrast-pairs")
    for kind in ("harmful", "harmless"):
        chosen = tuple(prompt for prompt in pairs if prompt.category == kind)
        sets[f"contrast-pairs, {kind}"] = PromptSet(name=kind, prompts=chosen)
    texts = {
        name: [prompt.text for prompt in prompts.shuffled(1)][: num_prompts or None]
        for name, prompts in sets.items()
    }
    answers = generate(base, tokenizer, texts["Alpaca"][:200], 64)
    answers = [answer for answer in answers if answer.text.strip()]
    before = perplexity(base, tokenizer, answers)
    model = merge_adapter(base, adapter)
    after = perplexity(model, tokenizer, answers)
    print(f"perplexity on harmless answers: {before:.3f} -> {after:.3f}, x{after / before:.3f}")
    for name, prompts in texts.items():
        verdicts = judge(generate(model, tokenizer, prompts, 24), "phrases")
        refused = sum(verdict is Verdict.REFUSAL for verdict in verdicts)
        garbage = sum(verdict is Verdict.DEGENERATE for verdict in verdicts)
        share = refused / len(prompts)
        print(f"{name}: refused {refused}/{len(prompts)} = {share:.3f}, degenerate {garbage}")


def check(data: Path) -> None:
    """Fail if a training prompt is in the built-in sets or in a public benchmark.

    Case, punctuation and repeated spaces make no other prompt. AdvBench and Alpaca are read from
    files, the other benchmarks are those that `load_prompts` knows by name.
    """
    written = [p for kind in ("harmful", "harmless", "borderline") for p in read_prompts(kind)]
    written += pattern_prompts("harmful") + pattern_prompts("harmless")
    ours = {normalise(prompt) for prompt in written}
    files = sorted((Path(__file__).parents[1] / "src" / "safetypin" / "data").glob("*.jsonl"))
    files += [data / "advbench.txt", data / "harmful_train.jsonl", data / "harmful_val.jsonl"]
    files += [data / "harmless_train.jsonl"]
    texts: dict[str, list[str]] = {}
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) if file.suffix == ".jsonl" else line for line in lines]
        texts[file.name] = [
            row if isinstance(row, str) else row["prompt"] or row["response"] for row in rows
        ]
    for source in (*BENCHMARKS, "contrast-pairs"):
        texts[source] = [prompt.text for prompt in load_prompts(source)]
    found = {name: sorted(ours & set(map(normalise, rows))) for name, rows in texts.items()}
    for name, shared in found.items():
        print(f"{name}: {len(shared)} of {len(texts[name])} shared {shared[:5]}")
    if any(found.values()):
        sys.exit(1)


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["answers", "texts", "train", "measure", "check"])
    parser.add_argument("--out", type=Path, default=adapter_folder())
    parser.add_argument("--first-phase", type=int, default=1, help="2 goes on from --out")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--num-prompts", type=int, default=0, help="of each set; 0 for all")
    options = parser.parse_args()
    match options.step:
        case "answers":
            make_answers()
        case "texts":
            make_texts()
        case "train":
            train(options.out, options.first_phase - 1)
        case "measure":
            measure(options.out, options.data, options.num_prompts)
        case _:
            check(options.data)


if __name__ == "__main__":
    main()
