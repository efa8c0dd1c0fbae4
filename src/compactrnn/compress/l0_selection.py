"""Selecting units by hard concrete gates: under an L0 penalty, or down to a given size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from .expected_size import ExpectedSize
from .groups import Group
from .hard_concrete import LARGEST, SHIFT, HardConcrete
from .method import AbstractPruningMethod
from .sizes import counts

DELAY, REACHED = 0.1, 0.7  # parts of the schedule: before them the size stays as it is, after them it is the target
PACE = 30.0  # how far log_alpha moves in a schedule by a pull of 1
LARGEST_PULL = 1.0  # of the size before the target is reached: a harder one would leave importance no say
INTEGRAL, PROPORTIONAL = 330.0, 33.0  # gains of the multiplier for an error of the size in a schedule of length 1
MOMENTUM = 0.9
RARE = 0.06  # a chance to be active of gates as far down as they go: they were there before, and would come back slowly
CLOSE = 0.995  # to the size that is asked for, so that no more units are tried


class L0Selection(AbstractPruningMethod):
    """Multiplies every unit by a hard concrete gate, and lets the expected size of the gated model shrink.

    With `strength` the penalty `strength * E[size] / size` is added to the loss, and the optimizer trains the gates:
    the published method. With a `fraction` the size is a constraint: after each of the optimizer's steps the method
    moves the gates itself,

        log_alpha -= PACE / steps * (d / rms(d) + multiplier * c / mean |c|)

    d being the gradient of the loss, c that of the expected size; the multiplier grows while the size is above the one
    that is scheduled, and falls below it. So there is no strength to be found. At step `steps` the units with the
    largest gates that together have that size stay, and from then on gates are constant.

    Args:
        kind: what is counted, see `ExpectedSize`.
        total: the size of the model as it is; of units, those that may be cut are counted.
        fraction: the size that is to be left, as a part of it.

    Raises:
        ValueError: an argument out of range, or a size that cannot be reached.
    """

    def __init__(
        self, kind: str, total: int = 0, *, strength: float | None = None, fraction: float | None = None, steps: int = 0
    ):
        super().__init__()
        if strength is not None and not strength >= 0:
            raise invalid("strength", got=strength, expected="a number >= 0")
        if fraction is not None:
            check_positive(steps, "steps")
        self.kind, self.total, self.strength, self.fraction, self.steps = kind, total, strength, fraction, steps
        self.advice = "train longer, or with a larger strength" if strength else ""
        self.trains_gates = fraction is not None
        self.state = {"multiplier": torch.zeros(()), "scale": torch.zeros(())}
        self._expected: ExpectedSize | None = None
        self._whole = 0.0  # the size before anything is cut

    def setup(self, groups: list[Group]) -> None:
        """Refuse a size that is not left even when each layer keeps one unit."""
        groups = [group for group in groups if not group.left_alone]
        self._whole = sum(group.count for group in groups) if self.kind == "units" else self.total
        if self.fraction is None or self.kind == "units" or not groups:
            return
        one = [torch.nn.functional.one_hot(torch.tensor(0), group.count).float() for group in groups]
        least = float(self._sizes(groups).of(one))
        if least > self.fraction * self.total:
            scale = 4 if self.kind == "parameters" else 1
            name = "bytes" if self.kind == "parameters" else self.kind
            got = round(scale * self.fraction * self.total)
            raise invalid(
                name, got=got, expected=f"at least {math.ceil(scale * least)}, which one unit in each layer has"
            )

    def new_gate(self, group: Group) -> HardConcrete:
        return HardConcrete(group.count)

    def expected_size(self, groups: Sequence[Group]) -> Tensor:
        """The expected size of the model, differentiable in the gates."""
        sizes = self._sizes(groups)
        return sizes.of([gate.active().cpu() for gate in sizes.gates])

    def penalty(self, groups: list[Group]) -> Tensor:
        """`strength * E[size] / size`; zero for a given fraction, to which `step_` leads."""
        if self.strength is None or not groups:
            return super().penalty(groups)
        return (self.strength * self.expected_size(groups) / self._whole).to(groups[0].device)

    @torch.no_grad()
    def step_(self, groups: list[Group], count: int) -> None:
        """Move the gates towards the size of step `count`, and draw new ones."""
        gates = self._sizes(groups).gates if groups else []
        if self.fraction is not None and count <= self.steps and gates:
            self._move(groups, gates, count)
            if count == self.steps:
                self._settle(groups, gates)
        for gate in gates:
            gate.draw_()

    def given_up(self, group: Group) -> Tensor:
        """Those whose gates are as good as never open."""
        gate = group.gate
        if not isinstance(gate, HardConcrete):
            return super().given_up(group)
        return gate.active().detach().cpu() < RARE

    def shrunk(self, model: nn.Module) -> None:
        """Count what the smaller model has."""
        parameters, _, products = counts(model)
        self.total, self._expected = parameters if self.kind == "parameters" else products, None

    def scheduled(self, count: int) -> float:
        """The size at step `count`, as a part of the whole."""
        assert self.fraction is not None
        t = min(max((count / self.steps - DELAY) / (REACHED - DELAY), 0.0), 1.0)
        return self.fraction + (1 - self.fraction) * (1 - t) ** 3

    def _move(self, groups: Sequence[Group], gates: Sequence[HardConcrete], count: int) -> None:
        with torch.enable_grad():
            alphas = [gate.position.clone().requires_grad_() for gate in gates]
            sizes = self._sizes(groups)
            size = sizes.of([torch.sigmoid(a.cpu() - SHIFT) for a in alphas]) / self._whole
            pull = torch.autograd.grad(size, alphas)
        push = [torch.zeros_like(g.log_alpha) if g.log_alpha.grad is None else g.log_alpha.grad for g in gates]
        square = torch.cat([d.float().cpu() for d in push]).square().mean()
        known = self.state["scale"]
        known.copy_(square if known == 0 else MOMENTUM * known + (1 - MOMENTUM) * square)
        error = float(size) - self.scheduled(count)
        multiplier, most = self.state["multiplier"], LARGEST_PULL if count < REACHED * self.steps else math.inf
        if float(multiplier) + PROPORTIONAL * error < most:
            multiplier.add_(INTEGRAL / self.steps * error).clamp_(min=0)
        strength = min(max(0.0, float(multiplier) + PROPORTIONAL * error), most)
        mean = torch.cat([c.cpu() for c in pull]).abs().mean().clamp_min(1e-12)
        for gate, d, c in zip(gates, push, pull, strict=True):
            gate.momentum.lerp_(d / known.sqrt().clamp_min(1e-20).to(d), 1 - MOMENTUM)
            moved = gate.momentum + strength * c / mean.to(c)
            gate.move_(-PACE / self.steps * moved)

    def _settle(self, groups: Sequence[Group], gates: Sequence[HardConcrete]) -> None:
        """Keep units of the size that is asked for, those with the largest gates first.

        Where the next one is too large, those after it that still fit stay in its place.
        """
        alphas = torch.cat([gate.log_alpha.detach().cpu() for gate in gates])
        counts, sizes = [len(gate.log_alpha) for gate in gates], self._sizes(groups)
        assert self.fraction is not None
        target = self.fraction * self._whole
        first = [torch.nn.functional.one_hot(a.argmax(), len(a)) for a in alphas.split(counts)]  # stays in each layer
        order = (alphas + torch.cat(first) * 4 * LARGEST).argsort(descending=True)

        def size(mask: Tensor) -> float:
            return float(sizes.of([part.float() for part in mask.split(counts)]))

        def largest(number: int) -> Tensor:
            return torch.zeros(len(alphas), dtype=torch.bool).index_fill(0, order[:number], True)

        least, most = len(counts), len(alphas)
        while least < most:
            middle = (least + most + 1) // 2
            if size(largest(middle)) <= target:
                least = middle
            else:
                most = middle - 1
        kept = largest(least)
        for unit in order[least + 1 :].tolist():
            if size(kept) > CLOSE * target:
                break
            kept[unit] = True
            kept[unit] = size(kept) <= target
        for group, gate, mask in zip(groups, gates, kept.split(counts), strict=True):
            gate.settle_(mask)
            self.pruned[group.name] = ~mask.to(group.device)

    def progress(self, count: int) -> str:
        """The position in the schedule, or how long the penalty has been applied."""
        if self.fraction is None:
            return f"{count} steps with strength {self.strength:g}"
        return f"step {count} of {self.steps} of the schedule"

    def _sizes(self, groups: Sequence[Group]) -> ExpectedSize:
        known = self._expected
        if known is None or list(map(id, known.groups)) != list(map(id, groups)):
            known = self._expected = ExpectedSize(self.kind, groups, self.total)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_expected": None}  # a copy has groups of its own
