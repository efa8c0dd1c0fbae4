"""Group lasso over intrinsic sparse structures: learn which hidden units a recurrent network can do without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import invalid
from ..graph.follow import follow
from ..graph.trace import as_inputs, beside
from ..graph.units import find_units
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from . import surgery
from .dry_run import dry_run
from .groups import find_groups
from .optimizer import move_optimizer_
from .report import PruneReport, report


class GroupLasso:
    """Drives whole hidden units to zero while the model trains, so that they can be cut out exactly.

    The group of unit k of a layer is everything attached to it: the rows of all gates that write it, the column of the
    hidden matrix and the columns of every other weight that read it; biases are outside the group but go with the
    unit. With `norm_k` the Euclidean norm of the group:

    - `strength=s` (the paper's update): `penalty()` is `s * sum_k norm_k`, added to the loss; `step` sets every entry
      of a group below `threshold` to zero. A strength belongs to a loss reduction: the paper's 2.45e-3 is for a loss
      summed over 35 time steps; with a mean over tokens use `2.45e-3 / 35`, or say `loss_steps=35`.
    - `keep=f, steps=n` (a size schedule): the units of each layer are ranked by the norm of what reads them; the share
      `f + (1 - f) (1 - t/n)^3` of them is left in peace at step t, and what makes the others felt is multiplied by
      `decay` each step. A unit may rank back until step n; from then on the rest stays zero.

    A unit whose readers cannot all be named (its sum with something else is read, or it is an output of the model)
    is faded by its incoming weights and biases instead, until it is written as exactly zero.

    Args:
        model: any module with nn.LSTM, nn.GRU, nn.RNN, `cr.LSTM`, ... `cr.Recurrent` inside; its weights are changed by
            `step`. A weight whose structure cannot lose single rows and columns (a Kronecker product) gets masks
            around it, and becomes dense when it is cut.
        example_inputs: a tensor or tuple of tensors as the model takes them, without initial states.
        keep: fraction of the units of each layer to keep, in (0, 1]; needs `steps`.
        steps: length of the size schedule in optimiser steps.
        strength: weight of the penalty, >= 0; excludes `keep`.
        loss_steps: number of time steps that the loss, to which `strength` belongs, is summed over.
        threshold: entries of groups below it become zero after each step (with `strength`).
        decay: factor per step for what is being driven out (with `keep`).
        minimum: units that every layer keeps at least.

    Raises:
        ValueError: for arguments out of range.
        UnsupportedModelError: when the model cannot be followed.

    Source: W. Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory, ICLR 2018. The size
    schedule is cubic as in M. Zhu and S. Gupta, To prune, or not to prune, 2017.

    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> model, x = Tagger(), torch.randn(2, 5, 4)
    >>> pruner = cr.GroupLasso(model, x, keep=0.25, steps=20)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     loss = model(x).square().mean() + pruner.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step(optimizer)
    >>> pruner.shrink().lstm.hidden_size
    4
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        keep: float | None = None,
        steps: int | None = None,
        strength: float | None = None,
        loss_steps: int = 1,
        threshold: float = 1e-4,
        decay: float = 0.9,
        minimum: int = 1,
    ):
        if (keep is None) == (strength is None):
            raise invalid(
                "GroupLasso", got=f"keep={keep}, strength={strength}", wanted="one of keep (with steps) and strength"
            )
        if keep is not None and (not 0 < keep <= 1 or steps is None or steps < 1):
            raise invalid("keep, steps", got=f"{keep}, {steps}", wanted="keep in (0, 1] and steps, a positive int")
        if strength is not None and (not strength >= 0 or steps is not None):
            raise invalid("strength, steps", got=f"{strength}, {steps}", wanted="strength >= 0, and no steps")
        if not 0 <= decay < 1 or not threshold >= 0 or loss_steps < 1 or minimum < 1:
            raise invalid(
                "decay, threshold, loss_steps, minimum",
                got=f"{decay}, {threshold}, {loss_steps}, {minimum}",
                wanted="decay in [0, 1), threshold >= 0, loss_steps >= 1, minimum >= 1",
            )
        self.model = model
        self.example_inputs = beside(model, as_inputs(example_inputs))
        self.keep, self.steps, self.decay, self.minimum = keep, steps or 0, decay, minimum
        self.strength = None if strength is None else strength / loss_steps
        self.threshold = threshold
        _mask_(model)
        self._trace = follow(model, self.example_inputs)
        self._units = find_units(self._trace, self.example_inputs)
        self._units = dry_run(model, self._trace, self._units, self.example_inputs)
        self.groups = find_groups(model, self._trace, self._units)
        self.count = 0
        self._out = [torch.zeros(g.count, dtype=torch.bool, device=g.device) for g in self.groups]

    def penalty(self) -> Tensor:
        """`strength * sum of norms` as a scalar to add to the loss; zero under a size schedule."""
        if not self.strength:
            return torch.zeros((), device=self.groups[0].device)
        norms = [(g.squares() + 1e-8).sqrt().sum().to(self.groups[0].device) for g in self.groups]
        return self.strength * torch.stack(norms).sum()

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`: threshold, or fade what ranks beyond the schedule."""
        self.count += 1
        if self.strength is not None:
            for part in {id(p.weight): p for g in self.groups for p in (*g.writers, *g.readers)}.values():
                for tensor in part.weight.parameters() if isinstance(part.weight, nn.Module) else (part.weight,):
                    tensor.mul_(tensor.abs() > self.threshold)
            return
        if self.count <= self.steps:
            self._out = self._rank()
        factor = self.decay if self.count < self.steps else 0.0
        for group, out in zip(self.groups, self._out, strict=True):
            group.fade_(torch.where(out.to(group.device), factor, 1.0))

    def fraction(self) -> float:
        """The fraction of units that the schedule leaves in peace at this step."""
        assert self.keep is not None
        return self.keep + (1 - self.keep) * (1 - min(self.count / self.steps, 1)) ** 3

    def _rank(self) -> list[Tensor]:
        """Which units of each layer rank beyond the schedule. One ranking for all layers would empty the last one."""
        ranked = []
        for group in self.groups:
            spared = max(round(self.fraction() * group.count), self.minimum)
            order = group.importance().argsort(descending=True, stable=True)
            ranked.append(order.argsort() >= spared)
        return ranked

    def report(self) -> PruneReport:
        """What would be left if the model were shrunk now; see `PruneReport`."""
        return report(self.model, self.groups, self._shrink()[0])

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A new, smaller model with the same outputs; `optimizer`, if given, goes on with it, its moments cut likewise.

        Needs no training step. Layers are narrowed where every reader can be cut too, else narrowed inside and their
        output scattered to the old width. Outputs on the example are compared in float64 before it is returned.
        """
        small, plan = self._shrink()
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, small, lambda model: surgery.apply(plan, model))
        return small

    def _shrink(self) -> tuple[nn.Module, surgery.Plan]:
        return surgery.shrink(self.model, self._trace, self.groups, self._units, self.example_inputs)

    def state_dict(self) -> dict[str, Tensor]:
        """The schedule's position and the units on their way out, as tensors."""
        out = {f"out.{g.name}": o.clone() for g, o in zip(self.groups, self._out, strict=True)}
        return {"count": torch.tensor(self.count), **out}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()` of a pruner on the same model."""
        names = {"count", *(f"out.{g.name}" for g in self.groups)}
        if names != set(state):
            raise invalid("pruner state", got=sorted(state), wanted=f"{sorted(names)}")
        self.count = int(state["count"])
        self._out = [state[f"out.{g.name}"].bool().clone() for g in self.groups]


def _mask_(model: nn.Module) -> None:
    """Wrap every weight that cannot scale its rows and columns exactly; its parameters stay the same objects."""
    masked: dict[AbstractWeight, MaskedWeight] = {}  # a weight may be shared
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, AbstractWeight) and type(child).scale_ is AbstractWeight.scale_:
                if child not in masked:
                    masked[child] = MaskedWeight(child)
                parent._modules[name] = masked[child]
