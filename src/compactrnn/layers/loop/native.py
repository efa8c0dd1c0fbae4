"""The native loop over time, forward and backward."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..._ordinary import why_not_native
from ...weights.products import columns_together, outer
from . import _loop  # pyright: ignore[reportAttributeAccessIssue]
from .gradient import Gradient, differentiate
from .loop_program import LoopBuffer, LoopProgram, Place, Root, parts_of
from .read_step import Line, Step
from .values import Value, evaluate, ordered

# Cheap enough to be computed again on the way back rather than kept for every step.
CHEAP = frozenset("add sub mul neg abs relu where greater maximum minimum copy slice cat spread".split())


class NativeLoop:
    """The programs of one step: forward, forward with saved values, and backward.

    The states after step t stand at t + 1 of their stacks; an output that is one of them has no stack of its own. The
    stack of a delay line of k rows has what step t pushed at t + k, so that its rows stand at the k places before that.
    """

    def __init__(self, step: Step):
        self.step = step
        inputs = {step.projected: Place("projected")}
        inputs |= {s: Place(f"state{i}") for i, s in enumerate(step.states) if i not in step.lines}
        inputs |= {row: place for row, place, _ in _rows(step, "state")}
        inputs |= {v: Place(f"vector{v.key}") for v in step.vectors}
        own = [i for i in range(len(step.states)) if i not in step.lines]
        ends = {i: (step.after[i], Place(f"state{i}", shift=1), step.states[i].width) for i in own}
        ends |= {i: (line.pushed, _end(line, f"state{i}"), line.width) for i, line in step.lines.items()}
        roots = [Root(*ends[i]) for i in sorted(ends)]
        self.outputs: list[tuple[str, int]] = []
        for value, width in zip(step.outputs, step.widths, strict=True):
            same = next((f"state{i}" for i in own if step.after[i] is value), None)
            name = same or f"output{len(self.outputs)}"
            self.outputs.append((name, width))
            roots += [] if same else [Root(value, Place(name), width)]
        self.forward = LoopProgram(roots, inputs)

        above = [step.graph.value("grad", width=n, key=f"output{i}") for i, n in enumerate(step.widths)]
        grads = {i: step.graph.value("grad", width=width, key=i) for i, (_, _, width) in ends.items()}
        late = {step.graph.value("grad", width=row.width, key=row.key): place for row, place, _ in _rows(step, "grad")}
        results = [*zip(step.outputs, above, strict=True), *((ends[i][0], grads[i]) for i in grads)]
        states = [*(step.states[i] for i in own), *(row for row, _, _ in _rows(step, "state"))]
        gradient = differentiate(step.graph, results, step.projected, states)
        self.scales = gradient.scales
        self.shares = [s for n, left, right in gradient.matrices for s in _shares(step, gradient, n, left, right)]
        factors = list(dict.fromkeys(value for share in self.shares for value in (share.left, share.right)))
        computed = set(ordered(v for v, _ in results))
        self.stacks = dict(inputs)
        for root in roots:
            if root.value.op != "number":  # which has no width
                self.stacks.setdefault(root.value, root.place)
        read = [gradient.projected, *gradient.states, *gradient.vectors.values()]
        self.kept = self._choose_kept(computed, factors, read)
        self.stacks |= {v: Place(name) for name, v in self.kept.items()}
        self.recording = LoopProgram([*roots, *(Root(v, Place(n), v.width) for n, v in self.kept.items())], inputs)

        self.stacks |= {g: Place(f"grad_output{i}") for i, g in enumerate(above)}
        there = {**self.stacks, **{grads[i]: Place(f"grad{i}") for i in own}, **late}
        there |= {grads[i]: _end(line, f"grad{i}") for i, line in step.lines.items()}
        back = [Root(gradient.projected, Place("grad_projected"), step.projected.width)]
        self.made = {}
        beside = {share.left: share.column for share in self.shares if share.column is not None}
        for value in factors:
            if not self._is_stack(value) and value not in beside:
                self.made[f"product{len(self.made)}"] = value
        back += [Root(v, Place(name), v.width) for name, v in self.made.items()]
        for i, share in zip(own, gradient.states, strict=False):
            back.append(Root(share, Place(f"grad{i}"), grads[i].width, late=True))
        for (row, place), share in zip(late.items(), gradient.states[len(own) :], strict=True):
            if share is not step.graph.number(0):  # added to what later steps have made of it
                back.append(Root(step.graph.apply("add", row, share), place, row.width))
        self.summed = list(gradient.vectors)
        self.backward = LoopProgram(back, there, gradient.vectors.values())
        for name, value in self.made.items():
            self.stacks[value] = Place(name)
        self.stacks |= {value: Place("grad_projected", column) for value, column in beside.items()}

    def _choose_kept(self, own: set[Value], factors: list[Value], back: list[Value]) -> dict[str, Value]:
        """Values to save for the backward pass; cheap ones are recomputed."""
        kept = [v.args[0] if v.op == "slice" else v for v in factors]
        kept = [v for v in dict.fromkeys(kept) if v in own and v not in self.stacks]
        sources = [*back, *factors]

        def found(value: Value) -> bool:
            return value in self.stacks or value in kept or (value in own and value.op not in CHEAP)

        order = ordered(sources, found)
        needed = [v for v in order if v in own and v.op not in CHEAP and v.args]
        kept = dict.fromkeys([*kept, *(v for v in needed if v not in self.stacks)])
        return {f"kept{i}": part for i, part in enumerate(p for v in kept for p in _read_columns(v, sources, order))}

    def _is_stack(self, value: Value) -> bool:
        return value in self.stacks or (value.op == "slice" and value.args[0] in self.stacks)

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs (time, batch, n) and last states."""
        recording = torch.is_grad_enabled()
        vectors = [v.contiguous() for v in vectors]
        results = _Loop.apply(self, recording, columns_together(projected), *states, *vectors, *matrices)
        count = len(self.step.outputs)
        return list(results[:count]), tuple(results[count:])  # pyright: ignore

    def state(self, number: int, buffers: dict[str, Tensor], step: int, buffer: str = "state") -> Tensor:
        """State `number`, or its gradient, before step number `step`."""
        tensor, line = buffers[f"{buffer}{number}"], self.step.lines.get(number)
        if line is not None:
            return _from_rows(tensor[step : step + len(line.rows)])
        return tensor if buffer == "grad" else tensor[step]

    def stack(self, value: Value, buffers: dict[str, Tensor]) -> Tensor:
        """The value at all steps, (time, batch, width)."""
        if value not in self.stacks:
            (whole,) = value.args
            return self.stack(whole, buffers).narrow(-1, value.key, value.width)  # pyright: ignore
        place = self.stacks[value]
        tensor = buffers[str(place.buffer)]
        if str(place.buffer).startswith("state"):
            tensor = tensor.narrow(0, place.shift, len(buffers["projected"]))
        return tensor.narrow(-1, place.start, value.width)


