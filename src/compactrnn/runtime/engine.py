"""Inference with packed models: `Engine` is the model, `Stream` its state."""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from .._errors import ModelFileError, UnsupportedModelError, check_positive, invalid
from . import _native  # pyright: ignore[reportAttributeAccessIssue]
from .arrays import at_every_step, check_apart, given_once, one_step, output_rows, sequences, state_values
from .dead_code import output_width
from .program import Input, Output, State
from .records import Records
from .source import read_source

_STATE_MAGIC = b"CRS1"
MEMORY_LIMIT = 1 << 30
MOST_ADDED = 256  # steps that a sequence gets after its last


class Engine:
    """A packed model; immutable, may be shared by threads.

    `source` is a path or the bytes of a model file; `isa` names the kernels (default: the environment variable
    CRNN_ISA, or the best that the processor has). A damaged or foreign file raises `ModelFileError`.

    A small file may ask for much memory. `memory_limit` is the most bytes that one stream, one call of `run`, or the
    matrices made of the vectors in the file may take (default: 1 GiB; None: any number); beyond it they raise
    `ValueError` before they allocate anything. `stream_bytes`, `workspace_bytes(steps)` and `expanded_bytes` say what
    they take.
    """

    def __init__(
        self,
        source: str | os.PathLike | bytes | bytearray | memoryview,
        isa: str | None = None,
        memory_limit: int | None = MEMORY_LIMIT,
    ):
        if memory_limit is not None:
            check_positive(memory_limit, "memory_limit")
        name, data = read_source(source)
        isa = isa or os.environ.get("CRNN_ISA") or None
        if isa is not None and not _native.has_isa(isa):
            here = " or ".join(repr(name) for name in _native.isas())
            raise invalid("isa", got=repr(isa), expected=f"kernels that this build and processor have: {here}")
        try:
            self._model = _native.Model(data, isa)
            records = Records(data)
        except ValueError as error:
            raise ModelFileError(f"{name}: {error}") from None
        self._checksum = records.checksum
        self.isa: str = self._model.isa
        self.offline: bool = self._model.offline
        self.bytes = len(data)
        self.memory_limit = memory_limit
        self.stream_bytes: int = self._model.block_bytes
        self.expanded_bytes: int = self._model.expanded_bytes
        self.macs_per_step = records.macs_per_step()
        self.inputs: tuple[Input, ...] = tuple(records.input_list())
        self.outputs: tuple[Output, ...] = tuple(records.output_list())
        self.states: tuple[State, ...] = () if self.offline else records.states
        self.metadata: dict = dict(records.metadata)
        frames = self.metadata.get("frames_per_step")
        framed = isinstance(frames, int) and all(port.once or port.shape[:1] == (frames,) for port in self.inputs)
        self.frames_per_step: int = frames if framed and isinstance(frames, int) and frames > 1 else 1
        added = self.metadata.get("added_steps")
        self.added_steps: int = min(max(added, 0), MOST_ADDED) if self.offline and isinstance(added, int) else 0
        self.least_steps: int = max(self._model.least_steps - self.added_steps, 1)
        most = self._model.most_steps
        self.most_steps: int | None = most - self.added_steps if most else None
        self._row_bytes = sum(4 * output_width(o) for o in self.outputs if not o.final)
        self._once_bytes = sum(4 * math.prod(i.shape) for i in self.inputs if i.once)  # repeated for each step of a run
        self._check_memory(f"{name}: matrices made on opening", self.expanded_bytes)
        self._model.expand()
        self._final_bytes = sum(4 * output_width(o) for o in self.outputs if o.final)

    def workspace_bytes(self, steps: int) -> int:
        """Bytes that `run` takes for `steps` time steps: its stream, what it keeps of each step, and its outputs."""
        check_positive(steps, "steps")
        steps += self.added_steps
        return self._run_bytes(steps) + steps * self._row_bytes + self._final_bytes

    def _run_bytes(self, steps: int) -> int:
        return self.stream_bytes + self._model.workspace_bytes(steps) + steps * self._once_bytes

    def _check_memory(self, what: str, size: int) -> None:
        if self.memory_limit is not None and size > self.memory_limit:
            raise invalid(
                what,
                got=f"{size} bytes of memory to take",
                expected=f"at most memory_limit={self.memory_limit}",
                hint="Engine(..., memory_limit=None) allows any number",
            )

    def stream(self, /, **once) -> Stream:
        """A new stream, at the initial state.

        The inputs that a sequence has `once` (`Input.once`) are given here by their names, as in
        `engine.stream(speaker=embedding)`; each is an array of the input's shape, or a token.
        """
        if self.offline:
            why = self.metadata.get("offline_because") or "an operation that mixes time steps"
            raise UnsupportedModelError(
                f"this model needs whole sequences, because of {why}, so it cannot stream; use engine.run(xs)"
            )
        return Stream(self, once)

    def run(self, xs, out=None):
        """Outputs for a whole sequence `xs`, `(time, ...)`, from the initial state; final outputs: the last only.

        Where a step is several frames, as of a model with strides over time, `xs` is `(time, frames_per_step, ...)`, or
        all frames one after the other, whose number must be a multiple of `frames_per_step`.

        Of several inputs `xs` is a tuple. One that a sequence has once (`Input.once`) has no time axis.

        `out` is where to write them: a float32 array of the outputs' shape, of several outputs a tuple.
        """
        arrays, steps = sequences(self.inputs, xs, self.frames_per_step)
        if self.most_steps is not None and steps > self.most_steps:
            expected = f"at most {self.most_steps}: the model takes no more"
            raise invalid("xs", got=f"{steps} time steps", expected=expected)
        if not steps and (self.offline or any(o.final for o in self.outputs)):
            raise invalid("xs", got="0 time steps", expected="at least one")
        if steps and steps < self.least_steps:
            expected = (
                f"at least {self.least_steps}: the model leaves some out, or reads one that is so far from an end"
            )
            raise invalid("xs", got=f"{steps} time steps", expected=expected)
        if steps:
            size = self.workspace_bytes(steps) if out is None else self._run_bytes(steps + self.added_steps)
            self._check_memory(f"run of {steps} steps", size)
            arrays = [np.concatenate([x, *[x[-1:]] * self.added_steps]) if self.added_steps else x for x in arrays]
            steps += self.added_steps
        shapes = [o.shape if o.final else (steps - min(o.fewer, steps), *o.shape) for o in self.outputs]
        rows = output_rows(self.outputs, shapes, out)
        check_apart(rows, arrays)
        if steps:
            _native.Stream(self._model).run([np.ascontiguousarray(x) for x in arrays], rows, steps, True)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def __copy__(self) -> Engine:
        return self

    def __deepcopy__(self, memo: dict) -> Engine:
        return self

    def __reduce__(self):
        raise TypeError("Engine: cannot be pickled; give the other process the path of the file, and open it there")

    def __repr__(self) -> str:
        kind = "offline" if self.offline else "streaming"
        return f"Engine({kind}, {self.macs_per_step} MACs per step, {self.bytes} bytes, isa={self.isa!r})"


