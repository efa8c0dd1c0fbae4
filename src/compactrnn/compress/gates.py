"""Trainable gates: a number per unit that multiplies the unit wherever it is read."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class AbstractGate(nn.Module, ABC):
    """`forward()` gives the gates, (count,); in eval mode always the same ones.

    Its parameters become parameters of the model. All places that a gate multiplies call it, so a gate that draws
    random numbers in train mode draws them elsewhere (in `AbstractPruningMethod.step_`) and keeps them in a buffer.
    """

    @abstractmethod
    def forward(self) -> Tensor:
        """The gate of each unit, (count,)."""

    @torch.no_grad()
    def part(self, kept: Tensor) -> AbstractGate:
        """A gate of the units `kept`: a copy whose tensors with an entry for each unit have those of these."""
        count, part = len(self()), copy.deepcopy(self)
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.shape[:1] == (count,):
                tensor.data = tensor.data[kept.to(tensor.device)].clone()
                tensor.grad = None
        return part


class Gated(nn.Module):
    """`W = g * V`, a parametrization: slice i of V along `axis` is multiplied by gate `places[i]`, by 1 for -1."""

    places: Tensor

    def __init__(self, gate: AbstractGate, axis: int, places: Tensor):
        super().__init__()
        self.gate, self.axis = gate, axis
        self.register_buffer("places", places.clone(), persistent=False)

    def is_on(self, axis: int, slices: Tensor) -> bool:
        """Whether any of `slices`, a mask along `axis`, is multiplied by the gate."""
        return axis == self.axis and bool((self.places[slices.to(self.places.device)] >= 0).any())

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate().to(x)
        factors = torch.cat([gates, gates.new_ones(1)]).index_select(0, self.places % (len(gates) + 1))
        return x * factors.view([-1 if d == self.axis else 1 for d in range(x.dim())])


def gated_by(owner: nn.Module, name: str) -> list[Gated]:
    """The gates on tensor `name` of `owner`."""
    if not parametrize.is_parametrized(owner, name):
        return []
    return [p for p in owner.parametrizations[name] if isinstance(p, Gated)]  # pyright: ignore


@contextlib.contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Gates and parametrizations in eval mode: gates draw no random numbers, spectral norm goes on no estimate."""
    training = module.training
    try:
        module.eval()
        yield
    finally:
        module.train(training)


def without_gates(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module`, but for those of gates."""
    gates = {id(p) for m in module.modules() if isinstance(m, AbstractGate) for p in m.parameters()}
    return [p for p in module.parameters() if id(p) not in gates]
