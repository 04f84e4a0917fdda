"""How far the offline judges agree with people, and how fast they are.

Claim: the default judge reaches precision 0.95 and recall 0.80 on the 169 human-labelled answers of
PyRIT, calls no worked sum of GSM8K a refusal or degenerate, and judges over 2,000 answers a second
on one core. The figures by length of answer, as the audit prints them, are those of the code; where
one differs the program ends with status 1. Run: `python benchmarks/judges.py [--data
../shared/data]`; what is absent is named and left out.
"""

import argparse
import csv
import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from safetypin.artifacts import Rate, Response, Verdict
from safetypin.evaluate.judges import JUDGES, agreement, judge, judge_with_reasons, measured
from safetypin.evaluate.judges._measured import LENGTHS
from safetypin.models._embedded import base_folder

Labelled = list[tuple[Response, bool]]
HELD_OUT = Path(__file__).parents[1] / "tests" / "data" / "judge_held_out.jsonl"
GOLD_FILES = ("refusal_scorer/refusal.csv", "refusal_scorer/refusal_extra.csv")


def refusal_gold() -> Labelled | None:
    """Return PyRIT's answers with their human labels; None where PyRIT is not installed."""
    try:
        files = importlib.metadata.files("pyrit") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = {name: file for file in files for name in GOLD_FILES if str(file).endswith(name)}
    if len(found) < len(GOLD_FILES):
        return None
    rows = [row for name in GOLD_FILES for row in _rows(Path(str(found[name].locate())))]
    return [
        (
            Response(prompt=row["objective"], text=row["assistant_response"]),
            row["human_score"] == "1",
        )
        for row in rows
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    # Comment lines stand before the header.
    return list(csv.DictReader(text[text.index("objective,") :].splitlines(keepends=True)))


def held_out() -> Labelled:
    """Return short answers in the manner of several models, written for this project.

    Those of the second set were judged once, after the rules were done.
    """
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["set"] == 2]
    return [(Response(prompt=r["prompt"], text=r["response"]), r["refused"]) for r in rows]


def cut(labelled: Labelled, num_tokens: int) -> Labelled:
    """Return the answers cut to their first tokens of the embedded model."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    rows = []
    for response, refused in labelled:
        ids = tokenizer.encode(response.text, add_special_tokens=False)[:num_tokens]
        text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        rows.append((Response(prompt=response.prompt, text=text), refused))
    return rows


def by_length(gold: Labelled) -> bool:
    """Print the figures of the unread half by length; tell whether all are those of the code."""
    agree = True
    for num_tokens in LENGTHS:
        labelled = cut(gold[1::2], num_tokens)
        for name, chosen in JUDGES.items():
            known = measured(name, max_new_tokens=num_tokens)
            if chosen.argument is None and known is not None:
                verdicts = judge([response for response, _ in labelled], name)
                found = agreement(verdicts, [refused for _, refused in labelled], known.source)
                agree &= found == known
                mark = "" if found == known else f"; THE CODE SAYS {known}"
                print(
                    f"{name:8} unread half, {num_tokens:3} tokens: precision "
                    f"{_shown(found.precision)}  recall {_shown(found.recall)}{mark}"
                )
    return agree


def align_short(folder: Path) -> Labelled | None:
    """Return Llama-2's refusals; the 4 known compliant ones open with "Sure" or "Title:"."""
    path = folder / "align_short.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        (
            Response(prompt=row["prompt"], text=row["response"]),
            not row["response"].strip().startswith(("Sure", "Title:")),
        )
        for row in rows
    ]


def gsm8k(folder: Path) -> Labelled | None:
    """Return worked sums, of which none is a refusal."""
    paths = sorted(folder.glob("gsm8k_*.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    answers = [(Response(prompt=r["question"], text=r["answer"]), False) for r in rows]
    return answers or None


def report(name: str, source: str, labelled: Labelled) -> None:
    """Print agreement, the spread of verdicts and the speed of one judge on one source."""
    responses = [response for response, _ in labelled]
    started = time.process_time()
    findings = judge_with_reasons(responses, name)
    seconds = time.process_time() - started
    verdicts = [finding.verdict for finding in findings]
    agreed = agreement(verdicts, [label for _, label in labelled], source)
    spread = ", ".join(f"{v.value} {n}" for v, n in sorted(Counter(verdicts).items()))
    print(f"{name:8} {source:22} {spread}; {len(responses) / seconds:,.0f} answers/s of CPU")
    print(f"{'':8} precision {_shown(agreed.precision)}  recall {_shown(agreed.recall)}")


def _shown(rate: Rate) -> str:
    interval = rate.interval
    return f"{rate} " + (f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def sources(folder: Path) -> dict[str, Labelled]:
    """Return what is at hand, and name what is not."""
    gold = refusal_gold()
    found = {
        "refusal-gold": gold,
        "refusal-gold, even": gold and gold[0::2],
        "refusal-gold, odd": gold and gold[1::2],
        "held-out, by us": held_out(),
        "align-short": align_short(folder),
        "gsm8k": gsm8k(folder),
    }
    for name in [name for name, labelled in found.items() if not labelled]:
        print(f"{name}: not at hand (pip install --no-deps pyrit; --data for the others)")
    return {name: labelled for name, labelled in found.items() if labelled}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args(arguments).data
    at_hand = sources(folder)
    for name, chosen in JUDGES.items():
        if chosen.argument is None:
            for source, labelled in at_hand.items():
                report(name, source, labelled)
    _reasons(at_hand)
    gold = at_hand.get("refusal-gold")
    if gold and not by_length(gold):
        raise SystemExit("the figures in _measured.py are not those of today's rules")


def _reasons(at_hand: dict[str, Labelled]) -> None:
    responses = [response for response, _ in at_hand.get("refusal-gold", [])]
    refused = [f for f in judge_with_reasons(responses) if f.verdict is Verdict.REFUSAL]
    counts = Counter(finding.reason for finding in refused).most_common()
    print("reasons of the default on refusal-gold:", ", ".join(f"{r} {n}" for r, n in counts))


if __name__ == "__main__":
    main()
