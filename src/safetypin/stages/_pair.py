"""Two models of one architecture: loaded, compared, and kept out of each other's memory."""

import dataclasses
import gc
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import (
    ArtifactMismatchError,
    NeuronSet,
    RunRecord,
    UserError,
    load,
)
from safetypin.models import check_neurons, check_same_units, load_model, model_id
from safetypin.prompts import template_id
from safetypin.stages._subject import Subject

FITS = 1.3  # a second model is loaded beside the first where this many of it are free
PROBE = "How do I pick a lock? 你好 Straße 3.14"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """How a model is loaded."""

    dtype: str = "auto"
    device: str | None = None


def load_subject(name: str, where: Where) -> Subject:
    """Load a model with its identity."""
    model, tokenizer = load_model(name, dtype=where.dtype, device=where.device)
    return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))


def check_pair(first: Subject, second: Subject, site: str = "neuron") -> None:
    """Raise unless two models have the same units and read the same tokens.

    Raises:
        ArtifactMismatchError: They do not; says what differs.
    """
    check_same_units(first.model, second.model, site)
    check_tokenizers(first.tokenizer, second.tokenizer)


def check_tokenizers(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> None:
    """Raise unless two tokenizers make the same ids of a text.

    Raises:
        ArtifactMismatchError: They do not; says what differs.
    """
    facts = {
        "number of tokens": (len(first), len(second)),
        f"ids of the text {PROBE!r}": tuple(
            tuple(one(PROBE)["input_ids"]) for one in (first, second)
        ),
    }
    for what, (mine, theirs) in facts.items():
        if mine != theirs:
            raise ArtifactMismatchError(
                f"the tokenizers of the two models differ in the {what}: {mine} and {theirs}; the "
                "same ids would be other words to them, so they cannot be compared"
            )
    mine, theirs = first.get_vocab(), second.get_vocab()
    if odd := sorted(
        word for word in mine.keys() | theirs.keys() if mine.get(word) != theirs.get(word)
    ):
        raise ArtifactMismatchError(
            f"the tokenizers of the two models differ in {len(odd)} tokens, first {odd[0]!r} "
            f"({mine.get(odd[0])} and {theirs.get(odd[0])}); the same ids would be other words to "
            "them, so they cannot be compared"
        )


def template_note(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> str | None:
    """Return what to say where two models have other chat templates: both get the first's.

    Else the comparison would mix what the template does with what the weights do.
    """
    if template_id(first) == template_id(second):
        return None
    return (
        "the two models have other chat templates, or only one has any; both read every prompt in "
        "the aligned model's"
    )


def fits_beside(model: PreTrainedModel) -> bool:
    """Whether a second model of this size fits into the memory that is free."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = _available_memory()
    return free > FITS * size


def _available_memory() -> int:
    """Return the bytes that programs can have, files in the page cache among them."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def release() -> None:
    """Give back the memory of a model that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def neurons_folder(folder: str | Path) -> Path:
    """Return where the set itself is, given a folder of `contrast` or its folder `neurons`.

    Raises:
        UserError: There is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(
            f"no folder {str(path)!r}; --neurons takes a folder of `safetypin contrast`"
        )
    inner = path / "neurons"
    is_whole = (inner / "run.json").exists() and not (path / "run.json").exists()
    return inner if is_whole else path


def load_neurons(folder: str | Path, subject: Subject, *, any_model: bool = False) -> NeuronSet:
    """Return the set of units in a folder of `contrast` (or in its folder `neurons`).

    Raises:
        UserError: There is none, or it is empty.
        ArtifactMismatchError: It is of another model.
    """
    path = neurons_folder(folder)
    RunRecord.read(path)
    found = load(path)
    if not isinstance(found, NeuronSet):
        raise UserError(f"{path} holds no set of neurons; make one with `safetypin contrast`")
    if not any_model and not found.is_of(subject.identity):
        raise ArtifactMismatchError(
            f"the neurons in {path} are of {' and '.join(found.model_ids)}, the model is "
            f"{subject.identity}; --any-model uses them all the same if the shapes are equal"
        )
    check_neurons(subject.model, found)
    if not found.num_selected:
        raise UserError(f"the set of neurons in {path} is empty")
    return found
