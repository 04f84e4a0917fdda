"""Sums of squared differences of activations, and activations that wait on disk for their pair."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safetypin.artifacts import (
    ArtifactMismatchError,
    Batch,
    DamagedArtifactError,
    FileTensors,
    UserError,
    write_tensors,
)
from safetypin.hooks import Call
from safetypin.models import UnitSite

# by place and expert (-1 where there is none): the counted tokens that went there, their units
Rows = dict[tuple[str, int], tuple[Tensor, Tensor]]
DEAD = 1e-3  # of the layer's RMS: a unit below it is divided by this much instead


def rows_of(call: Call, places: Int[Tensor, " counted"], found: Rows) -> None:
    """Add the counted rows of one call, in float32, to `found`.

    Raises:
        UserError: The module saw other tokens than those of the pass.
    """
    x = call.x.flatten(0, -2)
    wanted = places.to(x.device)
    if call.tokens is None:
        if len(wanted) and int(wanted[-1]) >= len(x):
            raise UserError(
                f"{call.name} saw {len(x)} tokens where the pass has more; its units cannot be told"
            )
        every = torch.arange(len(wanted), device=x.device)
        found[call.name, -1] = every, x[wanted].float()
        return
    # places are in order: where each of the expert's tokens would be among the counted ones
    at = torch.searchsorted(wanted, call.tokens).clamp(max=max(len(wanted) - 1, 0))
    counted = wanted[at] == call.tokens if len(wanted) else torch.zeros_like(at, dtype=torch.bool)
    assert call.expert is not None
    found[call.name, call.expert] = at[counted], x[counted].float()


class DifferenceSums:
    """Sums over counted tokens of (a - b)^2 and b^2, for every unit."""

    def __init__(self, sites: Mapping[str, UnitSite], *, by_example: bool) -> None:
        self._sites, self._by_example = sites, by_example
        self._squares = {name: _zeros(site) for name, site in sites.items()}
        self._own = {name: _zeros(site) for name, site in sites.items()}
        self._weight = 0.0
        self.num_examples = self.num_tokens = 0

    def __add__(self, other: "DifferenceSums") -> "DifferenceSums":
        """Return the sums over the tokens of both."""
        both = DifferenceSums(self._sites, by_example=self._by_example)
        for part in (self, other):
            for name in self._sites:
                both._squares[name] += part._squares[name]
                both._own[name] += part._own[name]
            both._weight += part._weight
            both.num_examples += part.num_examples
            both.num_tokens += part.num_tokens
        return both

    def start(self, batch: Batch) -> Int[Tensor, " counted"]:
        """Begin a pass; return where its counted tokens are."""
        places = batch.counted.flatten().nonzero()[:, 0]
        self.num_examples += len(batch.input_ids)
        self.num_tokens += len(places)
        self._weights = torch.ones(len(places), device=places.device)
        if self._by_example:
            counts = batch.counted.sum(dim=1, keepdim=True).expand_as(batch.counted)
            self._weights = 1 / counts[batch.counted].float()
        self._weight += float(self._weights.sum())
        return places

    def add(self, mine: Rows, theirs: Rows) -> None:
        """Add a pass, given what both models did."""
        for key in mine.keys() | theirs.keys():
            name, expert = key
            squares, own = self._of(name, expert)
            tokens, rows = self._joined(mine.get(key), theirs.get(key))
            weights = self._weights.to(rows[0].device)[tokens, None]
            squares += ((rows[0] - rows[1]).square_() * weights).sum(dim=0).to(squares)
            own += (rows[1].square() * weights).sum(dim=0).to(own)

    def _of(self, name: str, expert: int) -> tuple[Tensor, Tensor]:
        if expert < 0:
            return self._squares[name], self._own[name]
        return self._squares[name][expert], self._own[name][expert]

    def _joined(
        self,
        mine: tuple[Tensor, Tensor] | None,
        theirs: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return tokens, and rows of both; a token that an expert did not get is zero there."""
        some = mine or theirs
        assert some is not None
        device, width = some[1].device, some[1].shape[1]
        tokens = [part[0].to(device) for part in (mine, theirs) if part is not None]
        if len(tokens) == 2 and torch.equal(*tokens):
            assert mine is not None
            assert theirs is not None
            return tokens[0], (mine[1], theirs[1].to(device))
        every = torch.cat(tokens).unique()
        rows = []
        for part in (mine, theirs):
            row = torch.zeros(len(every), width, device=device)
            if part is not None:
                row[torch.searchsorted(every, part[0].to(device))] = part[1].to(device)
            rows.append(row)
        return every, (rows[0], rows[1])

    def scores(self, *, free: bool) -> dict[str, Float[Tensor, "..."]]:
        """Return the root mean squares in float32.

        Raises:
            UserError: No token was counted, activations are not finite, or, where they are to be
                divided by, those of the reference are all zero in a layer.
        """
        if not self.num_tokens:
            raise UserError(
                "no token is counted in any of the batches; do the prompts have responses?"
            )
        found = {}
        for name in self._sites:
            squares, own = self._squares[name], self._own[name]
            if not (squares.isfinite().all() and own.isfinite().all()):
                raise UserError(
                    f"the activations at {name} are not finite numbers: they overflow float16 in "
                    "some units; load the models in bfloat16 or float32"
                )
            if free:
                layer = own.mean()
                if not layer:
                    raise UserError(
                        f"the reference's activations at {name} are all zero, so nothing can be "
                        "divided by them; use scale 'plain'"
                    )
                squares = squares / own.clamp(min=DEAD**2 * float(layer))
            else:
                squares = squares / self._weight
            found[name] = squares.sqrt().float()
        return found


