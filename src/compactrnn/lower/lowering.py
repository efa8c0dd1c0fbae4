"""A torch model as a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..emit.builder import CONSTANT, STEP, Builder, Operand
from ..emit.plan import UndecidedError
from ..graph.arguments import positional
from ..graph.copy import copy_module
from ..graph.trace import Trace, trace
from ..runtime.program import Code, Input, Output, Program, Unary
from . import blocks, conditions, pointwise, products, reductions  # noqa: F401  (they register what can be lowered)
from .calls import input_names
from .decompose import Pooling, decompositions
from .outputs import Port, find_ports, with_plain_outputs
from .probe import Axes, find_axes
from .refusals import check_layers
from .stateless import check_stateless
from .visitor import Visitor

_FEWEST, _MOST = 17, 1151  # steps of the sequences on which look-backs are told: 17, 35, 71, ...


@dataclass(frozen=True)
class Lowered:
    """A model's program in float32, and what was found out about the model on the way.

    Attributes:
        program: the operations, batch axis dropped.
        model: a copy in float32, on the CPU, in eval mode, that takes tensors one by one.
        example: the tensors of the example, as the copy takes them.
        axes: the time and batch axes of the inputs.
        trace: the graph, for any number of steps.
        ports: what the engine gives of what the model returns.
        left_out: the names of what the model returns and the engine does not give.
        reach: no output depends on what was before this many steps, but through the states of recurrent layers.
    """

    program: Program
    model: nn.Module
    example: tuple[Tensor, ...]
    axes: Axes
    trace: Trace
    ports: list[Port]
    left_out: list[str]
    reach: int


def lower(model: nn.Module, example_inputs: Any) -> Program:
    """The program, in float32, of `model` (in eval mode, batch axis dropped).

    Args:
        model: any nn.Module of recurrent layers and what `UnsupportedModelError` lists; it is not changed.
        example_inputs: what the model is called with, batch and time axes included: a tensor, a tuple of arguments or
            a dict of keyword arguments (`compactrnn.graph.arguments.flatten` has the rules).

    Raises:
        UnsupportedModelError: the model cannot be followed or lowered; names module and operation.
    """
    return lower_model(model, example_inputs).program


def lower_model(model: nn.Module, example_inputs: Any) -> Lowered:
    """As `lower`, with all that was found out on the way."""
    check_layers(model)
    model, inputs = positional(copy_module(model).cpu().float().eval(), example_inputs)
    inputs = in_float(inputs)
    model = with_plain_outputs(model, inputs)
    check_stateless(model, inputs)
    axes = find_axes(model, inputs)
    names = input_names(model, len(inputs))
    single = axes.with_batch(inputs, 1)
    graph = _graph(model, axes, single)
    ports, left_out = find_ports(model, graph, axes.with_steps(single, _FEWEST), axes)
    steps, exports = _FEWEST, {}
    while True:
        try:
            # the second length is no multiple of the first, and long enough for what shows in neither 17 nor 18 steps
            short, long = (_build(graph, axes, names, single, n, ports, exports) for n in (steps, 3 * steps + 2))
            where = _difference(short, long)
            if where is None:
                break
            if 8 * steps > _MOST:
                raise UnsupportedModelError(
                    f"{where or type(model).__name__}: depends on the length of the sequence, as `x / x.shape[1]` or"
                    " `x[:, 16]` do; an engine does not know how long a sequence will be"
                )
        except UndecidedError:
            if steps >= _MOST:
                raise
        steps = 2 * steps + 1
    return Lowered(short.finish(), model, inputs, axes, graph, ports, left_out, short.reach)


def in_float(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors as a float32 model on the CPU takes them."""
    inputs = tuple(x.detach().cpu() for x in inputs)
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def _graph(model: nn.Module, axes: Axes, single: tuple[Tensor, ...]) -> Trace:
    """The graph for any number of steps.

    It is exported on many steps, which cost nothing there: on few, a slice such as `x[:, :20]` would be all of them. A
    model that takes only so many, as a table of positions is long, is exported on few.
    """
    with Pooling():
        try:
            return trace(model, axes.with_steps(single, _MOST), axes.times, decompositions())
        except UnsupportedModelError:
            return trace(model, axes.with_steps(single, _FEWEST), axes.times, decompositions())


def _build(
    graph: Trace,
    axes: Axes,
    names: list[str],
    single: tuple[Tensor, ...],
    steps: int,
    ports: list[Port],
    exports: dict,
) -> Builder:
    """The program, as read off a sequence of `steps` steps."""
    small, large = (axes.with_steps(single, n) for n in (steps, steps + 1))
    try:
        values, longer = graph.run(small), graph.run(large)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"{type(graph.model).__name__}: cannot run on {steps + 1} steps ({reason}); an engine runs on any number"
        ) from error
    builder = Builder(exports)
    visitor = Visitor(builder, graph, values, longer)
    places = zip(names, small, axes.times, axes.batches, strict=True)
    outputs = visitor.lower([_input(builder, *place) for place in places])
    for port in ports:
        builder.program.outputs.append(_output(builder, port, outputs[port.place]))
    return builder


def _input(builder: Builder, name: str, x: Tensor, time: int, batch: int | None) -> Operand:
    shape = tuple(n for d, n in enumerate(x.shape) if d not in (time, batch))
    width = int(np.prod(shape, dtype=int))
    ref = builder.buffer(width, "input")
    builder.program.inputs.append(Input(name, ref.buffer, shape, 0))
    return Operand(ref, tuple(x.shape), time, STEP, 0)


def _output(builder: Builder, port: Port, value: Operand | Tensor) -> Output:
    if isinstance(value, Tensor):  # a constant
        ref = builder.constant((value if port.time is None else value.select(port.time, 0)).float().numpy())
        value = Operand(ref, tuple(value.shape), port.time, CONSTANT, 0)
    if value.time is not None and value.kind != STEP:
        builder.every_step([value])
        copy = builder.buffer(value.width)
        builder.emit(Code.UNARY, copy, value.width, a=value.ref, fn=int(Unary.COPY))
        value = replace(value, ref=copy)
    shape = tuple(n for d, n in enumerate(value.shape) if d not in (value.time, port.batch))
    return Output(port.name, value.ref, shape, final=value.time is None)


def _difference(a: Builder, b: Builder) -> str | None:
    """Where the first difference of two programs comes from; None where they are the same."""
    for number, (p, q) in enumerate(zip_longest(a.program.buffers, b.program.buffers)):
        if p is None or q is None or (p.width, p.kind) != (q.width, q.kind) or not _equal(p.init, q.init):
            return (a.origins if p is not None else b.origins)[number]
    p, q = a.finish(), b.finish()
    for x, y in zip_longest(p.ops, q.ops):
        if x is None or x != y:
            return a.origins[(x or y).dst.buffer]
    same = [t.toeplitz for t in p.tensors] == [t.toeplitz for t in q.tensors]
    same = same and all(map(_equal, *([t.values for t in z.tensors] for z in (p, q))))
    return None if same and p.outputs == q.outputs else ""


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
