"""The inputs and outputs of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Code, Input, Output, Unary
from .builder import CONSTANT, HELD, STEP, Builder, Operand
from .movement import Mover, float32


def add_input(
    build: Builder, name: str, shape: Sequence[int], time: int | None, batch: int | None = None, rate: int = 1
) -> Operand:
    """A new input: an array of `shape` for each sequence, of which `time` is the time axis; None: it is given once.

    `batch` is an axis of length one that the program's port leaves out. Of `rate` frames a step the port has an axis
    first; time is then the first axis of what is returned, too.
    """
    port = tuple(n for d, n in enumerate(shape) if d not in (time, batch))
    port = (rate, *port) if rate > 1 and time is not None else port
    ref = build.buffer(int(np.prod(port, dtype=int)), "input")
    build.program.inputs.append(Input(name, ref.buffer, port, 0, once=time is None))
    if time is None:
        return Operand(ref, tuple(shape), None, HELD, 0)
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
    fewer: int = 0,
) -> None:
    """Add an output: at every step, or every but the last `fewer`, if `value` has a time axis, else after the last.

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
    build.program.outputs.append(Output(name, value.ref, shape, final=value.time is None, fewer=fewer))


def missing_results(mover: Mover, name: str, value: Operand | np.ndarray) -> int:
    """How many of the last results of an output there are not, which a run of a whole sequence then leaves out."""
    missing = mover.missing(value) if isinstance(value, Operand) else 0
    if missing and isinstance(value, Operand) and value.rate > 1:
        raise UnsupportedModelError(f"output {name!r}: leaves out results of a step that has {value.rate}")
    return missing


def check_missing(build: Builder, model: str) -> None:
    """Refuse outputs of fewer steps than a stream takes; `model` is what messages name."""
    fewer = [output for output in build.program.outputs if output.fewer]
    if fewer and not build.offline_because:
        build.offline_because = "results that there are for fewer steps than it takes"
        raise UnsupportedModelError(
            f"{model}: leaves out the last {fewer[0].fewer} results of output {fewer[0].name!r}, and a stream gives one"
            " at every step: return them all, and leave them out of what the engine gives"
        )
