"""Slices of a weight that belong to hidden units: to measure, scale, threshold and gate them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graph.carriers import carriers, identity
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from .computed import Computed, Stored
from .gates import AbstractGate, Gated, gated_by, in_eval_mode, without_gates
from .gating import gate_tensor_, gate_weight_


@dataclass
class Part:
    """Slices along `axis` of a matrix: slice i belongs to unit `units[i]` of the group, or to none (-1).

    `inside` says that the matrix belongs to a layer of the group, `recurrent` that it belongs to a recurrent layer,
    `repeated` that a part before it in the same list has the same slices of the same parameters: to scale that one is
    enough. A gate on the part multiplies slice i by the gate of its unit.
    """

    weight: Stored
    axis: int
    units: Tensor
    inside: bool = False
    recurrent: bool = False
    repeated: bool = False

    def same_as(self, other: Part) -> bool:
        """Whether both are the same slices of the same weight."""
        alike = self.axis == other.axis and identity(self.weight) == identity(other.weight)
        return alike and torch.equal(self.units, other.units)

    @property
    def frozen(self) -> bool:
        """Whether the optimizer may not change it."""
        return not all(t.requires_grad for t in self.tensors())

    def tensors(self) -> list[Tensor]:
        """The parameters (or tensors) that the matrix is made of, without those of gates."""
        if isinstance(self.weight, MaskedWeight):
            return list(without_gates(self.weight))
        return [self.weight] if isinstance(self.weight, Tensor) else list(self.weight.parameters())

    def carriers(self) -> tuple[int, ...]:
        """The identities of the tensors of which the slices are cut."""
        return carriers(self.weight, self.axis)

    def units_on(self, device: torch.device) -> Tensor:
        """`units` where the weight is now: a model may be moved after its groups were found."""
        if self.units.device != device:
            self.units = self.units.to(device)
        return self.units

    def matrix(self) -> Tensor:
        """The matrix (or kernel) itself."""
        if isinstance(self.weight, Computed):
            return self.weight.value()
        if isinstance(self.weight, AbstractWeight):
            with in_eval_mode(self.weight):
                return self.weight.dense()
        return self.weight

    def squares(self, count: int) -> Tensor:
        """Sum of squares per unit, (count,)."""
        matrix = self.matrix()
        sums = (matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix).square()
        if others := [d for d in range(sums.dim()) if d != self.axis]:
            sums = sums.sum(others)
        return self.sum_by_unit(sums, count)

    def sum_by_unit(self, sums: Tensor, count: int) -> Tensor:
        """What each slice adds to its unit, (count,)."""
        # the slices of no unit are added to a place of their own, which is then left out
        places = self.units_on(sums.device) % (count + 1)
        return sums.new_zeros(count + 1).index_add(0, places, sums).narrow(0, 0, count)

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> None:
        """Multiply the slices of unit k by `factors[k]` in place."""
        like = self.tensors()[0]
        factors = factors.to(like)
        places = self.units_on(like.device) % (len(factors) + 1)
        padded = torch.cat([factors, factors.new_ones(1)]).index_select(0, places)
        if isinstance(self.weight, AbstractWeight):
            self.weight.scale_(out=padded) if self.axis == 0 else self.weight.scale_(inp=padded)
        elif isinstance(self.weight, Computed):
            self.weight.scale_(self.axis, padded)
        else:
            self.weight.mul_(padded.view([-1 if d == self.axis else 1 for d in range(self.weight.dim())]))

    @property
    def gate(self) -> AbstractGate | None:
        """The gate on the part, if there is one."""
        axis, found = self.axis, []
        if isinstance(self.weight, MaskedWeight):
            axis, found = 0, gated_by(self.weight, "columns_kept" if self.axis else "rows_kept")
        elif isinstance(self.weight, Computed):
            found = gated_by(self.weight.module, self.weight.name)
        return next((gated.gate for gated in found if gated.is_on(axis, self.units >= 0)), None)

    def gate_(self, model: nn.Module, gate: AbstractGate, gated: Tensor) -> None:
        """Multiply the slices of the units in `gated`, (count,) bool, by their entries of `gate`.

        Raises:
            UnsupportedModelError: the weight has a factor in common with another one.
        """
        units = self.units.to(gated.device)
        places = torch.where((units >= 0) & gated[units], units, -1).to(self.tensors()[0].device)
        if isinstance(self.weight, AbstractWeight):
            gate_weight_(model, self.weight, self.axis, Gated(gate, 0, places))
        elif isinstance(self.weight, Computed):
            gate_tensor_(model, self.weight.module, self.weight.name, Gated(gate, self.axis, places))
        else:
            owner = next((m, n) for m in model.modules() for n, p in m._parameters.items() if p is self.weight)
            gate_tensor_(model, *owner, Gated(gate, self.axis, places))

    @torch.no_grad()
    def threshold_(self, threshold: float) -> None:
        """Set to zero every entry below `threshold`; of what is computed, the slices that are below it as a whole."""
        if not isinstance(self.weight, Computed):
            for tensor in self.tensors():
                tensor.mul_(tensor.abs() > threshold)
            return
        largest = self.matrix().abs().movedim(self.axis, 0).flatten(1).amax(1)
        self.weight.scale_(self.axis, (largest > threshold).to(largest))
