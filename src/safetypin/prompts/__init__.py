"""Prompts: where they come from, and how they become batches of counted tokens."""

from safetypin.artifacts import PromptSet
from safetypin.prompts._batches import (
    COUNTED,
    batches,
    encode,
    is_start,
    render,
    template_id,
    window,
)
from safetypin.prompts._choices import CHOICE_SETS, ChoiceSet, Question
from safetypin.prompts._named import PROMPT_SOURCES
from safetypin.prompts._read import read_suffixes
from safetypin.prompts._sources import load_prompts

PromptSet.loader = staticmethod(load_prompts)

__all__ = [
    "CHOICE_SETS",
    "COUNTED",
    "PROMPT_SOURCES",
    "ChoiceSet",
    "Question",
    "batches",
    "encode",
    "is_start",
    "load_prompts",
    "read_suffixes",
    "render",
    "template_id",
    "window",
]