class Stream:
    """The recurrent state of one sequence; made by `engine.stream()`.

    Its states have the names of the model: "lstm.h_l0" and "lstm.c_l0" of an `nn.LSTM` called `lstm`, "h_l0" of a model
    that is one layer, the names of the arguments of a model that was packed with `pack(states=...)`. What a causal
    convolution or another look-back remembers has no name; `reset` alone begins it again.

    `once` are the inputs that a sequence has once, by name; `step` and `run` take the others.
    """

    def __init__(self, engine: Engine, once: Mapping[str, object] = MappingProxyType({})):
        self._once = given_once(engine.inputs, once)
        if missing := [port.name for port in engine.inputs if port.once and port.name not in self._once]:
            raise invalid(
                "stream",
                got=f"no {missing[0]!r}",
                expected="all inputs that a sequence has once",
                hint=f"engine.stream({', '.join(f'{name}=...' for name in missing)})",
            )
        engine._check_memory("stream", engine.stream_bytes)
        self._engine = engine
        self._native = _native.Stream(engine._model)
        self._row_bytes = sum(4 * output_width(o) for o in engine.outputs)
        limit = sys.maxsize if engine.memory_limit is None else engine.memory_limit
        self._most_steps = limit // self._row_bytes  # whose outputs may be allocated

    def step(self, x, out=None):
        """Outputs of one time step: `x` is an array of the input's shape, or a token; of several inputs a tuple.

        `out` is where to write them: a float32 array of the output's shape, of several outputs a tuple.
        """
        if self._once:
            x = at_every_step(self._engine.inputs, x, self._once)
        if (y := self._native.step(x, out)) is not None:
            return y
        arrays = one_step(self._engine.inputs, x)
        rows = output_rows(self._engine.outputs, [o.shape for o in self._engine.outputs], out)
        check_apart(rows, arrays)
        self._native.run(arrays, rows, 1, False)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def run(self, xs, out=None):
        """Outputs of the next time steps, `(time, ...)`: bit for bit what `step` after `step` gives.

        `xs` may be frames one after the other, as in `Engine.run`.

        `out` is where to write them: a float32 array of the outputs' shape, of several outputs a tuple.
        """
        if self._once:
            xs = at_every_step(self._engine.inputs, xs, self._once)
        elif out is None and (ys := self._native.run_plain(xs, self._most_steps)) is not None:
            return ys
        arrays, steps = sequences(self._engine.inputs, xs, self._engine.frames_per_step)
        if out is None or self._once:
            of_step = self._engine._once_bytes + (self._row_bytes if out is None else 0)
            self._engine._check_memory(f"run of {steps} steps", steps * of_step)
        rows = output_rows(self._engine.outputs, [(steps, *o.shape) for o in self._engine.outputs], out)
        check_apart(rows, arrays)
        self._native.run([np.ascontiguousarray(x) for x in arrays], rows, steps, False)
        return rows[0] if len(rows) == 1 else tuple(rows)

    @property
    def states(self) -> tuple[State, ...]:
        """The states that have names, with their shapes, as `Engine.states`."""
        return self._engine.states

    def get_state(self, name: str) -> np.ndarray:
        """A copy of the state called `name`, float32 of its shape."""
        state = _state(self.states, name)
        return self._native.read_state(state.buffer).reshape(state.shape)

    def set_state(self, name: str, values) -> None:
        """Go on from another state called `name`: an array of its shape, where axes of length one do not count.

        Raises:
            ValueError: no such state, another shape, or, where the model's quantized products read this state with a
                fixed scale (`State.bounded`), numbers beyond -1 to 1. Nothing is changed.
        """
        state = _state(self.states, name)
        self._native.write_state(state.buffer, state_values(state, values))

    def reset(self, /, **given) -> None:
        """Reset to the initial state, but for the states given by name; see `set_state`.

        `stream.reset(h=h)`, or `stream.reset(**{"lstm.h_l0": h})` where a name has a dot. Inputs that a sequence has
        once are given likewise, `stream.reset(speaker=embedding)`; without, they stay as they are.
        """
        names = {port.name for port in self._engine.inputs if port.once}
        once = given_once(self._engine.inputs, {name: given.pop(name) for name in names & given.keys()})
        states = given
        arrays = [(s.buffer, state_values(s, states[s.name])) for s in (_state(self.states, n) for n in states)]
        self._native.reset()
        self._once |= once
        for buffer, values in arrays:
            self._native.write_state(buffer, values)

    def copy(self) -> Stream:
        """A copy of the stream, with the same state."""
        other = Stream(self._engine, self._once)
        other._native.set_state(self._native.state())
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> Stream:
        return self.copy()

    def __reduce__(self):
        raise TypeError("Stream: cannot be pickled; state_bytes() is its state, which load_state_bytes() takes")

    def state_bytes(self) -> bytes:
        """The state, to be loaded later into a stream of the same model."""
        return _STATE_MAGIC + struct.pack("<I", self._engine._checksum) + self._native.state()

    def load_state_bytes(self, state: bytes) -> None:
        """Restore a state saved by `state_bytes`."""
        size = 8 + self._engine._model.state_bytes
        if not isinstance(state, bytes):
            raise TypeError(f"state: expected bytes, got {type(state).__name__}")
        if state[:4] != _STATE_MAGIC or len(state) != size:
            raise invalid(
                "state", got=f"{len(state)} bytes", expected=f"the {size} bytes of this model's state_bytes()"
            )
        if state[4:8] != struct.pack("<I", self._engine._checksum):
            raise invalid("state", got="the state of another model", expected="one of this model")
        self._native.set_state(state[8:])


def _state(states: tuple[State, ...], name: str) -> State:
    found = next((s for s in states if s.name == name), None)
    if found is None:
        names = ", ".join(s.name for s in states) or "none: it keeps no state that has a name"
        raise invalid("state", got=repr(name), expected=f"a state of this model ({names})")
    return found
