"""The basis of WaRP, a stage that a run under `--protect warp` begins with."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    BASIS_FILE,
    ArtifactMismatchError,
    Basis,
    PromptSet,
    RunRecord,
    UserError,
    assemble_basis,
    describe_basis,
    load,
    model_hash,
    read_directions,
    read_json,
    write_directions,
)
from safetypin.models import BlockWeight, input_sites, transposed, weights_of_layers
from safetypin.prompts import batches, template_id, window
from safetypin.stages._calibrate import read_calibration
from safetypin.stages._run import Output, discard
from safetypin.stages._scored import calibrated
from safetypin.stages._series import Series
from safetypin.stages._share import share_stages
from safetypin.stages._subject import Subject
from safetypin.stages._tune_config import TuneConfig
from safetypin.stages._tune_folder import differences
from safetypin.subspaces import block_directions, blocks_of_layers, identity_basis, random_basis

BASIS = "basis"
UNITS_PER_FORWARD = 10.0
STAGES = ("calibration-safety", BASIS)  # what one run of WaRP may take from another


def make_basis(
    series: Series, config: TuneConfig, subject: Subject, prompts: PromptSet
) -> PromptSet:
    """Make the basis; return the safety prompts with the answers that it was made on."""
    answers = calibrated(series, config, subject, "safety", prompts)
    weights = weights_of_layers(subject.model, config.targets, config.layers)
    inputs = basis_inputs(config, subject, answers)

    def compute(folder: Path) -> Output:
        making = _Making(series, config, subject, answers, weights, inputs["template"])
        basis, files = making.basis(folder)
        return Output(describe_basis(basis), [*files, BASIS_FILE])

    series.run(BASIS, inputs, compute, units=len(answers) * UNITS_PER_FORWARD)
    return answers


def basis_inputs(config: TuneConfig, subject: Subject, answers: PromptSet) -> dict[str, Any]:
    """Return what a basis depends on."""
    return {
        **answered(config, subject, answers),
        "rotation": config.rotation,
        "weights": list(weights_of_layers(subject.model, config.targets, config.layers)),
        "counted": config.basis_counted,
        "seed": config.drawn_with if config.rotation == "random" else None,
    }


def answered(config: TuneConfig, subject: Subject, answers: PromptSet) -> dict[str, Any]:
    """Return what every stage on the safety prompts depends on."""
    template = template_id(subject.tokenizer, plain=config.plain, system=config.system)
    return {**subject.inputs, "template": template, "prompts": answers.fingerprint}


@dataclasses.dataclass(frozen=True)
class _Making:
    """What a basis is made of."""

    series: Series
    config: TuneConfig
    subject: Subject
    answers: PromptSet
    weights: Mapping[str, BlockWeight]
    template: str

    def basis(self, folder: Path) -> tuple[Basis, list[str]]:
        """Make the basis in a folder; return it and the names of its files."""
        model, about = self.subject.model, self._about()
        where_: dict[str, Any] = {"targets": self.config.targets, "layers": self.config.layers}
        if self.config.rotation == "input":
            return self._from_inputs(folder, about)
        basis = (
            identity_basis(model, **where_)
            if self.config.rotation == "identity"
            else random_basis(model, **where_, seed=self.config.drawn_with)
        )
        files = []
        if basis.directions:
            files = [_block_file(0)]
            write_directions(folder / files[0], basis.directions, {}, {})
        made = {"kind": basis.kind, "hashes": basis.hashes, "ranks": basis.ranks, "num_tokens": 0}
        return assemble_basis(folder, files, **about, **made), files

    def _about(self) -> dict[str, Any]:
        return {
            "sites": input_sites(self.weights),
            "model_id": self.subject.identity,
            "prompts_id": self.answers.fingerprint,
            "counted": self.config.basis_counted,
            "template": self.template,
            "transposed": transposed(self.weights),
        }

    def _from_inputs(self, folder: Path, about: Mapping[str, Any]) -> tuple[Basis, list[str]]:
        """Make the directions of one block of layers after another; those that are there stay."""
        parameters = self.subject.model.parameters()
        # a Gram matrix is let go when its eigenvectors are made, which are written block by block
        room = sum(p.numel() * p.element_size() for p in parameters)
        blocks = blocks_of_layers(self.weights, room)
        files, found = [], []
        for index, block in enumerate(blocks):
            path = folder / _block_file(index)
            if not path.exists():
                self._make_block(path, block, index, len(blocks))
            files.append(path.name)
            found.append(read_directions(path))
        made: dict[str, Any] = {"num_tokens": found[0]["num_tokens"]}
        for key in ("hashes", "ranks"):
            made[key] = {site: value for one in found for site, value in one[key].items()}
        return assemble_basis(folder, files, **about, **made), files

    def _make_block(
        self, path: Path, block: Mapping[str, BlockWeight], index: int, count: int
    ) -> None:
        layers = sorted({weight.layer for weight in block.values()})
        reporter = self.series.reporter
        reporter.detail(
            f"basis of layers {layers[0]} to {layers[-1]} (part {index + 1} of {count})"
        )
        made = block_directions(self.subject.model, self._batches(), block)
        reporter.advance(UNITS_PER_FORWARD * len(self.answers) / count)
        about = {"ranks": dict(made.ranks), "num_tokens": made.num_tokens}
        write_directions(path, made.directions, made.spectra, about)
        for site, rank in made.ranks.items():
            if rank < (size := len(made.spectra[site])):
                reporter.note(
                    f"basis: {made.num_tokens:,} counted tokens reach {rank} of the {size} "
                    f"directions of {site} (and maybe not all of others): the rest is arbitrary; "
                    "more safety prompts reach more"
                )
                break

    def _batches(self) -> Any:  # noqa: ANN401
        return batches(
            self.answers,
            self.subject.tokenizer,
            counted=self.config.basis_counted,
            batch_size=self.config.score_batch_size,
            plain=self.config.plain,
            system=self.config.system,
            max_length=window(self.subject.model, self.subject.tokenizer),
        )


def _block_file(index: int) -> str:
    return f"block-{index:03}.safetensors"


def basis_in(out: Path, subject: Subject, config: TuneConfig) -> Basis:
    """Return the basis of a run folder, verified.

    Raises:
        ArtifactMismatchError: It is of another model or was made with another chat template.
        DamagedArtifactError: A file of it is missing or changed.
    """
    basis = load(out / BASIS)
    if not isinstance(basis, Basis):
        raise UserError(f"{out / BASIS} holds no basis; make one with `safetypin warp basis`")
    if model_hash(basis.model_id) != model_hash(subject.identity):
        raise ArtifactMismatchError(
            f"the basis in {out} is of {basis.model_id}, the model is {subject.identity}; make one "
            "of this model with `safetypin warp basis`"
        )
    template = template_id(subject.tokenizer, plain=config.plain, system=config.system)
    if basis.template != template:
        raise ArtifactMismatchError(
            f"the basis in {out} was made with another chat template or system prompt "
            f"({basis.template}) than this run uses ({template}), so its directions are of other "
            "inputs; use the same --plain and --system, or make it anew with `safetypin warp basis`"
        )
    return basis


def basis_result(series: Series) -> dict[str, Any]:
    """Return what the record of the basis of a run folder says, wherever it was made."""
    made = series.records.get(BASIS)
    return dict((made or RunRecord.read(series.out / BASIS)).result)


def keep_basis(series: Series, folder: Path) -> None:
    """Take a basis into a run folder, from the run that made it; another one there gives way."""
    if folder.resolve() == series.out.resolve():
        return
    for name in STAGES:
        made = folder / name / "run.json"
        there = series.out / name / "run.json"
        if made.exists() and not (there.exists() and _is_same(made, there)):
            discard(series.out / name)
    share_stages(folder, series.out, STAGES)


def _is_same(made: Path, there: Path) -> bool:
    one, other = read_json(made), read_json(there)
    return all(one[key] == other[key] for key in ("inputs", "files"))


def check_basis_inputs(run: Path, config: TuneConfig, subject: Subject, prompts: PromptSet) -> None:
    """Raise if the basis of a run folder would be made in another way now.

    Raises:
        UserError: It would, with what differs.
    """
    asked = RunRecord.read(run / STAGES[0]).inputs["prompts"]
    if asked != prompts.fingerprint:
        raise UserError(
            f"the safety prompts ({config.safety}) are no longer those that the basis in {run} was "
            f"made on; put them back, or make it anew with `safetypin warp basis ... --out {run}`"
        )
    answers = read_calibration(run / STAGES[0], "safety")
    wanted = json.loads(json.dumps(basis_inputs(config, subject, answers)))
    if odd := differences(RunRecord.read(run / BASIS).inputs, wanted):
        raise UserError(
            f"the basis in {run} was made with other settings ({'; '.join(odd)}); leave these "
            "options out, or make another basis with `safetypin warp basis`"
        )


def check_made_in(run: Path) -> None:
    """Raise unless the mask of a run folder, where it is one of WaRP, was made in its basis.

    The fingerprint alone does not tell: a random or identity basis knows no template or prompts.

    Raises:
        ArtifactMismatchError: It was not, with what differs.
    """
    mask, basis = (read_json(run / name / "run.json") for name in ("set", BASIS))
    if "basis" not in mask["inputs"]:  # a set that the run was given, with its basis
        return
    names = ("model_id", "template", "prompts")
    wanted = {name: basis["inputs"][name] for name in names}
    wanted["basis"] = basis["result"]["fingerprint"]
    found = {name: mask["inputs"].get(name) for name in wanted}
    if odd := differences(found, wanted):
        raise ArtifactMismatchError(
            f"the mask in {run} was not made in the basis that is there now "
            f"({'; '.join(odd)}); make it again with `safetypin warp importance {run}`"
        )
