"""Lowering of a torch model to a program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from .._errors import UnsupportedModelError
from ..emit.address import LazyView, Source
from ..emit.builder import Builder, Operand
from ..emit.lengths import FEWEST, MOST, SHORT, for_any_length
from ..emit.ports import add_input, add_output, check_missing, missing_results
from ..graph.arguments import positional
from ..graph.copy import copy_module
from ..graph.trace import Trace, trace
from ..runtime.program import Program
from . import attention, conditions, convolutions, norms, pointwise, products, recurrent, reductions  # noqa: F401  (register what can be lowered)
from .calls import input_names, reason
from .decompose import Pooling, decompositions
from .once import check_once
from .outputs import Port, find_ports, with_plain_outputs
from .probe import Axes, TimeUnclearError, find_axes
from .refusals import check_layers, check_loops
from .stateless import check_stateless
from .visitor import Visitor
from .weights import product_names, with_products


@dataclass(frozen=True)
class Lowered:
    """The float32 program of a model, with the analysis it came from: axes, graph, states.

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


def lower(model: nn.Module, example_inputs: Any, time: int | None = None) -> Program:
    """The program, in float32, of `model` (in eval mode, batch axis dropped).

    Args:
        model: any nn.Module of recurrent layers and what `UnsupportedModelError` lists; it is not changed.
        example_inputs: what the model is called with, batch and time axes included: a tensor, a tuple of arguments or
            a dict of keyword arguments (`compactrnn.graph.arguments.flatten` has the rules).
        time: the axis of the first tensor that is time, where recurrent layers run along several.

    Raises:
        UnsupportedModelError: the model cannot be followed or lowered; names module and operation.
    """
    return lower_model(model, example_inputs, time).program


def lower_model(model: nn.Module, example_inputs: Any, time: int | None = None) -> Lowered:
    """As `lower`, with the whole analysis.

    Where several axes could be time, it is the one along which the model streams, if that is one.
    """
    try:
        return _lowered(model, example_inputs, time)
    except TimeUnclearError as unclear:
        streaming = []
        for axis in unclear.axes:
            with contextlib.suppress(UnsupportedModelError):
                lowered = _lowered(model, example_inputs, axis)
                streaming += [] if lowered.program.offline else [lowered]
        if len(streaming) == 1:
            return streaming[0]
        raise


def _lowered(model: nn.Module, example_inputs: Any, time: int | None) -> Lowered:
    check_layers(model)
    model, inputs = positional(copy_module(model).cpu().float().eval(), example_inputs)
    inputs = in_float(inputs)
    model = with_plain_outputs(model, inputs)
    check_stateless(model, inputs)
    axes = find_axes(model, inputs, time)
    inputs = axes.whole(inputs)
    names = input_names(model, len(inputs))
    single = axes.with_batch(inputs, 1)
    fewest, most = _lengths(model, axes, single)
    check_loops(model, *(axes.with_steps(single, fewest + more) for more in (0, 1)))
    graph = _graph(model, axes, single, most - 1 if most else FEWEST)
    check_once(model, graph, inputs, names, axes)
    try:
        ports, left_out = find_ports(model, graph, axes.with_steps(single, fewest), axes)
    except Exception as error:  # whatever a model raises
        if isinstance(error, UnsupportedModelError):
            raise
        raise UnsupportedModelError(
            f"{type(model).__name__}: fails on a sequence of {fewest} steps ({reason(error)}); an engine runs any"
        ) from error
    exports: dict = {}
    rename = product_names(model)
    builder = for_any_length(
        lambda steps: _build(graph, axes, names, single, steps, ports, exports, rename),
        type(model).__name__,
        fewest,
        most,
    )
    return Lowered(builder.finish(), model, inputs, axes, graph, ports, left_out, builder.reach)


