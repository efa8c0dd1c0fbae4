"""A batch of sequences with targets and lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from .._errors import invalid


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, batch first: `inputs` (batch, time, ...), `targets` (batch, ...).

    `lengths`, int64 (batch,) on the CPU, says how many steps of each sequence are its own; what follows is padding,
    which no loss, metric or state depends on. None: all sequences are as long as the time axis.

    >>> batch = Batch(torch.zeros(2, 5, 3), torch.zeros(2, 5), torch.tensor([5, 2]))
    >>> batch.steps(), batch.within(batch.inputs).shape
    (7, torch.Size([7, 3]))
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __post_init__(self):
        count, lengths = len(self.inputs), self.lengths
        if len(self.targets) != count:
            raise invalid("batch", got=f"{count} inputs and {len(self.targets)} targets", expected="a target each")
        if lengths is None:
            return
        if lengths.shape != (count,) or lengths.dtype != torch.int64 or lengths.device.type != "cpu":
            got = f"{lengths.dtype} {tuple(lengths.shape)} on {lengths.device}"
            raise invalid("lengths", got=got, expected=f"torch.int64 ({count},) on cpu")
        steps = self.inputs.shape[1]
        if count and not 1 <= int(lengths.min()) <= int(lengths.max()) <= steps:
            got = f"{int(lengths.min())} to {int(lengths.max())}"
            raise invalid("lengths", got=got, expected=f"1 to {steps}, the steps of the inputs")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> Self:
        """The same on `device`; lengths stay on the CPU, where they are read."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def rows(self, start: int, stop: int) -> Self:
        """The sequences from `start` up to `stop`."""
        lengths = None if self.lengths is None else self.lengths[start:stop]
        return replace(self, inputs=self.inputs[start:stop], targets=self.targets[start:stop], lengths=lengths)

    def steps(self) -> int:
        """Time steps of all sequences together, without padding."""
        return self.inputs.shape[0] * self.inputs.shape[1] if self.lengths is None else int(self.lengths.sum())

    def within(self, values: Tensor) -> Tensor:
        """`values` (batch, time, ...) at the steps that are no padding, one sequence after the other: (steps, ...)."""
        if self.lengths is None:
            return values.flatten(0, 1)
        return values[(torch.arange(values.shape[1]) < self.lengths[:, None]).to(values.device)]