def _zeros(site: UnitSite) -> Tensor:
    device = next(site.module.parameters()).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(site.shape, dtype=dtype, device=device)


def _file(folder: Path, number: int) -> Path:
    return folder / f"pass-{number:05d}.safetensors"


def _batch_hash(batch: Batch) -> str:
    parts = [batch.input_ids.cpu().tolist(), batch.counted.cpu().tolist()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def write_pass(folder: Path, number: int, rows: Rows, batch: Batch) -> None:
    """Write the activations of one pass."""
    tensors = {}
    for (name, expert), (tokens, values) in rows.items():
        tensors[f"{name}|{expert}|tokens"] = tokens
        tensors[f"{name}|{expert}|rows"] = values
    write_tensors(_file(folder, number), tensors, {"batch": _batch_hash(batch)})


class Recorded:
    """A model's activations at counted tokens, on disk.

    Attributes:
        model_id: Of the model that was read.
    """

    def __init__(
        self,
        folder: Path,
        model_id: str,
        site: str,
        shapes: Mapping[str, tuple[int, ...]],
        num_passes: int,
    ) -> None:
        self.model_id = model_id
        self._folder, self._site, self._shapes = folder, site, shapes
        self._num_passes = num_passes

    def check(self, sites: Mapping[str, UnitSite], site: str) -> None:
        """Raise unless it was recorded at the same site of a model of equal shape.

        Raises:
            ArtifactMismatchError: It was not.
        """
        if site != self._site:
            raise ArtifactMismatchError(
                f"the reference was recorded at site {self._site}, not at {site}; record it again"
            )
        own = {name: place.shape for name, place in sites.items()}
        for name in own.keys() | self._shapes.keys():
            if own.get(name) != self._shapes.get(name):
                raise ArtifactMismatchError(
                    f"the two models differ at {name}: {own.get(name)} units and "
                    f"{self._shapes.get(name)}; only models of equal architecture can be compared "
                    "unit by unit"
                )

    def read(self, number: int, batch: Batch) -> Rows:
        """Return the activations of a pass.

        Raises:
            ArtifactMismatchError: The pass was over other tokens.
            DamagedArtifactError: Its file is missing or cut short.
        """
        if number >= self._num_passes:
            raise ArtifactMismatchError("the reference was recorded on fewer tokens; record again")
        path = _file(self._folder, number)
        tensors = FileTensors(path)
        if tensors.metadata.get("batch") != _batch_hash(batch):
            raise ArtifactMismatchError("the reference was recorded on other tokens; record again")
        rows: Rows = {}
        for key in tensors:
            name, expert, what = key.split("|")
            if what == "rows":
                try:
                    values = tensors[key]
                    rows[name, int(expert)] = tensors[f"{name}|{expert}|tokens"], values
                except KeyError as error:
                    raise DamagedArtifactError(f"{path} lacks {error}; record again") from error
        return rows
