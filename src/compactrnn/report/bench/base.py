"""What takes part in a race."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .model import PlainModel


class Refused(ValueError):
    """A runtime cannot take this model in this form."""


class AbstractContender(ABC):
    """One way to run a recurrent model, so many time steps a call, its state carried from call to call."""

    @abstractmethod
    def prepare(self, inputs: np.ndarray) -> Any:
        """The inputs of one call, (steps,) tokens or (steps, size) float32, as `feed` takes them; not timed."""

    @abstractmethod
    def feed(self, prepared: Any) -> Any:
        """The outputs of the next steps; timed."""

    @abstractmethod
    def reset(self) -> None:
        """Start from the initial state."""

    @abstractmethod
    def to_numpy(self, output: Any) -> np.ndarray:
        """What `feed` gave as (steps, size); not timed."""

    def activate(self) -> None:
        """Called before each turn; not timed."""
        return None

    def further_seconds(self, inputs: np.ndarray, calls: int) -> dict[str, float]:
        """Other times of one call, by name, measured in the same turn."""
        return {}


@dataclass(frozen=True)
class Form:
    """A contender to be: `"onnxruntime int8"`, how its weights are held, and how to make it for so many steps a call.

    Anything that `build` raises means that this form cannot take the model; the race goes on without it.
    """

    name: str
    precision: str
    build: Callable[[PlainModel, int], AbstractContender]

    @property
    def peer(self) -> str:
        """The runtime."""
        return self.name.split()[0]