class Share(NamedTuple):
    """Part of a matrix's gradient, from row `first` on: the sum over rows and time of `outer(left, right)`.

    `left` begins at `column` of the gradient of the projection, or is not computed there.
    """

    matrix: int
    first: int
    left: Value
    right: Value
    column: int | None


def _shares(step: Step, gradient: Gradient, matrix: int, left: Value, right: Value) -> list[Share]:
    """The gradient by what stands side by side in that of the projection already, and the rest."""
    runs: list[tuple[int, int | None, list[tuple[Value, int]]]] = []
    for part, start in parts_of(left) if left.op == "cat" else [(left, 0)]:
        column = _column(gradient.projected, part)
        if runs:
            first, before, parts = runs[-1]
            if column == (None if before is None else before + start - first):
                parts.append((part, part.width))
                continue
        runs.append((start, column, [(part, part.width)]))
    return [Share(matrix, first, step.graph.cat(parts), right, column) for first, column, parts in runs]


def _column(whole: Value, part: Value) -> int | None:
    """Where `part` begins that is computed in place within `whole`."""
    if whole is part:
        return 0
    for inner, start in parts_of(whole) if whole.op == "cat" else []:
        if (column := _column(inner, part)) is not None:
            return start + column
    return None


def _read_columns(value: Value, sources: list[Value], order: list[Value]) -> list[Value]:
    """What is read of a value: some slices, or all of it."""
    readers = [v for v in order if value in v.args]
    few = sum(v.width for v in readers) < value.width and value not in sources
    return readers if few and all(v.op == "slice" for v in readers) else [value]


