"""A cell over a sequence by the native loop, forwards and backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...cells.base import AbstractCell
from . import _loop
from .gradient import differentiate
from .program import Buffer, Place, Program, Root
from .trace import Step
from .values import Value, ordered

# Cheap enough to be computed again on the way back rather than kept for every step.
CHEAP = frozenset("add sub mul neg abs relu where greater maximum minimum copy slice cat".split())


class NativeLoop:
    """The programs of one step: forwards, forwards keeping what the way back needs, and back.

    The states after step t stand at t + 1 of their stacks; where one of them is the output, its stack is that, too.
    """

    def __init__(self, step: Step):
        self.step = step
        inputs = {step.projected: Place("projected")}
        inputs |= {s: Place(f"state{i}") for i, s in enumerate(step.states)}
        inputs |= {v: Place(f"vector{v.key}") for v in step.vectors}
        pairs = list(enumerate(zip(step.after, step.states, strict=True)))
        roots = [Root(after, Place(f"state{i}", shift=1), before.width) for i, (after, before) in pairs]
        self.output_state = next((i for i, v in enumerate(step.after) if v is step.output), None)
        if self.output_state is None:
            roots.append(Root(step.output, Place("output"), step.output.width))
        self.forward = Program(roots, inputs)

        grad_output = step.graph.value("grad", width=step.output.width, key="output")
        grads = [step.graph.value("grad", width=s.width, key=i) for i, s in enumerate(step.states)]
        ends = [(step.output, grad_output), *zip(step.after, grads, strict=True)]
        gradient = differentiate(step.graph, ends, step.projected, step.states)
        self.matrices = gradient.matrices
        own = set(ordered(v for v, _ in ends))
        self.stacks = dict(inputs)
        for root in roots:
            self.stacks.setdefault(root.value, root.place)
        self.kept = self._choose_kept(own, [gradient.projected, *gradient.states, *gradient.vectors.values()])
        self.stacks |= {v: Place(name) for name, v in self.kept.items()}
        self.recording = Program([*roots, *(Root(v, Place(n), v.width) for n, v in self.kept.items())], inputs)

        there = {**self.stacks, grad_output: Place("grad_output")}
        there |= {g: Place(f"grad{i}") for i, g in enumerate(grads)}
        self.stacks[grad_output] = Place("grad_output")
        back = [Root(gradient.projected, Place("grad_projected"), step.projected.width)]
        self.made = {}
        for value in {v: None for _, *both in self.matrices for v in both}:
            if not self._is_stack(value) and not _holds(gradient.projected, value):
                self.made[f"product{len(self.made)}"] = value
        back += [Root(v, Place(name), v.width) for name, v in self.made.items()]
        back += [
            Root(g, Place(f"grad{i}"), v.width, late=True)
            for i, (g, v) in enumerate(zip(gradient.states, grads, strict=True))
        ]
        self.summed = list(gradient.vectors)
        self.backward = Program(back, there, gradient.vectors.values())
        for value in {v: None for _, *both in self.matrices for v in both}:
            if not self._is_stack(value):
                self.stacks[value] = self.backward.places[value]

    def _choose_kept(self, own: set[Value], back: list[Value]) -> dict[str, Value]:
        """What the gradient needs of the step, but for what is cheap to make again or must be there for a product."""
        kept = [v.args[0] if v.op == "slice" else v for _, *both in self.matrices for v in both]
        kept = [v for v in dict.fromkeys(kept) if v in own and v not in self.stacks]
        sources = [*back, *(v for _, *both in self.matrices for v in both)]

        def found(value: Value) -> bool:
            return value in self.stacks or value in kept or (value in own and value.op not in CHEAP)

        needed = [v for v in ordered(sources, found) if v in own and v.op not in CHEAP and v.args]
        kept = dict.fromkeys([*kept, *(v for v in needed if v not in self.stacks)])
        return {f"kept{i}": v for i, v in enumerate(kept)}

    def _is_stack(self, value: Value) -> bool:
        return value in self.stacks or (value.op == "slice" and value.args[0] in self.stacks)

    def run(
        self, cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        vectors, matrices = self.step.prepare(cell)
        output, *after = _Loop.apply(self, torch.is_grad_enabled(), projected, *states, *vectors, *matrices)  # pyright: ignore
        return output, tuple(after)

    def stack(self, value: Value, buffers: dict[str, Tensor]) -> Tensor:
        """The value at all steps, (time, batch, width)."""
        if value not in self.stacks:
            (whole,) = value.args
            return self.stack(whole, buffers).narrow(-1, value.key, value.width)  # pyright: ignore
        place = self.stacks[value]
        tensor = buffers[str(place.buffer)]
        if str(place.buffer).startswith("state"):
            tensor = tensor[1:] if place.shift else tensor[:-1]
        return tensor.narrow(-1, place.start, value.width)


def _holds(whole: Value, part: Value) -> bool:
    """Whether `part` is made in its place within `whole`."""
    return whole is part or (whole.op == "cat" and any(_holds(p, part) for p in whole.args))


def _call(
    program: Program, buffers: dict[str, Tensor], matrices: list[Tensor], totals: list[np.ndarray], backwards: bool
) -> None:
    steps, rows = buffers["projected"].shape[:2]
    numbers = program.number_rows()
    table = program.table({n: Buffer.of(t) for n, t in buffers.items()}, numbers, matrices, totals)
    _loop.run(table, program.scratch, steps, rows, backwards, torch.get_num_threads(), "")


def _columns_together(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: NativeLoop, recording: bool, projected: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        count, many = len(loop.step.states), len(loop.step.vectors)
        states, vectors, matrices = rest[:count], rest[count : count + many], list(rest[count + many :])
        projected = _columns_together(projected)

        def stack(width: int, more: int = 0) -> Tensor:
            return projected.new_empty(projected.shape[0] + more, projected.shape[1], width)

        buffers = {"projected": projected} | {f"vector{i}": v.contiguous() for i, v in enumerate(vectors)}
        for i, state in enumerate(states):
            buffers[f"state{i}"] = stack(state.shape[-1], 1)
            buffers[f"state{i}"][0] = state
        if loop.output_state is None:
            buffers["output"] = stack(loop.step.output.width)
        if recording:
            buffers |= {name: stack(value.width) for name, value in loop.kept.items()}
            ctx.loop, ctx.names = loop, list(buffers)
            ctx.save_for_backward(*buffers.values(), *matrices)
            ctx.set_materialize_grads(False)
        _call(loop.recording if recording else loop.forward, buffers, matrices, [], False)
        output = buffers["output"] if loop.output_state is None else buffers[f"state{loop.output_state}"][1:]
        return output, *(buffers[f"state{i}"][-1].clone() for i in range(count))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, *grad_states: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        loop: NativeLoop = ctx.loop
        buffers = dict(zip(ctx.names, ctx.saved_tensors, strict=False))
        matrices = list(ctx.saved_tensors[len(ctx.names) :])
        projected = buffers["projected"]
        steps, rows = projected.shape[:2]
        if grad_output is None:
            grad_output = projected.new_zeros(1, 1, loop.step.output.width).expand(steps, rows, -1)
        buffers["grad_output"] = _columns_together(grad_output)
        for i, (grad, state) in enumerate(zip(grad_states, loop.step.states, strict=True)):
            buffers[f"grad{i}"] = projected.new_zeros(rows, state.width)
            if grad is not None:
                buffers[f"grad{i}"].copy_(grad)
        buffers["grad_projected"] = projected.new_empty(projected.shape)
        buffers |= {name: projected.new_empty(steps, rows, v.width) for name, v in loop.made.items()}
        totals = [np.zeros(v.width) for v in loop.backward.sums]
        _call(loop.backward, buffers, matrices, totals, True)
        sums = {k: torch.from_numpy(t).to(projected) for k, t in zip(loop.summed, totals, strict=True)}
        products: dict[int, Tensor] = {}
        for number, left, right in loop.matrices:
            # all steps at once: one product of two long matrices
            share = loop.stack(left, buffers).flatten(0, 1).mT @ loop.stack(right, buffers).flatten(0, 1)
            products[number] = share if number not in products else products[number].add_(share)
        return (
            *(None, None, buffers["grad_projected"]),
            *(buffers[f"grad{i}"] for i in range(len(grad_states))),
            *(sums.get(v.key) for v in loop.step.vectors),  # pyright: ignore
            *(products.get(i) for i in range(len(matrices))),
        )
