"""The values that pass between stages. Knows torch and numpy, no model library."""

from safetypin.artifacts._basis import IDENTITY, Basis, tensor_hash
from safetypin.artifacts._basis_store import (
    BASIS_FILE,
    assemble_basis,
    describe_basis,
    read_basis,
    read_directions,
    write_basis,
    write_directions,
)
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
from safetypin.artifacts._save import load, save
from safetypin.artifacts._scores import WandaTensors, WeightScores
from safetypin.artifacts._store import (
    FileTensors,
    read_mask,
    read_scores,
    write_mask,
    write_scores,
)

__all__ = [
    "BASIS_FILE",
    "IDENTITY",
    "PART",
    "ArtifactMismatchError",
    "Basis",
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
    "assemble_basis",
    "describe_basis",
    "disk_errors",
    "inputs_hash",
    "load",
    "model_hash",
    "normalise",
    "payload_hashes",
    "read_basis",
    "read_directions",
    "read_foreign",
    "read_json",
    "read_lines",
    "read_mask",
    "read_scores",
    "replacing",
    "save",
    "tensor_hash",
    "wilson_interval",
    "write_basis",
    "write_directions",
    "write_json",
    "write_mask",
    "write_scores",
    "write_tensors",
    "write_text",
]
