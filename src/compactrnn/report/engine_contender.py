"""Our own engine in the race."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._errors import invalid
from ..runtime.engine import Engine
from .race import AbstractContender


class EngineContender(AbstractContender):
    """A packed model: `step` for one step a call, `run` for more; whole sequences for an offline model."""

    exact = False

    def __init__(self, engine: Engine, name: str = "engine"):
        if len(engine.inputs) != 1:
            raise invalid("model", got=f"{len(engine.inputs)} inputs", wanted="one input, to make up data for it")
        self.name, self.engine = name, engine
        self.stream = None if engine.offline else engine.stream()

    def random_inputs(self, length: int) -> np.ndarray:
        """`length` steps of made-up data: (length,) tokens or (length, ...) normal numbers."""
        random, port = np.random.default_rng(0), self.engine.inputs[0]
        if port.vocabulary:
            return random.integers(0, port.vocabulary, length)
        return random.standard_normal((length, *port.shape)).astype(np.float32)

    def prepare(self, tokens: np.ndarray) -> Any:
        """The method to call and what it takes."""
        if self.stream is None:
            return self.engine.run, tokens
        if len(tokens) > 1:
            return self.stream.run, tokens
        return self.stream.step, int(tokens[0]) if tokens.ndim == 1 else tokens[0]

    def feed(self, prepared: Any) -> Any:
        """One call."""
        call, given = prepared
        return call(given)

    def reset(self) -> None:
        """Start again."""
        if self.stream is not None:
            self.stream.reset()
