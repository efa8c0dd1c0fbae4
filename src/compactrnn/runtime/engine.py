"""Run a packed model: an `Engine` is the model, a `Stream` its state."""

from __future__ import annotations

import operator
import os
import struct

import numpy as np

from .._errors import ModelFileError, UnsupportedModelError, invalid
from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from .program import Input, Output
from .records import Records
from .source import read_source

_STATE_MAGIC = b"CRS1"


class Engine:
    """A packed model: immutable, shared by threads.

    `source` is a path or the bytes of a model file; `isa` names the kernels (default: the environment variable
    CRNN_ISA, or the best that the processor has). A damaged or foreign file raises `ModelFileError`.
    """

    def __init__(self, source: str | os.PathLike | bytes | bytearray | memoryview, isa: str | None = None):
        name, data = read_source(source)
        isa = isa or os.environ.get("CRNN_ISA") or None
        if isa is not None and not _native.has_isa(isa):
            here = " or ".join(repr(name) for name in _native.isas())
            raise invalid("isa", got=repr(isa), wanted=f"kernels that this build and processor have: {here}")
        try:
            self._model = _native.Model(data, isa)
            records = Records(data)
        except ValueError as error:
            raise ModelFileError(f"{name}: {error}") from None
        self._checksum = records.checksum
        self.isa: str = self._model.isa
        self.offline: bool = self._model.offline
        self.bytes = len(data)
        self.macs_per_step = records.macs_per_step()
        self.inputs: tuple[Input, ...] = tuple(records.input_list())
        self.outputs: tuple[Output, ...] = tuple(records.output_list())
        self.metadata: dict = dict(records.metadata)

    def stream(self) -> Stream:
        """A new stream, at the initial state."""
        if self.offline:
            why = self.metadata.get("offline_because") or "an operation that mixes time steps"
            raise UnsupportedModelError(
                f"this model needs whole sequences, because of {why}, so it cannot stream; use engine.run(xs)"
            )
        return Stream(self)

    def run(self, xs, out=None):
        """Outputs for a whole sequence `xs`, `(time, ...)`, from the initial state; final outputs: the last only.

        `out` is where to write them: a float32 array of the outputs' shape, of several outputs a tuple.
        """
        arrays, steps = _sequences(self.inputs, xs)
        if not steps and (self.offline or any(o.final for o in self.outputs)):
            raise invalid("xs", got="0 time steps", wanted="at least one")
        rows = _rows(self.outputs, [o.shape if o.final else (steps, *o.shape) for o in self.outputs], out)
        _check_apart(rows, arrays)
        if steps:
            _native.Stream(self._model).run(arrays, rows, steps, True)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def __repr__(self) -> str:
        kind = "offline" if self.offline else "streaming"
        return f"Engine({kind}, {self.macs_per_step} MACs per step, {self.bytes} bytes, isa={self.isa!r})"


