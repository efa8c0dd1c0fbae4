"""Slices of a weight that belong to units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..weights.base import AbstractWeight
from .computed import Computed, Stored


@dataclass
class Part:
    """Slices along `axis` of a matrix: slice i belongs to unit `units[i]` of the group, or to none (-1).

    `inside` says that the matrix belongs to a layer of the group.
    """

    weight: Stored
    axis: int
    units: Tensor
    inside: bool = False

    @property
    def frozen(self) -> bool:
        """Whether the optimizer may not change it."""
        return not all(t.requires_grad for t in self.tensors())

    def tensors(self) -> list[Tensor]:
        """The parameters (or tensors) that the matrix is made of."""
        return [self.weight] if isinstance(self.weight, Tensor) else list(self.weight.parameters())

    def units_on(self, device: torch.device) -> Tensor:
        """`units` where the weight is now: a model may be moved after its groups were found."""
        if self.units.device != device:
            self.units = self.units.to(device)
        return self.units

    def matrix(self) -> Tensor:
        """The matrix (or kernel) itself."""
        if isinstance(self.weight, Computed):
            return self.weight.value()
        return self.weight.dense() if isinstance(self.weight, AbstractWeight) else self.weight

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

    @torch.no_grad()
    def threshold_(self, threshold: float) -> None:
        """Set to zero every entry below `threshold`; of what is computed, the slices that are below it as a whole."""
        if not isinstance(self.weight, Computed):
            for tensor in self.tensors():
                tensor.mul_(tensor.abs() > threshold)
            return
        largest = self.matrix().abs().movedim(self.axis, 0).flatten(1).amax(1)
        self.weight.scale_(self.axis, (largest > threshold).to(largest))