def in_float(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors converted to float32 on the CPU."""
    inputs = tuple(x.detach().cpu() for x in inputs)
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


@torch.no_grad()
def _lengths(model: nn.Module, axes: Axes, single: tuple[Tensor, ...]) -> tuple[int, int | None]:
    """The fewest steps to lower a model on, and the most that it takes if these are not many more.

    The former is `FEWEST`, or more for a model that leaves out more, as convolutions without padding do; less for one
    that takes no more, as a table of positions is long.
    """
    kept = copy_module(model)

    @cache
    def runs(steps: int) -> bool:
        with contextlib.suppress(Exception):  # whatever a model raises
            kept(*axes.with_steps(single, steps))
            return True
        return False

    fewest = next((n for n in SHORT if runs(n)), 0)
    if fewest and runs(3 * fewest + 4):
        return fewest, None
    most = next((n for n in range(3 * fewest + 3 if fewest else FEWEST - 1, 3, -1) if runs(n)), 0)
    if not most:
        return FEWEST, None
    return (fewest if most >= fewest + 4 and fewest else most // 2), most


def _graph(model: nn.Module, axes: Axes, single: tuple[Tensor, ...], some: int) -> Trace:
    """The graph for any number of steps.

    It is exported on many steps, which cost nothing there: on few, a slice such as `x[:, :20]` would be all of them. A
    model that takes only so many, as a table of positions is long, is exported on `some`, which are fewer: all of a
    table lie side by side in memory, a part may not, and torch would take that for a difference.
    """
    model = with_products(model)
    with Pooling():
        try:
            return trace(model, axes.with_steps(single, MOST), axes.times, decompositions())
        except UnsupportedModelError:
            return trace(model, axes.with_steps(single, some), axes.times, decompositions())


def _value_at(graph: Trace, axes: Axes, single: tuple[Tensor, ...], node: Node, steps: int) -> Tensor | None:
    """The value of a node that depends on no data for so many steps; None where the model has none."""
    sizes = axes.with_steps(tuple(torch.empty((), dtype=x.dtype).expand(x.shape) for x in single), steps)
    with contextlib.suppress(RuntimeError, IndexError):
        return graph.value(node, sizes)
    return None


def _build(
    graph: Trace,
    axes: Axes,
    names: list[str],
    single: tuple[Tensor, ...],
    steps: int,
    ports: list[Port],
    exports: dict,
    rename: Callable[[str], str],
) -> Builder:
    """The program for a traced sequence of `steps` steps."""
    small, large = (axes.with_steps(single, n) for n in (steps, steps + 1))
    try:
        values, longer = graph.run(small), graph.run(large)
    except (RuntimeError, IndexError) as error:
        kind = type(graph.model).__name__
        raise UnsupportedModelError(
            f"{kind}: cannot run on {steps + 1} steps ({reason(error)}); an engine runs on any number"
        ) from error
    builder = Builder()
    at = partial(_value_at, graph, axes, single)
    visitor = Visitor(builder, graph, values, longer, exports, rename, steps, at)
    given = zip(names, small, axes.times, axes.batches, strict=True)
    inputs = [_input(visitor, name, x, time, batch, axes.frames) for name, x, time, batch in given]
    outputs = visitor.lower(inputs)
    for port in ports:
        value, time, batch = visitor.source(outputs[port.place]), port.time, port.batch
        missing = missing_results(visitor.mover, port.name, value)
        if port.rate > 1:
            value, time, batch = _frames_first(visitor, value, port)
        add_output(builder, port.name, value, time, batch, port.rate, missing)
    if axes.frames > 1:
        builder.program.metadata["frames_per_step"] = axes.frames
    check_missing(builder, type(graph.model).__name__)
    return builder


def _input(
    visitor: Visitor, name: str, x: Tensor, time: int | None, batch: int | None, frames: int
) -> Operand | LazyView:
    """An input, of which a step is so many frames one after the other."""
    given = add_input(visitor.builder, name, x.shape, time, batch, frames)
    if time is None or given.time == time:
        return given
    return visitor.mover.move([given], lambda arrays: np.moveaxis(arrays[0], 0, time), time)


def _frames_first(visitor: Visitor, value: Source, port: Port) -> tuple[Source, int, int | None]:
    """An output whose steps are several frames with time first, and its axes of time and batch."""
    time, batch = port.time or 0, port.batch
    moved = visitor.mover.move([value], lambda arrays: np.moveaxis(arrays[0], time, 0), 0)
    return visitor.materialize(moved), 0, None if batch is None else batch + (batch < time)