class Stream:
    """The state of one sequence on its way through an `Engine`; made by `engine.stream()`."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._native = _native.Stream(engine._model)

    def step(self, x, out=None):
        """Outputs of one time step: `x` is an array of the input's shape, or a token; of several inputs a tuple.

        `out` is where to write them: a float32 array of the output's shape, of several outputs a tuple.
        """
        y = self._native.step(x, out)
        if y is not None:
            return y
        values = _one_step(self._engine.inputs, x)
        if out is not None:
            rows = _rows(self._engine.outputs, [o.shape for o in self._engine.outputs], out)
            _check_apart(rows, values)
            out = rows[0] if len(rows) == 1 else tuple(rows)
        return self._native.step(values, out)

    def run(self, xs, out=None):
        """Outputs of the next time steps, `(time, ...)`: bit for bit what `step` after `step` gives.

        `out` is where to write them: a float32 array of the outputs' shape, of several outputs a tuple.
        """
        if out is None and (ys := self._native.run_plain(xs)) is not None:
            return ys
        arrays, steps = _sequences(self._engine.inputs, xs)
        rows = _rows(self._engine.outputs, [(steps, *o.shape) for o in self._engine.outputs], out)
        _check_apart(rows, arrays)
        self._native.run(arrays, rows, steps, False)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def reset(self) -> None:
        """Back to the initial state."""
        self._native.reset()

    def copy(self) -> Stream:
        """Another stream in the same state."""
        other = Stream(self._engine)
        other._native.set_state(self._native.state())
        return other

    def state_bytes(self) -> bytes:
        """The state, to be loaded later into a stream of the same model."""
        return _STATE_MAGIC + struct.pack("<I", self._engine._checksum) + self._native.state()

    def load_state_bytes(self, state: bytes) -> None:
        """Continue from what `state_bytes` gave."""
        size = 8 + self._engine._model.state_bytes
        if not isinstance(state, bytes):
            raise TypeError(f"state: got {type(state).__name__}, wanted bytes")
        if state[:4] != _STATE_MAGIC or len(state) != size:
            raise invalid("state", got=f"{len(state)} bytes", wanted=f"the {size} bytes of this model's state_bytes()")
        if state[4:8] != struct.pack("<I", self._engine._checksum):
            raise invalid("state", got="the state of another model", wanted="one of this model")
        self._native.set_state(state[8:])


def _each(inputs: tuple[Input, ...], given) -> tuple:
    if len(inputs) == 1:
        return (given,)
    if not isinstance(given, (tuple, list)) or len(given) != len(inputs):
        got = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        raise invalid("input", got=got, wanted=f"a tuple of {len(inputs)}: {', '.join(i.name for i in inputs)}")
    return tuple(given)


def _one_step(inputs: tuple[Input, ...], x):
    values = []
    for port, value in zip(inputs, _each(inputs, x), strict=True):
        if port.vocabulary:
            values.append(_token(port, value))
        else:
            values.append(_numbers(port, value, port.shape))
    return values[0] if len(inputs) == 1 else tuple(values)


def _sequences(inputs: tuple[Input, ...], xs) -> tuple[list[np.ndarray], int]:
    arrays = []
    for port, value in zip(inputs, _each(inputs, xs), strict=True):
        arrays.append(_tokens(port, value) if port.vocabulary else _numbers(port, value, ("time", *port.shape)))
    steps = {len(array) for array in arrays}
    if len(steps) > 1:
        raise invalid("input", got=f"{[len(a) for a in arrays]} time steps", wanted="the same number for all")
    return arrays, steps.pop() if steps else 0


def _rows(outputs: tuple[Output, ...], shapes: list[tuple[int, ...]], out) -> list[np.ndarray]:
    """Arrays for the outputs: new ones, or those of `out` if they fit."""
    if out is None:
        return [np.empty(shape, np.float32) for shape in shapes]
    given = list(out) if len(outputs) > 1 and isinstance(out, (tuple, list)) else [out]
    if len(given) != len(outputs):
        raise invalid("out", got=f"{len(given)} arrays", wanted=f"a tuple of {len(outputs)} arrays")
    for port, array, shape in zip(outputs, given, shapes, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"out: got {type(array).__name__} for {port.name!r}, wanted an array")
        if array.dtype != np.float32 or array.shape != shape or not array.flags.carray:
            got = f"{array.dtype} of shape {array.shape}" + (
                "" if array.flags.carray else ", not in one writable piece"
            )
            raise invalid(
                "out", got=got, wanted=f"float32 of shape {shape} for {port.name!r}", hint="np.empty makes one"
            )
    return given


def _check_apart(rows: list[np.ndarray], inputs) -> None:
    """Outputs are written before all inputs are read, so they must not lie in the same memory."""
    inputs = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
    if any(np.may_share_memory(row, x) for row in rows for x in inputs if isinstance(x, np.ndarray)):
        raise invalid("out", got="memory of the input", wanted="memory of its own")


def _token(port: Input, value) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"input {port.name!r}: got a bool, wanted an int token")
    try:
        token = operator.index(value)
    except TypeError:
        raise TypeError(f"input {port.name!r}: got {type(value).__name__}, wanted an int token") from None
    if not 0 <= token < port.vocabulary:
        raise invalid(f"input {port.name!r}", got=token, wanted=f"a token from 0 to {port.vocabulary - 1}")
    return token


def _tokens(port: Input, value) -> np.ndarray:
    array = np.asarray(value)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"input {port.name!r}: got an array of {array.dtype}, wanted int tokens")
    if array.ndim != 1:
        raise invalid(f"input {port.name!r}", got=f"shape {array.shape}", wanted="(time,) tokens")
    wrong = array[(array < 0) | (array >= port.vocabulary)]
    if wrong.size:
        raise invalid(f"input {port.name!r}", got=int(wrong[0]), wanted=f"tokens from 0 to {port.vocabulary - 1}")
    return np.ascontiguousarray(array, np.int32)


def _numbers(port: Input, value, shape: tuple) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        got = f"an array of {array.dtype}" if isinstance(value, (np.ndarray, list, tuple)) else type(value).__name__
        raise TypeError(f"input {port.name!r}: got {got}, wanted an array of float32")
    fits = array.ndim == len(shape) and all(a == b for a, b in zip(array.shape, shape, strict=True) if b != "time")
    if not fits:
        wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        raise invalid(f"input {port.name!r}", got=f"shape {array.shape}", wanted=wanted)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32).reshape(array.shape)
