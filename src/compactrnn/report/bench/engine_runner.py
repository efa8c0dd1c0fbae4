"""The engine of this package, to be timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.engine import Engine
from .base import AbstractRunner
from .roofline import read_rate, weight_bytes


class EngineRunner(AbstractRunner):
    """A packed model: `step` for one step a call, `run` for more; whole sequences for an offline model."""

    def __init__(self, engine: Engine, data: bytes, steps: int):
        self.engine, self.steps = engine, steps
        self.weight_bytes = weight_bytes(data)
        self.stream = None if engine.offline else engine.stream()
        if self.stream is None:
            self._call: Any = engine.run
        else:
            self._call = self.stream.step if steps == 1 else self.stream.run

    def prepare(self, inputs: np.ndarray) -> Any:
        """One step or token, or a sequence of them."""
        if self.stream is None or self.steps > 1:
            return inputs
        return int(inputs[0]) if self.engine.inputs[0].vocabulary else inputs[0]

    def feed(self, prepared: Any) -> Any:
        return self._call(prepared)

    def reset(self) -> None:
        if self.stream is not None:
            self.stream.reset()

    def to_numpy(self, output: Any) -> np.ndarray:
        return np.asarray(output[0] if isinstance(output, tuple) else output).reshape(self.steps, -1)

    def further_seconds(self, inputs: np.ndarray, calls: int) -> dict[str, float]:
        """The call from C (`in_c`), and a plain read of the weights of one step (`floor`)."""
        found = {}
        rate = read_rate(self.engine.isa, self.weight_bytes)
        if rate is not None:
            found["floor"] = self.weight_bytes / rate
        if self.stream is not None:
            port = self.engine.inputs[0]
            given = np.ascontiguousarray(inputs, np.int32 if port.vocabulary else np.float32)
            results = [np.empty((self.steps, *output.shape), np.float32) for output in self.engine.outputs]
            found["in_c"] = self.stream._native.time([given], results, self.steps, calls) / calls
        return found