def _rows(step: Step, buffer: str) -> list[tuple[Value, Place, int]]:
    """The rows of all delay lines, where they stand in `buffer`, and the number of the state."""
    return [
        (row, Place(f"{buffer}{i}", shift=len(line.rows) - 1 - age), i)
        for i, line in step.lines.items()
        for age, row in enumerate(line.rows)
    ]


def _end(line: Line, buffer: str) -> Place:
    return Place(buffer, shift=len(line.rows))


def _to_rows(line: Tensor, count: int) -> Tensor:
    """A delay line, (batch, count * n), as (count, batch, n) with the oldest row first, as stacks have it."""
    return line.unflatten(-1, (count, -1)).transpose(0, 1).flip(0)


def _from_rows(rows: Tensor) -> Tensor:
    return rows.flip(0).transpose(0, 1).flatten(1)


@functools.cache
def _keep_memory() -> None:
    """Let the C library keep what a training step frees for the next one, once in a process.

    glibc gives free memory back to the system, and the next step pays for the page faults, a fifth of its time where
    layers are small. It learns from the largest block freed so far: below that size it takes blocks from its heap, of
    which it keeps twice as much, 32 MiB and 64 MiB at most (mallopt(3), M_MMAP_THRESHOLD). The block is never written
    to, and so takes no memory.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _call(
    program: LoopProgram,
    buffers: dict[str, Tensor],
    matrices: list[Tensor],
    totals: list[np.ndarray],
    backwards: bool,
    exact: bool = False,
) -> None:
    steps, rows = buffers["projected"].shape[:2]
    table = program.table({n: LoopBuffer.of(t) for n, t in buffers.items()}, matrices, totals)
    threads, isa = torch.get_num_threads(), os.environ.get("CRNN_ISA", "")
    _loop.run(table, program.scratch, steps, rows, backwards, threads, exact, isa)


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loop: NativeLoop, recording: bool, projected: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        count, many = len(loop.step.states), len(loop.step.vectors)
        states, vectors, matrices = rest[:count], rest[count : count + many], list(rest[count + many :])

        def stack(width: int, more: int = 0) -> Tensor:
            return projected.new_empty(projected.shape[0] + more, projected.shape[1], width)

        buffers = {"projected": projected} | {f"vector{i}": v for i, v in enumerate(vectors)}
        for i, state in enumerate(states):
            line = loop.step.lines.get(i)
            buffers[f"state{i}"] = stack(state.shape[-1], 1) if line is None else stack(line.width, len(line.rows))
            if line is None:
                buffers[f"state{i}"][0] = state
            else:
                buffers[f"state{i}"][: len(line.rows)] = _to_rows(state, len(line.rows))
        buffers |= {name: stack(width) for name, width in loop.outputs if name not in buffers}
        if recording:
            widths = [value.width for value in loop.kept.values()]
            buffers |= zip(loop.kept, stack(sum(widths)).split(widths, -1), strict=True)
            # the caller may overwrite a state that has no gradient; its copy stays
            states = [s if ctx.needs_input_grad[3 + i] else loop.state(i, buffers, 0) for i, s in enumerate(states)]
            ctx.loop, ctx.names = loop, list(buffers)
            _keep_memory()
            ctx.save_for_backward(*buffers.values(), *states, *matrices)
            ctx.set_materialize_grads(False)
        _call(loop.recording if recording else loop.forward, buffers, matrices, [], False, loop.step.exact)
        outputs = [buffers[name][1:] if name.startswith("state") else buffers[name] for name, _ in loop.outputs]
        return *outputs, *(loop.state(i, buffers, len(projected)).clone() for i in range(count))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        loop: NativeLoop = ctx.loop
        grad_states = grads[len(loop.step.outputs) :]
        saved = ctx.saved_tensors
        names, count, many = len(ctx.names), len(loop.step.states), len(loop.step.vectors)
        buffers = dict(zip(ctx.names, saved, strict=False))
        states, matrices = saved[names : names + count], list(saved[names + count :])
        projected = buffers["projected"]
        if torch.is_grad_enabled() or why_not_native(g for g in grads if g is not None):
            vectors = [buffers[f"vector{i}"] for i in range(many)]
            inputs = [projected, *states, *vectors, *matrices]
            return None, None, *recomputed(loop.step, inputs, ctx.needs_input_grad[2:], grads)
        steps, rows = projected.shape[:2]
        for i, (grad, width) in enumerate(zip(grads, loop.step.widths, strict=False)):
            nothing = projected.new_zeros(1, 1, width).expand(steps, rows, -1)
            buffers[f"grad_output{i}"] = nothing if grad is None else columns_together(grad)
        for i, (grad, state) in enumerate(zip(grad_states, loop.step.states, strict=True)):
            if line := loop.step.lines.get(i):
                length = len(line.rows)
                buffers[f"grad{i}"] = projected.new_zeros(steps + length, rows, line.width)
                if grad is not None:
                    buffers[f"grad{i}"][steps:] = _to_rows(grad, length)
                continue
            buffers[f"grad{i}"] = projected.new_zeros(rows, state.width)
            if grad is not None:
                buffers[f"grad{i}"].copy_(grad)
        buffers["grad_projected"] = projected.new_empty(projected.shape)
        buffers |= {name: projected.new_empty(steps, rows, v.width) for name, v in loop.made.items()}
        totals = [np.zeros(v.width) for v in loop.backward.sums]
        _call(loop.backward, buffers, matrices, totals, True)
        sums = {k: torch.from_numpy(t).to(projected) for k, t in zip(loop.summed, totals, strict=True)}
        products: dict[int, Tensor] = {}
        for share in loop.shares:
            read = loop.stack(share.right, buffers).flatten(0, 1)
            if (share.matrix, share.right) in loop.scales:
                read = torch.ops.compactrnn.fake_quant(read, loop.scales[share.matrix, share.right])
            part, shape = outer(loop.stack(share.left, buffers).flatten(0, 1), read), matrices[share.matrix].shape
            if share.matrix not in products and part.shape == shape:
                products[share.matrix] = part
            else:
                total = products.setdefault(share.matrix, part.new_zeros(shape))
                total[share.first : share.first + len(part)] += part
        return (
            *(None, None, buffers["grad_projected"]),
            *(loop.state(i, buffers, 0, "grad") for i in range(len(grad_states))),
            *(sums.get(v.key) for v in loop.step.vectors),  # pyright: ignore
            *(products.get(i) for i in range(len(matrices))),
        )


def recomputed(
    step: Step, inputs: list[Tensor], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of `inputs` by torch operations, for higher derivatives and vmap."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: what one input was computed from must not pass its gradient on to another
        given = [t.view_as(t) if need else t for t, need in zip(inputs, needed, strict=True)]
        count, many = len(step.states), len(step.vectors)
        projected, states, rest = given[0], given[1 : 1 + count], given[1 + count :]
        fixed = dict(zip(step.vectors, rest[:many], strict=True))
        rows, widths = projected.shape[1], [*step.widths, *(s.width for s in step.states)]
        outputs: list[list[Tensor]] = []
        for x in projected.unbind(0):
            known = {step.projected: x, **dict(zip(step.states, states, strict=True)), **fixed}
            for i, line in step.lines.items():
                known |= zip(line.rows, states[i].split(line.width, -1), strict=True)
            found = evaluate([*step.outputs, *step.after], known, projected, rest[many:])
            found = [v.expand(rows, n) for v, n in zip(found, widths, strict=True)]
            outputs.append(found[: len(step.outputs)])
            states = found[len(step.outputs) :]
        results = [*map(torch.stack, zip(*outputs, strict=True)), *states]
        pairs = [(y, g) for y, g in zip(results, grads, strict=True) if g is not None and y.requires_grad]
        wanted = [t for t, need in zip(given, needed, strict=True) if need]
        ys, gs = zip(*pairs, strict=True) if pairs else ((), ())
        found = iter(torch.autograd.grad(ys, wanted, gs, create_graph=again, allow_unused=True) if pairs else ())
    return [next(found, None) if need else None for need in needed]
