"""A torch model as a program."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._errors import UnsupportedModelError
from ..graph.arguments import positional
from ..graph.trace import trace
from ..runtime.program import Input, Output, Program
from . import blocks, pointwise  # noqa: F401  (they register what can be lowered)
from .builder import STEP, Builder, Value
from .calls import input_names
from .probe import find_axes, output_axes
from .refusals import check_layers
from .visitor import Visitor

_STEPS = 17  # enough to tell a delay of up to 16 steps


def lower(model: nn.Module, example_inputs: Any) -> Program:
    """The program, in float32, of `model` (in eval mode, batch axis dropped).

    Args:
        model: any nn.Module of recurrent layers and what `UnsupportedModelError` lists; it is not changed.
        example_inputs: what the model is called with, batch and time axes included: a tensor, a tuple of arguments or
            a dict of keyword arguments (`compactrnn.graph.arguments.flatten` has the rules).

    Raises:
        UnsupportedModelError: the model cannot be followed or lowered; names module and operation.
    """
    check_layers(model)
    model, inputs = positional(copy.deepcopy(model).cpu().float().eval(), example_inputs)
    inputs = tuple(x.detach().cpu().float() if x.is_floating_point() else x.detach().cpu() for x in inputs)
    axes = find_axes(model, inputs)
    names = input_names(model, len(inputs))
    single = axes.with_batch(inputs, 1)
    small, large = (axes.with_steps(single, n) for n in (_STEPS, _STEPS + 1))
    traced = trace(model, small)
    builder = Builder()
    visitor = Visitor(builder, (traced, small), (trace(model, large), large))
    places = zip(names, small, axes.times, axes.batches, strict=True)
    outputs = visitor.lower([_input(builder, *place) for place in places])
    found = output_axes(model, small, axes)
    states = traced.state_outputs()
    names = iter(["output", *(f"output_{i}" for i in range(1, len(outputs)))])
    for value, (_, batch), is_state in zip(outputs, found, states, strict=True):
        if not is_state:
            builder.program.outputs.append(_output(next(names), value, batch))
    return builder.finish()


def _input(builder: Builder, name: str, x: Tensor, time: int, batch: int | None) -> Value:
    shape = tuple(n for d, n in enumerate(x.shape) if d not in (time, batch))
    width = int(np.prod(shape, dtype=int))
    token = not x.is_floating_point()
    if token and width != 1:
        raise UnsupportedModelError(f"input {name}: {width} tokens a step, wanted one")
    ref = builder.buffer(width, "input")
    builder.program.inputs.append(Input(name, ref.buffer, () if token else shape, 0))
    return Value(ref, tuple(x.shape), time, STEP, 0)


def _output(name: str, value: Any, batch: int | None) -> Output:
    if not isinstance(value, Value):
        raise UnsupportedModelError(f"{name} does not depend on the input")
    shape = tuple(n for d, n in enumerate(value.shape) if d not in (value.time, batch))
    return Output(name, value.ref, shape, final=value.kind != STEP)


def reference(model: nn.Module, example_inputs: Any) -> tuple[tuple[np.ndarray, ...], list[np.ndarray]]:
    """The first sequence of `example_inputs`, and what torch gives for it, laid out as the engine takes and gives them.

    Inputs and outputs have time first and no batch axis; states that the stream keeps are left out.
    """
    model, inputs = positional(copy.deepcopy(model).cpu().float().eval(), example_inputs)
    axes = find_axes(model, inputs)
    single = axes.with_batch(inputs, 1)
    with torch.no_grad():
        flat = tree_leaves(model(*single))
    outputs = []
    for y, (time, batch) in zip(
        (t for t in flat if isinstance(t, Tensor)), output_axes(model, single, axes), strict=True
    ):
        y = y if time is None else y.movedim(time, 0)
        outputs.append(y if batch is None else y.select(batch + (time is not None and time > batch), 0))
    states = trace(model, single).state_outputs()
    kept = [y.numpy() for y, is_state in zip(outputs, states, strict=True) if not is_state]
    return tuple(x.numpy() for x in axes.sequence(single, 0)), kept
