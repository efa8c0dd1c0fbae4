"""Doping: find the free entries beside a structure while the model trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..layers.matrices import matrices
from ..weights.base import AbstractWeight
from ..weights.sparse import SparseWeight
from ..weights.sum import SumWeight


class Doping:
    """Trains the sparse parts of a model's weights (`Doped`, `Sparse`) from dense matrices down to their few entries.

    Made before the optimizer, it opens every sparse part: all entries are there, new ones zero, so that the model is
    the same. After optimizer step t of n = `steps`, every row keeps the share `f + (1 - f) (1 - t/n)^3` of its entries,
    the largest, with f the part `keep` of the specification; the others become zero. `finish` then takes the zeros
    away.

    The sparse parts of a model that was factorized begin with all that the structures left of the `trained` one: it has
    its outputs at first, and loses them with the entries that go.

    As long as a part is nearly dense it could do all the work, and the structure beside it would learn nothing. So, at
    each step, every row of a sum loses one of the two contributions with probability `dropout`, drawn at random, and
    twice the other stands for it: the mean is the matrix itself. That ends with step n, is off in evaluation, and by
    `doping.dropout = 0`.

    Args:
        model: has weights such as `Doped(Kronecker(8, 8), keep=0.01)`.
        steps: length of the schedule in optimizer steps.
        dropout: in [0, 1].
        interval: entries are ranked every so many steps; between, those that were dropped stay zero.
        trained: the model as it was before `cr.factorize_`, with the same layers.

    Raises:
        ValueError: an argument out of range, no weight with a sparse part, or a `trained` model that has no matrix of
            the same name and shape; by `step`, an optimizer that does not have the opened parameters.

    Sources: Thakker et al., "Doping: a technique for extreme compression of LSTM models using sparse structured
    additive matrices", 2021; the schedule is that of Zhu and Gupta, "To prune, or not to prune", 2017.

    >>> import compactrnn as cr
    >>> lstm = cr.LSTM(8, 16, hidden_weight=cr.Doped(cr.LowRank(rank=2), keep=0.1))
    >>> doping = cr.Doping(lstm, steps=20)
    >>> optimizer = torch.optim.Adam(lstm.parameters())
    >>> for _ in range(20):
    ...     loss = lstm(torch.randn(5, 3, 8))[0].square().mean()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); doping.step(optimizer)
    >>> doping.finish(optimizer)
    >>> lstm.weight_hh_l0.stored_parameters()  # rank 2, and 2 entries in each of 64 rows
    288
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        *,
        dropout: float = 0.5,
        interval: int = 10,
        trained: nn.Module | None = None,
    ):
        for name, value in (("steps", steps), ("interval", interval)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise invalid(name, got=repr(value), expected="a positive int")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise invalid("dropout", got=repr(dropout), expected="a number from 0 to 1")
        self.steps, self.dropout, self.interval, self.count = steps, dropout, interval, 0
        self.sparse = [m for m in model.modules() if isinstance(m, SparseWeight)]
        self.sums = [m for m in model.modules() if isinstance(m, SumWeight) and _is_doped(m)]
        if not self.sparse:
            raise invalid(
                "model",
                got="no weight with a sparse part",
                expected="one or more",
                hint="build its layers with a weight such as Doped(Kronecker(8, 8), keep=0.01)",
            )
        left = {} if trained is None else _left_of(trained, model)
        for weight in self.sparse:
            weight.set_columns(_all_columns(weight), left.get(weight, weight.dense()))
        self._kept: list[Tensor] = [torch.ones_like(w.values, dtype=torch.bool) for w in self.sparse]
        self._drop()

    def step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Call it after each `optimizer.step()`; what is given as `optimizer` is checked."""
        if optimizer is not None:
            self._check(optimizer)
        self.count += 1
        for number, weight in enumerate(self.sparse):
            values = weight.values.detach()
            if self.count <= self.steps and (self.count % self.interval == 0 or self.count == self.steps):
                self._kept[number] = _largest(values, self.entries(weight))
            values.mul_(self._kept[number])
        self._drop()

    def entries(self, weight: SparseWeight) -> int:
        """How many entries of a row the schedule leaves at this step."""
        keep = weight.target() / weight.in_features
        share = keep + (1 - keep) * (1 - min(self.count / self.steps, 1)) ** 3
        return max(weight.target(), round(share * weight.in_features))

    @torch.no_grad()
    def finish(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Leave the entries of the specification, the largest of each row, and no dropout.

        The sparse parts get new parameters; those of `optimizer` are exchanged with what it knows of each entry.
        """
        if optimizer is not None:
            self._check(optimizer)
        for weight in self.sparse:
            old = weight.values
            columns = _largest(old, weight.target()).float().topk(weight.target()).indices
            weight.set_columns(columns, weight.dense())
            if optimizer is not None:
                _exchange(optimizer, old, weight.values, weight.index)
        for weight in self.sums:
            weight.row_factors = None
        self.sparse, self.sums = [], []

    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule, the entries that are kept, and the rows that are dropped in the next step."""
        return {"count": self.count, "kept": list(self._kept), "dropped": [w.row_factors for w in self.sums]}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`; the model's own state is loaded apart."""
        self.count = state["count"]
        self._kept = [kept.to(old.device) for kept, old in zip(state["kept"], self._kept, strict=True)]
        for weight, dropped in zip(self.sums, state["dropped"], strict=True):
            weight.row_factors = None if dropped is None else dropped.to(next(weight.parameters()))

    def _drop(self) -> None:
        dropout = self.dropout if self.count < self.steps else 0.0
        for weight in self.sums:
            like = next(weight.parameters())
            chance = torch.rand(2, weight.out_features, device=like.device)
            sparse = torch.where(chance[0] < dropout, 2.0 * (chance[1] < 0.5), 1.0).to(like.dtype)
            rows = [sparse if isinstance(part, SparseWeight) else 2 - sparse for part in weight.parts]
            weight.row_factors = torch.stack(rows) if dropout else None

    def _check(self, optimizer: torch.optim.Optimizer) -> None:
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(w.values.requires_grad and id(w.values) not in known for w in self.sparse):
            raise invalid(
                "optimizer",
                got="one without the parameters of the sparse parts",
                expected="an optimizer that was made after Doping(model, ...)",
            )


def _left_of(trained: nn.Module, model: nn.Module) -> dict[nn.Module, Tensor]:
    """For each sparse part what is left of the matrix of `trained` without the structure beside it."""
    known, left = {name: matrix for matrix in matrices(trained) for name in matrix.names}, {}
    for matrix in matrices(model):
        held = matrix.held
        parts = held.summands if isinstance(held, SumWeight) else [held]
        sparse = [part for part in parts if isinstance(part, SparseWeight)]
        if not sparse:
            continue
        source = known.get(matrix.name)
        if source is None or source.shape != matrix.shape:
            raise invalid(
                "trained",
                got=f"a model without {matrix.name}" if source is None else f"{matrix.name} of shape {source.shape}",
                expected=f"the matrix {matrix.name} of shape {matrix.shape}",
                hint="give a copy of the model from before cr.factorize_",
            )
        assert isinstance(held, AbstractWeight)
        left[sparse[0]] = source.dense().to(sparse[0].values) - held.dense().detach() + sparse[0].dense().detach()
    return left


def _is_doped(weight: SumWeight) -> bool:
    return 0 < sum(isinstance(part, SparseWeight) for part in weight.parts) < len(weight.parts)


def _all_columns(weight: SparseWeight) -> Tensor:
    return torch.arange(weight.in_features, device=weight.index.device).repeat(weight.out_features, 1)


def _largest(values: Tensor, count: int) -> Tensor:
    """Where the `count` largest of each row are."""
    kept = torch.zeros_like(values, dtype=torch.bool)
    return kept.scatter_(1, values.abs().topk(count).indices, True)


def _exchange(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, index: Tensor) -> None:
    """Let the optimizer train `new`, the entries `index` of the rows of `old`."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {
            name: value.gather(1, index) if isinstance(value, Tensor) and value.shape == old.shape else value
            for name, value in state.items()
        }
