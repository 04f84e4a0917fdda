"""WaRP: train the coefficients of each weight in a basis, all but the most important ones.

Kim et al. 2023, "Warping the Space" (ICLR), and WSR-Tune, which takes the basis from the inputs of
safety prompts. The published code trains every other parameter of the model beside, unprotected,
and rounds W through W U U^T in bfloat16, which changes half of the weights with no training.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from safetypin.artifacts import (
    IDENTITY,
    ArtifactMismatchError,
    Basis,
    UserError,
    WeightMask,
    model_hash,
)
from safetypin.intervene._prune import check_shapes
from safetypin.intervene.protect._coefficients import (
    TOLERANCE,
    CoefficientOptimizer,
    Coefficients,
    MakeOptimizer,
    check_class,
)
from safetypin.intervene.protect._protection import Guard, Protection
from safetypin.models import check_basis

ORTHONORMAL = 1e-4  # the change of a random vector by U U^T; eigenvectors in float32 give 1e-6


@dataclasses.dataclass(frozen=True)
class Warp(Protection):
    """Full fine-tuning of the masked matrices, of which the masked coefficients never change.

    A weight is W0 + dC U^T, where dC is zero at every masked entry; the optimizer has the other
    entries only. Without a step the weights are the first ones bit for bit. What clips the
    gradients sees those of free coefficients only.

    Attributes:
        basis: The coordinates, of this model. With `identity_basis` this is training under a mask
            of weights.
        mask: The coefficients to hold, in these coordinates. Its matrices are trained, those
            without a member freely.
        train_others: Whether all other parameters are trained too, unprotected, as the published
            code does: embeddings, norms, head and the matrices that the mask does not name.
    """

    learning_rate: ClassVar[float] = 5e-5

    basis: Basis
    mask: WeightMask
    train_others: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        return {
            **super().settings,
            "basis": self.basis.fingerprint,
            "mask": self.mask.fingerprint,
            "train_others": self.train_others,
        }

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless basis and mask are of this model and of one another, and whole."""
        check_rotated(model, self.basis, self.mask)
        if self.mask.num_selected == self.mask.num_weights:
            raise UserError(
                "the mask holds every coefficient, so nothing could be trained; use a keep_ratio "
                "below 1"
            )
        stuck = [n for n in self.mask.tensors if not model.get_parameter(n).requires_grad]
        if stuck:
            raise UserError(
                f"the mask names {len(stuck)} matrices that this run cannot train (requires_grad "
                f"is off), first {stuck[0]!r}; let them be trained with requires_grad_(True)"
            )

    def begin(self, model: PreTrainedModel) -> Guard:
        """Keep the first weights, and give the optimizer their free coefficients."""
        matrices = [
            Coefficients(name, model.get_parameter(name), frozen, self.basis)
            for name, frozen in self.mask.tensors.items()
        ]
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        mine = {id(matrix.weight) for matrix in matrices}
        for parameter, _ in flags:
            if not self.train_others and id(parameter) not in mine:
                parameter.requires_grad_(False)

        def end() -> None:
            _write(matrices)
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)

        return Guard(
            model=model,
            after_step=functools.partial(_write, matrices),
            after_training=end,
            make_optimizer=functools.partial(_optimizer, model, matrices),
            measure=functools.partial(_measure, matrices),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        held, of = self.mask.num_selected, self.mask.num_weights
        text = f"{held:,} of {of:,} coefficients are held ({held / of:.2%})"
        beside = (
            "all other parameters are trained too, unprotected"
            if self.train_others
            else "no other parameter is trained"
        )
        return (f"{text}; {beside}",)


def check_rotated(model: PreTrainedModel, basis: Basis, mask: WeightMask) -> None:
    """Raise unless a mask is in the coordinates of a basis, and both are of this model.

    Raises:
        ArtifactMismatchError: They are not, or a layer is missing; nothing was changed.
    """
    check_basis(model, basis)
    if mask.space != basis.space:
        raise ArtifactMismatchError(
            f"the mask is in the coordinates {mask.space}, the basis has {basis.space}; make the "
            "mask again in this basis (safetypin warp importance)"
        )
    # the identity's coordinates are those of every model
    if model_hash(mask.model_id) != model_hash(basis.model_id):
        raise ArtifactMismatchError(
            f"the mask is of {mask.model_id}, the model is {basis.model_id}; make the mask of this "
            "model (safetypin warp importance)"
        )
    basis.check_has(mask.tensors)
    check_shapes(model, mask)
    _check_orthonormal(basis, mask.tensors)


def _check_orthonormal(basis: Basis, names: Iterable[str]) -> None:
    """Raise if U U^T is not the identity, by what it makes of two random vectors."""
    if basis.kind == IDENTITY:
        return
    for site in dict.fromkeys(basis.sites[name] for name in names):
        directions = basis.directions[site]
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(len(directions), 2, generator=generator).to(directions)
        off = float((directions @ (directions.T @ probe) - probe).norm() / probe.norm())
        if not off <= ORTHONORMAL:
            raise UserError(
                f"the directions of {site} are not orthonormal (off by {off:.1e}), so held "
                "coefficients would move; make the basis again with `safetypin warp basis`"
            )


def _write(matrices: Sequence[Coefficients]) -> None:
    for matrix in matrices:
        matrix.write()


def _optimizer(
    model: PreTrainedModel,
    matrices: Sequence[Coefficients],
    kind: MakeOptimizer,
    name: str,
    decayed: set[str],
    weight_decay: float,
    options: Mapping[str, Any],
) -> Optimizer:
    """Return the optimizer of a run.

    Args:
        model: What is trained.
        matrices: What of it in rotated coordinates.
        kind: Class of the optimizer.
        name: As the user named it.
        decayed: Names of the parameters that weight decay is for.
        weight_decay: As it is asked for.
        options: Of the optimizer.
    """
    check_class(kind, name)
    mine = {id(matrix.weight) for matrix in matrices}
    others: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in mine:
            others[parameter_name in decayed].append(parameter)
    groups = [
        {"params": parameters, "weight_decay": weight_decay if is_decayed else 0.0}
        for is_decayed, parameters in others.items()
        if parameters
    ]
    return CoefficientOptimizer(matrices, groups, kind, weight_decay=weight_decay, **options)


def _measure(matrices: Sequence[Coefficients]) -> dict[str, Any]:
    """Return how far frozen and free coefficients are from their first values.

    Raises:
        UserError: Farther than rounding takes them.
    """
    return describe_moved({matrix.name: matrix.moved() for matrix in matrices})


def describe_moved(moved: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the changes of frozen and free coefficients, by matrix, as JSON values.

    Raises:
        UserError: A frozen one moved farther than rounding takes it.
    """
    name = max(moved, key=lambda key: moved[key][0])
    frozen = moved[name][0]
    if not frozen <= TOLERANCE:
        raise UserError(
            f"a held coefficient of {name} moved by {frozen:.1e} of the largest one, more "
            f"than float32 rounds ({TOLERANCE:g}); the basis is not orthonormal, make it again"
        )
    return {
        "frozen_change": frozen,
        "frozen_change_in": name,
        "tolerance": TOLERANCE,
        "free_change": max(free for _, free in moved.values()),
    }
