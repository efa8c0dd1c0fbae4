"""Error against rank for every matrix of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._errors import invalid
from ..graph.copy import copy_module
from ..layers.matrices import matrices
from ..weights.low_rank import LowRankWeight, rank_of_energy
from .factor_item import Item
from .factorize import leave_what_is_read
from .moments import Run, call, check_batches, input_moments
from .table import table
from .wrappers import unwrap, without_autocast

_ENERGIES = (0.9, 0.95, 0.99)
_SHARES = (2, 4, 8)


@dataclass(frozen=True)
class RankPoint:
    """A rank, the numbers that a matrix has then, the energy that is kept, and the error of the model.

    The error is None where there are no batches.
    """

    rank: int
    parameters: int
    energy: float
    error: float | None = None


@dataclass(frozen=True)
class MatrixAnalysis:
    """One matrix (out, in): its singular values, the ranks that keep 90, 95 and 99 % of their energy, and cuts of it.

    `cuts` are those to a half, a quarter and an eighth of its numbers, None where rank 1 has more. `reason` says why it
    must stay as it is; empty if it may be factorized.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    singular_values: tuple[float, ...] = ()
    ranks: tuple[RankPoint, ...] = ()
    cuts: tuple[RankPoint | None, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Analysis:
    """The report of `analyze`: `error` says what the errors are, `baseline` is the loss of the model before any cut."""

    model: str
    matrices: tuple[MatrixAnalysis, ...]
    error: str = ""
    baseline: float | None = None

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        energies = [f"rank for {energy:.0%}" for energy in _ENERGIES]
        cuts = [f"1/{share}: " + ("error" if self.error else "energy") for share in _SHARES]
        rows = [["matrix", "shape", "numbers", *energies, *cuts]]
        for found in self.matrices:
            start = [" = ".join(found.names), f"{found.shape[0]}x{found.shape[1]}"]
            if found.reason:
                rows.append([*start, f"stays: {found.reason}"])
                continue
            ranks = [f"{p.rank} ({p.parameters})" for p in found.ranks]
            errors = ["-" if p is None else f"{p.energy if p.error is None else p.error:.4f}" for p in found.cuts]
            rows.append([*start, str(found.shape[0] * found.shape[1]), *ranks, *errors])
        lines = table(rows)
        if self.error:
            lines.append(f"error: {self.error}, one matrix being cut to that part of its numbers")
        return "\n".join(lines)


@torch.no_grad()
def analyze(
    model: nn.Module, batches: Iterable[Any] | None = None, *, loss: Callable[[nn.Module, Any], Any] | None = None
) -> Analysis:
    """What low rank would cost, for every matrix of the recurrent, linear and embedding layers of `model`.

    Singular values, and the ranks that keep 90, 95 and 99 % of their energy (sum of squares). With `batches` they are
    those of what each product gives on these data, and the model is run with each matrix alone cut to a half, a
    quarter and an eighth of its numbers: the error is |y' - y| / |y| over all of its outputs, or with `loss` the
    increase of that. The model stays as it is.

    Args:
        model: any module.
        batches: items that the model is called with (a tensor, a tuple of arguments or a dict of keyword arguments).
        loss: `loss(model, batch)`, a number or scalar tensor; batches may then be anything.

    Raises:
        ValueError: no such layer, no batches, or a loss that is no number.

    >>> lstm = nn.LSTM(16, 32)
    >>> report = analyze(lstm, [torch.randn(20, 2, 16)])
    >>> [(found.names, [point.rank for point in found.cuts]) for found in report.matrices]
    [(('weight_ih_l0',), [7, 3, 1]), (('weight_hh_l0',), [12, 6, 3])]
    """
    model = unwrap(model)
    data = None if batches is None else check_batches(batches)
    run: Run = call if loss is None else loss
    with without_autocast():
        moments = {} if data is None else input_moments(model, data, run)
        measured = None if data is None else _Measured(model, data, run)
        found = []
        if not (known := matrices(model)):
            raise invalid(type(model).__name__, got="no recurrent, linear or embedding layer", expected="at least one")
        items = [Item(matrix, reason=matrix.left_alone, moment=moments.get(matrix.name)) for matrix in known]
        if data is not None:
            leave_what_is_read(model, items, data[0], run)
        for item in items:
            matrix = item.matrix
            if item.reason:
                found.append(MatrixAnalysis(matrix.names, matrix.shape, reason=item.reason))
                continue
            left, s, right = item.factors()
            out, inp = matrix.shape
            kept = s.square().cumsum(0) / s.square().sum().clamp_min(1e-300)

            def point(rank: int, error: float | None = None, kept: Tensor = kept, size: int = out + inp) -> RankPoint:
                return RankPoint(rank, rank * size, float(kept[rank - 1]), error)

            ranks = [out * inp // (share * (out + inp)) for share in _SHARES]
            forms = {r: LowRankWeight.of(left[:, :r], right[:r], matrix.gates) for r in ranks if r}
            errors = (
                {} if measured is None else dict(zip(forms, measured.errors(matrix.name, forms.values()), strict=True))
            )
            found.append(
                MatrixAnalysis(
                    matrix.names,
                    matrix.shape,
                    tuple(s.tolist()),
                    tuple(point(rank_of_energy(s, energy)) for energy in _ENERGIES),
                    tuple(point(rank, errors.get(rank)) if rank else None for rank in ranks),
                )
            )
    if measured is None:
        return Analysis(type(model).__name__, tuple(found))
    what = "relative difference of the outputs" if loss is None else f"increase of the loss, {measured.loss:.6g}"
    return Analysis(type(model).__name__, tuple(found), what, None if loss is None else measured.loss)


class _Measured:
    """What a model gives on batches, to compare with."""

    def __init__(self, model: nn.Module, batches: list[Any], run: Run):
        self.model, self.batches, self.run = model, batches, run
        self.outputs = list(self._of(copy_module(model).eval()))
        if run is not call and any(len(found) != 1 or found[0].numel() != 1 for found in self.outputs):
            raise invalid("loss", got="something else", expected="a function that returns a number or a scalar tensor")
        self.loss = self._mean(self.outputs) if run is not call else 0.0

    def _of(self, model: nn.Module) -> Iterator[list[Tensor]]:
        for batch in self.batches:
            leaves = tree_leaves(self.run(model, batch))
            yield [torch.as_tensor(y).double() for y in leaves if isinstance(y, Tensor | float)]

    def _mean(self, losses: list[list[Tensor]]) -> float:
        return sum(float(y) for found in losses for y in found) / len(losses)

    def errors(self, name: str, forms: Iterable[LowRankWeight]) -> Iterator[float]:
        """With each of `forms` in the place of the matrix called `name`."""
        twin = copy_module(self.model).eval()
        matrix = next(matrix for matrix in matrices(twin) if name in matrix.names)
        like = matrix.dense()
        for form in forms:
            matrix.put(form.to(like))
            cut = list(self._of(twin))
            if self.run is not call:
                yield self._mean(cut) - self.loss
                continue
            pairs = [(a, b) for x, y in zip(cut, self.outputs, strict=True) for a, b in zip(x, y, strict=True)]
            off = sum(float((a - b).square().sum()) for a, b in pairs)
            yield (off / max(sum(float(b.square().sum()) for _, b in pairs), 1e-300)) ** 0.5
