"""The inputs and outputs of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..runtime.program import Code, Input, Output, Unary
from .builder import CONSTANT, STEP, Builder, Operand
from .movement import float32


def add_input(
    build: Builder, name: str, shape: Sequence[int], time: int, batch: int | None = None, rate: int = 1
) -> Operand:
    """A new input: an array of `shape` for each sequence, of which `time` is the time axis.

    `batch` is an axis of length one that the program's port leaves out. Of `rate` frames a step the port has an axis
    first; time is then the first axis of what is returned, too.
    """
    port = tuple(n for d, n in enumerate(shape) if d not in (time, batch))
    port = (rate, *port) if rate > 1 else port
    ref = build.buffer(int(np.prod(port, dtype=int)), "input")
    build.program.inputs.append(Input(name, ref.buffer, port, 0))
    if rate == 1:
        return Operand(ref, tuple(shape), time, STEP, 0)
    frames_first = shape[time], *(n for d, n in enumerate(shape) if d != time)
    return Operand(ref, frames_first, 0, STEP, 0, rate=rate)


def add_output(
    build: Builder,
    name: str,
    value: Operand | np.ndarray,
    time: int | None = None,
    batch: int | None = None,
    rate: int = 1,
) -> None:
    """Add an output: at every step if `value` has a time axis, else after the last step.

    `time` is the time axis of a constant, of `rate` entries a step; `batch` is an axis of length one that the port
    leaves out. Of several frames a step time must come first, and the port has an axis for them.
    """
    if not isinstance(value, Operand):
        row = value if time is None else value.take(range(rate), time)
        value = Operand(build.constant(float32(row)), value.shape, time, CONSTANT, 0, rate=rate)
    if value.time is not None and value.kind != STEP:
        build.every_step([value])
        copy = build.buffer(value.width)
        build.emit(Code.UNARY, copy, value.width, a=value.ref, fn=int(Unary.COPY))
        value = replace(value, ref=copy)
    shape = tuple(n for d, n in enumerate(value.shape) if d not in (value.time, batch))
    shape = (value.rate, *shape) if value.time is not None and value.rate > 1 else shape
    build.program.outputs.append(Output(name, value.ref, shape, final=value.time is None))
