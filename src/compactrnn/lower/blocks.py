"""Products with weights, norms, softmax, reductions and recurrent layers."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError
from ..emit.builder import STEP, Operand
from ..runtime.program import Binary, Code, Ref, Unary
from . import cell as cells
from .visitor import Convolution, Visitor, convolves, handles


def products(
    visitor: Visitor, node: torch.fx.Node, x: Operand, factors: list[np.ndarray], init: Ref | None, weight: int
) -> Operand:
    """`init + F1 F2 ... x` for every vector along the last axis; `weight` is the number of the node's argument."""
    build, name = visitor.builder, visitor.weight_name(node, node.args[weight])
    if x.time == len(x.shape) - 1:
        raise UnsupportedModelError(f"{visitor.where(node)}: multiplies along the time axis")
    inner, outer = factors[-1].shape[1], factors[0].shape[0]
    count = x.width // inner
    kind = build.place([x])
    rows = []
    for i in range(count):
        row = replace(x, ref=Ref(x.ref.buffer, x.ref.offset + i * inner), shape=(inner,), time=None)
        rows.append(build.chain(factors, row, init, name))
    shape = (*x.shape[:-1], outer)
    if count == 1:
        return Operand(rows[0], shape, x.time, kind, build.segment)
    dst = build.buffer(count * outer)
    for i, row in enumerate(rows):
        build.emit(Code.UNARY, Ref(dst.buffer, i * outer), outer, a=row, fn=int(Unary.COPY))
    return Operand(dst, shape, x.time, kind, build.segment)


def array(x: Tensor) -> np.ndarray:
    """A parameter as float32."""
    return x.detach().float().cpu().numpy()


@handles("linear")
def _linear(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any = None) -> Operand | None:
    if not isinstance(x, Operand) or not isinstance(weight, Tensor) or isinstance(bias, Operand):
        return None
    return products(visitor, node, x, [array(weight)], None if bias is None else visitor.constant(bias), 1)


@convolves
def _convolution(visitor: Visitor, node: torch.fx.Node, x: Any, weight: Any, bias: Any, options: Convolution) -> Any:
    """A window that slides over time, (1, channels, T): a product with the steps in the window, the latest first."""
    if not isinstance(weight, Tensor) or isinstance(bias, Operand) or weight.dim() != 3 or options.groups != 1:
        return None
    if options.stride != 1 or (time := visitor.time_axis(node)) != 2:
        return None
    taps = torch.arange(weight.shape[2]).flip(0) * options.dilation

    def windows(tensors: list[Tensor]) -> Tensor:
        padded = torch.constant_pad_nd(tensors[0], [options.padding, options.padding], int(tensors[1]))
        starts = torch.arange(padded.shape[2] - int(taps[0]))
        return padded[:, :, starts[:, None] + taps].permute(0, 2, 3, 1).flatten(2)

    moved = visitor.mover.move([x, visitor.mover.edge(0.0)], windows, 1, visitor.where(node))
    kernel = array(weight.flip(2).transpose(1, 2).flatten(1))
    init = None if bias is None else visitor.constant(bias)
    y = products(visitor, node, visitor.mover.settle(moved, passing=True), [kernel], init, 1)
    return visitor.rearrange(y, lambda t: t.transpose(1, 2), time, node)


@handles("embedding")
def _embedding(visitor: Visitor, node: torch.fx.Node, table: Any, token: Any, *rest: Any) -> Operand | None:
    if not isinstance(table, Tensor) or not isinstance(token, Operand) or token.width != 1:
        return None
    build = visitor.builder
    kind = build.place([token])
    vocabulary, n = table.shape
    dst = build.buffer(n)
    name = visitor.weight_name(node, node.args[0])
    build.emit(Code.EMBED, dst, n, a=token.ref, tensor=build.tensor(array(table)), name=name)
    inputs = build.program.inputs
    for i, given in enumerate(inputs):
        if given.buffer == token.ref.buffer:
            if math.prod(given.shape) != 1:
                raise UnsupportedModelError(
                    f"{visitor.where(node)}: a token is one of {math.prod(given.shape)} numbers a step of input"
                    f" {given.name}; give every token an input of its own"
                )
            inputs[i] = replace(given, shape=(), vocabulary=min(given.vocabulary or vocabulary, vocabulary))
    return Operand(dst, (*token.shape, n), token.time, kind, build.segment)


