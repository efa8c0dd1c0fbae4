"""Magnitude pruning: the entries or blocks of a matrix that are smallest become zero while the model trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import check_positive, invalid
from ..graph.copy import copy_module
from ..layers.convert import convert_
from ..layers.matrices import ModelMatrix, matrices
from ..weights.block_sparse import BlockSparse
from ..weights.dense import DenseWeight
from ..weights.sparse import Sparse
from .factor_item import Spec, requested
from .factorization import FactorizationPlan
from .factorize import leave_what_is_read, plan_factorization
from .final_thresholds import block_maxima, final_thresholds
from .moments import call
from .optimizer_state import move_optimizer_
from .threshold_ramp import ThresholdRamp
from .wrappers import inner_names, unwrap, without_autocast


class Magnitude:
    """Prunes single weights (`Sparse`) or blocks (`BlockSparse`) of dense matrices, on a schedule.

    Until step `start` nothing changes. In the n steps after it every row of entries (or of blocks) keeps at step t the
    share `f + (1 - f) (1 - t/n)^3`, the largest by absolute value (by norm), f being the `keep` of the specification.
    The others are zero after each step; every `interval` steps they are ranked again. All rows keep equally many, which
    the kernels profit from. Once the schedule has ended, training goes on with the entries that are left, and `shrink`
    gives a model that stores only these.

    With a `ThresholdRamp` as `schedule` it is the published method: what is smaller than a rising threshold becomes
    zero, for blocks what has no entry as large. The `keep` of the specification is then only where the threshold goes;
    what is left, in rows of different numbers, is a result that `report` gives and `shrink` stores, and one entry of a
    matrix at least.

    A frozen matrix (`requires_grad=False`) is neither pruned nor stored otherwise; one that is unfrozen later is
    pruned from the next ranking on, or at once where the schedule has ended.

    Args:
        model: any module; its recurrent and linear layers are pruned, tables of embeddings stay.
        spec: `Sparse(keep=)` or `BlockSparse(block=, keep=)` for all matrices, or by name as in `factorize_`:
            `{"lstm": cr.BlockSparse(keep=0.25), "head": None}`.
        steps: length of the schedule in steps of the optimizer.
        start: steps before it.
        interval: how often the entries are ranked.
        schedule: "cubic", or a `ThresholdRamp`, with `BlockSparse(..., balanced=False)`; block (1, 1) for single
            weights.
        example_inputs: what the model is called with, to try on a copy whether it runs with other weights; where its
            code reads a matrix by itself, that matrix stays.

    Raises:
        ValueError: for arguments out of range, names that the model does not have, named matrices that cannot be
            pruned, and specifications with equal rows where there is a threshold.

    Sources: Narang, Diamos, Sengupta, Elsen, Exploring Sparsity in Recurrent Neural Networks, 2017, for pruning while
    training; Narang, Undersander, Diamos, Block-Sparse Recurrent Neural Networks, 2017, for blocks; Zhu and Gupta, To
    prune, or not to prune, 2017, for the schedule.

    >>> import compactrnn as cr
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    >>> pruner = cr.Magnitude(model, {"0": cr.Sparse(keep=0.125)}, steps=20)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     loss = model(torch.randn(8, 64)).square().mean() + pruner.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step(optimizer)
    >>> int(model[0].weight.count_nonzero()), pruner.shrink()[0].weight.stored_parameters()
    (512, 512)
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Spec,
        *,
        steps: int,
        start: int = 0,
        interval: int = 10,
        schedule: Literal["cubic"] | ThresholdRamp = "cubic",
        example_inputs: Any = None,
    ):
        check_positive(steps, "steps")
        check_positive(interval, "interval")
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise invalid("start", got=repr(start), expected="an int of 0 or more")
        if schedule != "cubic" and not isinstance(schedule, ThresholdRamp):
            raise invalid("schedule", got=repr(schedule), expected='"cubic" or a ThresholdRamp')
        for wanted in spec.values() if isinstance(spec, Mapping) else (spec,):
            if not isinstance(wanted, Sparse | BlockSparse | None) or (wanted is None and spec is None):
                raise invalid(
                    "spec", got=repr(wanted), expected="Sparse(keep=...), BlockSparse(keep=...), or these by name"
                )
        self.model, self.steps, self.start, self.interval, self.count = unwrap(model), steps, start, interval, 0
        self._specs: dict[str, Sparse | BlockSparse] = {}
        items = requested(self.model, inner_names(model, spec), False)
        if example_inputs is not None:
            with torch.no_grad(), without_autocast():
                leave_what_is_read(self.model, items, example_inputs, call)
        for item in items:
            if isinstance(item.wanted, Sparse | BlockSparse) and not item.reason:
                if not isinstance(item.matrix.held, nn.Parameter | DenseWeight):
                    item.leave("it is of low rank already")
                    continue
                try:
                    convert_(copy_module(nn.ModuleList(place.module for place in item.matrix.places)))
                except ValueError as error:
                    item.leave(str(error))
                    continue
                item.wanted.build(*item.matrix.shape, item.matrix.gates)  # refused now, not in the course of training
                self._specs[item.matrix.name] = item.wanted
        self._left = {item.matrix.name: item.reason for item in items if item.reason}
        if not self._specs:
            reasons = "; ".join(f"{item.matrix.name}: {item.reason}" for item in items[:4])
            expected = "recurrent or linear layers with a dense matrix that may be pruned"
            raise invalid("model", got=f"none ({reasons})" if reasons else "none", expected=expected)
        self._masks = {
            name: torch.ones_like(self._entries(m), dtype=torch.bool) for name, m in self._matrices(self.model)
        }
        self._unranked = set(self._masks)  # of which all entries are left
        self.ramp = schedule if isinstance(schedule, ThresholdRamp) else None
        self._ends: dict[str, float] = {}  # what the threshold of each matrix rises to
        if isinstance(schedule, ThresholdRamp):
            schedule.check(start, steps, interval)
            trained = self.model if schedule.trained is None else schedule.trained
            self._ends = final_thresholds(trained, self._specs)

    def penalty(self) -> Tensor:
        """Zero: nothing is added to the loss."""
        return torch.zeros((), device=next(self.model.parameters()).device)

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`."""
        self.count += 1
        at = self.count - self.start
        rank = 0 < at <= self.steps and (at % self.interval == 0 or at == self.steps)
        if self.ramp is not None:
            rank = self.ramp.sets(self.count, self.start, self.steps, self.interval)
        for name, matrix in self._matrices(self.model):
            if _is_frozen(matrix):
                continue
            entries = self._entries(matrix)
            if rank or (at > self.steps and name in self._unranked):
                self._masks[name] = self._largest(name, matrix)
                self._unranked.discard(name)
            entries.mul_(self._masks[name].to(entries.device))

    def fraction(self, keep: float) -> float:
        """The share of the entries of a row that the cubic schedule leaves at this step, for a `keep`."""
        t = min(max(self.count - self.start, 0) / self.steps, 1)
        return keep + (1 - keep) * (1 - t) ** 3

    def plan(self) -> FactorizationPlan:
        """What `shrink()` would make of which matrix now."""
        specs = self._present_specs()
        plan = plan_factorization(self.model, dict(specs))
        why = self._left | dict.fromkeys(self._specs.keys() - specs.keys(), "it is frozen")
        return replace(plan, matrices=tuple(replace(f, reason=why.get(f.name, f.reason)) for f in plan.matrices))

    def report(self) -> FactorizationPlan:
        """Sizes before and after `shrink()`: those of its plan."""
        return self.plan()

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A model that stores only what is left; `optimizer`, if given, goes on with it.

        The optimizer's state of what was not pruned goes along; that of pruned matrices begins again.

        Warns:
            UserWarning: the schedule has not ended: what is cut now still has an effect; or every matrix is frozen.
        """
        if self.count < self.start + self.steps:
            text = (
                f"shrink() at step {self.count} of {self.start + self.steps}: call step() until the schedule has ended"
            )
            warnings.warn(text, stacklevel=2)
        elif not self._present_specs():
            warnings.warn("shrink(): nothing was cut: every matrix is frozen", stacklevel=2)
        small = self._cut(self.model)
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, small, self._cut)
        return small

    def state_dict(self) -> dict[str, Tensor]:
        """The position in the schedule, and which entries are left."""
        masks = {f"mask.{name}": mask.clone() for name, mask in self._masks.items()}
        ends = {f"end.{name}": torch.tensor(end, dtype=torch.float64) for name, end in self._ends.items()}
        return {"count": torch.tensor(self.count), **masks, **ends}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()` of a pruner of the same matrices.

        Raises:
            ValueError: it is that of others; nothing was changed then.
        """
        own = self.state_dict()
        shapes, given = ({n: tuple(t.shape) for n, t in s.items()} for s in (own, state))
        if shapes != given:
            raise invalid("pruner state", got=given, expected=str(shapes))
        self.count = int(state["count"])
        self._masks = {name: state[f"mask.{name}"].bool().clone() for name in self._masks}
        self._ends = {name: float(state[f"end.{name}"]) for name in self._ends}
        self._unranked = {name for name, mask in self._masks.items() if bool(mask.all())}

    def _matrices(self, model: nn.Module) -> list[tuple[str, ModelMatrix]]:
        return [(matrix.name, matrix) for matrix in matrices(model) if matrix.name in self._specs]

    @staticmethod
    def _entries(matrix: ModelMatrix) -> Tensor:
        held = matrix.held
        assert isinstance(held, nn.Parameter | DenseWeight)
        return (held.weight if isinstance(held, DenseWeight) else held).detach()

    def _largest(self, name: str, matrix: ModelMatrix) -> Tensor:
        """Where the entries are that the schedule leaves."""
        spec, dense = self._specs[name], matrix.dense()
        if self.ramp is not None:
            threshold = self.ramp.threshold(self.count, self._ends[name], self.start, self.steps, self.interval)
            weight, largest = block_maxima(matrix, spec)
            return weight.entries(largest >= min(threshold, float(largest.max())))
        now = replace(spec, keep=self.fraction(spec.keep))
        with torch.random.fork_rng(devices=[]):
            weight = now.build(*matrix.shape, matrix.gates).to(dense.device)
        (term,) = weight.from_dense_(dense).terms()
        places = term.index  # pyright: ignore
        return (
            torch.zeros(dense.numel(), dtype=torch.bool, device=dense.device)
            .index_fill_(0, places, True)
            .view_as(dense)
        )

    def _present_specs(self) -> dict[str, Sparse | BlockSparse]:
        """The specifications, or where a threshold decides those of what is left, of what is not frozen as it was."""
        present: dict[str, Sparse | BlockSparse] = {}
        for name, matrix in self._matrices(self.model):
            if _is_frozen(matrix) and name in self._unranked:
                continue
            if self.ramp is None:
                present[name] = self._specs[name]
                continue
            weight, _ = block_maxima(matrix, self._specs[name])
            left = weight.blocks(self._masks[name].float()).amax(2)
            present[name] = replace(self._specs[name], keep=float(left.mean(dtype=torch.float64)))
        return present

    @torch.no_grad()
    def _cut(self, model: nn.Module) -> nn.Module:
        small, specs = copy_module(model), self._present_specs()
        for name, matrix in self._matrices(small):
            if name not in specs:
                continue
            dense = matrix.dense()
            with torch.random.fork_rng(devices=[]):
                weight = specs[name].build(*matrix.shape, matrix.gates).to(dense.device, dense.dtype)
            matrix.put(weight.from_dense_(dense).requires_grad_(any(p.requires_grad for p in matrix.parameters())))
        return small


def _is_frozen(matrix: ModelMatrix) -> bool:
    return not any(p.requires_grad for p in matrix.parameters())
