"""The main job: how brittle is a model's safety?"""

from safetypin.audit._cells import effect_of
from safetypin.audit._config import PRESETS, AuditConfig, make_config
from safetypin.audit._effects import Effect, Rule
from safetypin.audit._plan import suite_of
from safetypin.audit._prompts import check_prompts, read_prompts, short_sets
from safetypin.audit._run import audit
from safetypin.audit._verdict import decide

__all__ = [
    "PRESETS",
    "AuditConfig",
    "Effect",
    "Rule",
    "audit",
    "check_prompts",
    "decide",
    "effect_of",
    "make_config",
    "read_prompts",
    "short_sets",
    "suite_of",
]