@handles("index")
def _looked_up(visitor: Visitor, node: torch.fx.Node, table: Any, indices: list[Any]) -> Operand | None:
    """A row of a constant table, by a position that was computed."""
    if not isinstance(table, Tensor) or len(indices) != 1:
        return None
    found = _embedding(visitor, node, table.reshape(table.shape[0], -1), indices[0])
    return found and replace(found, shape=tuple(visitor.values[node.name].shape))


@handles("one_hot")
def _one_hot(visitor: Visitor, node: torch.fx.Node, token: Operand, classes: int = -1) -> Operand | None:
    return _embedding(visitor, node, torch.eye(classes), token) if classes > 0 else None


@handles("layer_norm")
def _layer_norm(
    visitor: Visitor,
    node: torch.fx.Node,
    x: Operand,
    shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *rest: Any,
) -> Operand | None:
    k = int(np.prod(shape, dtype=int))
    if x.time is not None and x.time >= len(x.shape) - len(shape):
        return None
    build = visitor.builder
    y = build.compute(Code.LAYER_NORM, [x], x, a=x.ref, k=k, p0=float(eps))
    y = y if weight is None else build.binary(Binary.MUL, y, visitor.constant(weight), period=k)
    return y if bias is None else build.binary(Binary.ADD, y, visitor.constant(bias), period=k)


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(
    visitor: Visitor, node: torch.fx.Node, x: Operand, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any
) -> list[Operand] | None:
    """(x - mean) / sqrt(variance + eps) * weight + bias with the stored statistics of axis 1."""
    if len(x.shape) < 2 or x.time == 1:
        return None
    slope = (variance + rest[-1]).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * slope
    view = [-1 if d == 1 else 1 for d in range(len(x.shape))]

    def wide(vector: Tensor) -> Operand:
        constant = vector.detach().view(view)
        moved = visitor.mover.move([constant], lambda t: t[0].expand(x.shape), x.time, visitor.where(node))
        return visitor.settle(moved)

    return [visitor.builder.binary(Binary.ADD, visitor.builder.binary(Binary.MUL, x, wide(slope)), wide(shift))]


@handles("recurrent")
def _recurrent(visitor: Visitor, node: torch.fx.Node, key: int, x: Operand, states: list[Any]) -> list[Operand]:
    leaf, build = visitor.trace.leaves[key], visitor.builder
    if x.kind != STEP or x.time != 0:
        raise UnsupportedModelError(
            f"{leaf.name}: its input does not change from step to step: it is the same for the whole sequence, or time"
            " is another of its axes; pack the layers that run along time alone"
        )
    if x.shape[1] != 1:
        raise UnsupportedModelError(
            f"{leaf.name}: runs over {x.shape[1]} rows of each sequence, as a layer that bands or agents share does; an"
            " engine runs one: give the rows as sequences of their own, or a layer to each"
        )
    if any(isinstance(s, Operand) for s in states):
        raise UnsupportedModelError(
            f"{leaf.name}: its initial state is computed from input data; wanted zeros or parameters."
            " The stream keeps the states: leave them out of example_inputs, and let the model start from zeros"
        )
    flat, after = iter(states), []
    for layer, row in enumerate(leaf.cells):
        outputs = []
        for direction, cell in enumerate(row):
            given = [next(flat) for _ in cell.states] if states else None
            source = visitor.mover.flip(x, f"{leaf.name}: bidirectional") if direction else x
            name = functools.partial(leaf.part_name, layer, direction)
            y, last = cells.lower_cell(build, cell, source, cells.initial_states(cell, given), name)
            outputs.append(visitor.mover.flip(y, f"{leaf.name}: bidirectional") if direction else y)
            after += last
        x = outputs[0]
        if len(outputs) > 1:
            x = visitor.settle(visitor.mover.move(list(outputs), lambda t: torch.cat(t, -1), 0, leaf.name))
    return [x, *after]
