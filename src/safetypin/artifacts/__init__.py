"""The values that pass between stages. Knows torch and numpy, no model library."""

from safetypin.artifacts._errors import ArtifactMismatchError, DamagedArtifactError, UserError
from safetypin.artifacts._files import (
    PART,
    append_line,
    disk_errors,
    read_json,
    read_lines,
    replacing,
    write_json,
    write_tensors,
    write_text,
)
from safetypin.artifacts._foreign import read_foreign
from safetypin.artifacts._masks import WeightMask, model_hash
from safetypin.artifacts._prompts import Batch, Prompt, PromptSet, normalise
from safetypin.artifacts._results import Rate, Response, Verdict, wilson_interval
from safetypin.artifacts._run import RunRecord, inputs_hash, payload_hashes
from safetypin.artifacts._scores import WandaTensors, WeightScores
from safetypin.artifacts._store import (
    FileTensors,
    load,
    read_mask,
    read_scores,
    save,
    write_mask,
    write_scores,
)

__all__ = [
    "PART",
    "ArtifactMismatchError",
    "Batch",
    "DamagedArtifactError",
    "FileTensors",
    "Prompt",
    "PromptSet",
    "Rate",
    "Response",
    "RunRecord",
    "UserError",
    "Verdict",
    "WandaTensors",
    "WeightMask",
    "WeightScores",
    "append_line",
    "disk_errors",
    "inputs_hash",
    "load",
    "model_hash",
    "normalise",
    "payload_hashes",
    "read_foreign",
    "read_json",
    "read_lines",
    "read_mask",
    "read_scores",
    "replacing",
    "save",
    "wilson_interval",
    "write_json",
    "write_mask",
    "write_scores",
    "write_tensors",
    "write_text",
]
