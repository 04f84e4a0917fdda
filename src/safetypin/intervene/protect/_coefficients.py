"""Train weights in the coordinates of a basis: W = W0 + dC U^T, where some of dC is always zero.

Projecting the gradients before AdamW would not hold anything: it scales every entry by itself,
which does not commute with a rotation. So the optimizer works on the free coefficients themselves,
and has no frozen one at all. The weight that the model runs on is made anew after each step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer

from safetypin.artifacts import Basis, UserError

NARROW = (torch.bfloat16, torch.float16)
# the optimizers that add the decay to the gradient; all others shrink the weights by themselves
COUPLED = ("SGD", "RMSprop", "Adagrad")
TOLERANCE = 1e-6  # of the largest coefficient: what rounding in float32 may make of a frozen one

MakeOptimizer = Callable[..., Optimizer]


class Coefficients:
    """The coefficients of one weight, of which the free ones are trained.

    Attributes:
        weight: The parameter of the model.
        change: The free entries of dC, in order: what the optimizer has.
    """

    def __init__(
        self, name: str, weight: nn.Parameter, frozen: Bool[Tensor, "..."], basis: Basis
    ) -> None:
        """Keep the weight's first values.

        Args:
            name: The parameter's name, in the basis.
            weight: Its present values are W0.
            frozen: True for a coefficient that never changes, shaped as the weight.
            basis: The coordinates.
        """
        self.name, self.weight, self._basis = name, weight, basis
        self._frozen = frozen.to(weight.device) if frozen.any() else None
        num_free = frozen.numel() - int(frozen.sum())
        self._first = _exact_copy(weight.detach())
        self.change = nn.Parameter(weight.detach().new_zeros(num_free))
        self._is_written = True

    @property
    def first(self) -> Float[Tensor, "..."]:
        """The values before the training."""
        return self._first.to(self.weight.dtype)

    def of(self, values: Float[Tensor, "..."]) -> Float[Tensor, " free"]:
        """Return the free coefficients of a tensor shaped as the weight."""
        turned = self._basis.rotated(self.name, values)
        if self._frozen is None:
            return turned.flatten()
        return turned.masked_select(~self._frozen)

    @torch.no_grad()
    def take_gradient(self) -> None:
        """Turn the gradient by the weight into that by the free coefficients."""
        if self.weight.grad is not None:
            self.change.grad = self.of(self.weight.grad)
            self.weight.grad = None

    def changed(self) -> None:
        """Say that coefficients changed: a fused optimizer leaves their version as it was."""
        self._is_written = False

    @torch.no_grad()
    def write(self) -> None:
        """Make the weight anew, if a coefficient changed since."""
        if self._is_written:
            return
        self._is_written = True
        if not self.change.any():
            self.weight.copy_(self._first)  # adding zeros would make -0.0 into 0.0
            return
        change = self._whole()
        directions = self._basis.of(self.name)
        if directions is None:
            self.weight.copy_(change.add_(self.first))
            return
        directions = directions.to(change)
        parts = (change, directions.T)
        if self.name in self._basis.transposed:
            parts = (directions, change)
        self.weight.copy_(self._first)
        self.weight.addmm_(*parts)

    def _whole(self) -> Float[Tensor, "..."]:
        """Return dC with its zeros."""
        if self._frozen is None:
            return self.change.detach().view(self.weight.shape).clone()
        whole = self.change.new_zeros(self.weight.shape)
        return whole.masked_scatter_(~self._frozen, self.change.detach())

    @torch.no_grad()
    def moved(self) -> tuple[float, float]:
        """Return how far coefficients are from their first values.

        It is read from the weight: `change` stays zero where a finished training is loaded.

        Returns:
            The largest change of a frozen one, over the largest coefficient, and that of a free
            one, over the largest weight.
        """
        change = self._basis.rotated(self.name, self.weight.detach() - self.first).abs_()
        if self._frozen is None:
            return 0.0, share_of(change.max(), self.first.abs().max())
        free = change.masked_fill(self._frozen, 0).max()
        frozen = change.masked_fill_(~self._frozen, 0).max()
        largest = self._basis.rotated(self.name, self.first).abs().max()
        return share_of(frozen, largest), share_of(free, self.first.abs().max())


def share_of(part: Float[Tensor, ""], largest: Float[Tensor, ""]) -> float:
    """Return one size over another, which may be zero."""
    return float(part / largest.clamp(min=torch.finfo(largest.dtype).tiny))


def _exact_copy(values: Tensor) -> Tensor:
    """Copy values in the shortest type that holds them exactly; checkpoints are mostly bfloat16."""
    for dtype in NARROW:
        narrow = values.to(dtype)
        if torch.equal(narrow.to(values.dtype), values):
            return narrow
    return values.clone()


class CoefficientOptimizer(Optimizer):
    """Another optimizer, at work on coefficients, that shows the weights as its parameters.

    So whatever clears, scales or sums gradients finds those of the weights, and schedules set its
    learning rate as ever. Weight decay is what it would be if W = C U^T itself were trained: the
    free coefficients C shrink, not their change.

    Attributes:
        optimizer: The one at work.
    """

    def __init__(
        self,
        matrices: Sequence[Coefficients],
        others: Iterable[Mapping[str, Any]],
        make: MakeOptimizer,
        *,
        weight_decay: float,
        **options: Any,  # noqa: ANN401 - the optimizer's own
    ) -> None:
        """Make the optimizer.

        Args:
            matrices: What is trained in rotated coordinates.
            others: Groups of parameters that are trained as they are, as optimizers take them.
            make: Class of the optimizer.
            weight_decay: Of the matrices.
            options: Of the optimizer, `lr` among them.
        """
        self._matrices, self._decay = list(matrices), weight_decay
        groups = [{"params": [m.change for m in self._matrices], "weight_decay": 0.0}, *others]
        self.optimizer = make(groups, **options)
        self._is_coupled = type(self.optimizer).__name__ in COUPLED
        shown = [m.weight for m in self._matrices]
        shown += [parameter for group in groups[1:] for parameter in group["params"]]
        super().__init__(shown, {"lr": options["lr"]})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do one step of the coefficients, and make the weights of them."""
        rate = self.param_groups[0]["lr"]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for matrix in self._matrices:
            matrix.take_gradient()
            if self._decay and matrix.change.grad is not None:
                self._shrink(matrix, rate)
        self.optimizer.step()
        for matrix in self._matrices:
            matrix.change.grad = None
            matrix.changed()
            matrix.write()

    @torch.no_grad()
    def _shrink(self, matrix: Coefficients, rate: float) -> None:
        coefficients = matrix.of(matrix.first).add_(matrix.change)
        if self._is_coupled:
            assert matrix.change.grad is not None
            matrix.change.grad.add_(coefficients, alpha=self._decay)
        else:
            matrix.change.sub_(coefficients, alpha=rate * self._decay)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients of all that is trained down to a norm; return what it was.

        Frozen coefficients do not count: they have no gradient.
        """
        for matrix in self._matrices:
            matrix.take_gradient()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer at work, and the coefficients."""
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.param_groups
        ]
        return {
            "optimizer": self.optimizer.state_dict(),
            "param_groups": groups,
            "changes": {m.name: m.change.detach() for m in self._matrices},
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a state back, and make the weights of its coefficients."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        for matrix in self._matrices:
            matrix.change.copy_(state_dict["changes"][matrix.name])
            matrix.changed()
            matrix.write()


def check_class(kind: object, name: str) -> None:
    """Raise if an optimizer wants whole matrices, not coefficients in a row.

    Raises:
        UserError: It does.
    """
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise UserError(
            f"the optimizer {name} works on whole matrices and cannot step in rotated coordinates; "
            "choose another, such as adamw_torch"
        )
