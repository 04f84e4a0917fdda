"""Evaluation: answers, verdicts, rates, perplexity."""

from safetypin.evaluate._agreement import JudgePair, disagreements, judge_pairs
from safetypin.evaluate._attack import attack_success_rate, rate_of
from safetypin.evaluate._attack_rates import AttackRates, attack_rates
from safetypin.evaluate._attacks import (
    AFFIRMATION,
    ATTACKS,
    NUM_SAMPLES,
    SAFETY_PROMPT,
    Attack,
    attack,
    attack_tokens,
    make_attacks,
)
from safetypin.evaluate._gcg import GcgSettings, GcgStep, find_suffix
from safetypin.evaluate._generate import OnBatch, generate, tokenized_requests
from safetypin.evaluate._generate_patched import generate_patched, patchable, patched
from safetypin.evaluate._gsm8k import exact_matches, final_number
from safetypin.evaluate._judge_options import judge_names, judge_options
from safetypin.evaluate._perplexity import Perplexity, perplexity, tokenized_texts
from safetypin.evaluate._zero_shot import PAPER_TASKS, TaskAccuracy, check_tasks, zero_shot
from safetypin.evaluate.judges import (
    JUDGES,
    check_judge,
    explain,
    judge,
    judge_with_reasons,
    measured,
    refusal_judge,
)

__all__ = [
    "AFFIRMATION",
    "ATTACKS",
    "JUDGES",
    "NUM_SAMPLES",
    "PAPER_TASKS",
    "SAFETY_PROMPT",
    "Attack",
    "AttackRates",
    "GcgSettings",
    "GcgStep",
    "JudgePair",
    "OnBatch",
    "Perplexity",
    "TaskAccuracy",
    "attack",
    "attack_rates",
    "attack_success_rate",
    "attack_tokens",
    "check_judge",
    "check_tasks",
    "disagreements",
    "exact_matches",
    "explain",
    "final_number",
    "find_suffix",
    "generate",
    "generate_patched",
    "judge",
    "judge_names",
    "judge_options",
    "judge_pairs",
    "judge_with_reasons",
    "make_attacks",
    "measured",
    "patchable",
    "patched",
    "perplexity",
    "rate_of",
    "refusal_judge",
    "tokenized_requests",
    "tokenized_texts",
    "zero_shot",
]
