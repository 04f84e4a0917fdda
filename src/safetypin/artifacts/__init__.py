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
from safetypin.artifacts._neurons import SITES, NeuronScores, NeuronSet
from safetypin.artifacts._prompts import Batch, Prompt, PromptSet, normalise
from safetypin.artifacts._ranks import (
    RANKS_FILE,
    Rank,
    RankBasis,
    describe_ranks,
    read_ranks,
    too_few_tokens,
    write_ranks,
)
from safetypin.artifacts._results import Rate, Response, Verdict, wilson_interval
from safetypin.artifacts._run import RunRecord, inputs_hash, payload_hashes
from safetypin.artifacts._save import load, save
from safetypin.artifacts._scores import WandaTensors, WeightScores, bit_sum
from safetypin.artifacts._store import (
    NEURON_SCORES_FILE,
    NEURONS_FILE,
    FileTensors,
    read_mask,
    read_neuron_scores,
    read_neurons,
    read_scores,
    write_mask,
    write_neuron_scores,
    write_neurons,
    write_scores,
)
from safetypin.artifacts._tensor_file import TensorFile

__all__ = [
    "BASIS_FILE",
    "IDENTITY",
    "NEURONS_FILE",
    "NEURON_SCORES_FILE",
    "PART",
    "RANKS_FILE",
    "SITES",
    "ArtifactMismatchError",
    "Basis",
    "Batch",
    "DamagedArtifactError",
    "FileTensors",
    "NeuronScores",
    "NeuronSet",
    "Prompt",
    "PromptSet",
    "Rank",
    "RankBasis",
    "Rate",
    "Response",
    "RunRecord",
    "TensorFile",
    "UserError",
    "Verdict",
    "WandaTensors",
    "WeightMask",
    "WeightScores",
    "append_line",
    "assemble_basis",
    "bit_sum",
    "describe_basis",
    "describe_ranks",
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
    "read_neuron_scores",
    "read_neurons",
    "read_ranks",
    "read_scores",
    "replacing",
    "save",
    "tensor_hash",
    "too_few_tokens",
    "wilson_interval",
    "write_basis",
    "write_directions",
    "write_json",
    "write_mask",
    "write_neuron_scores",
    "write_neurons",
    "write_ranks",
    "write_scores",
    "write_tensors",
    "write_text",
]
