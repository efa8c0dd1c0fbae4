"""The interface of everything that is timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .model import PlainModel


class Unsupported(ValueError):
    """A framework cannot run this model in this configuration."""


class AbstractRunner(ABC):
    """Runs a recurrent model, a fixed number of time steps per call, with the state carried over."""

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
        """Called before each repetition; not timed."""
        return None

    def further_seconds(self, inputs: np.ndarray, calls: int) -> dict[str, float]:
        """Other times of one call, by name, measured in the same repetition."""
        return {}


@dataclass(frozen=True)
class Config:
    """A configuration: name (`"onnxruntime int8"`), weight precision, and how to build a runner.

    `build(model, steps)` makes a runner for so many steps per call. Whatever it raises means that this
    configuration cannot run the model; the others are timed without it.
    """

    name: str
    precision: str
    build: Callable[[PlainModel, int], AbstractRunner]

    @property
    def framework(self) -> str:
        """Name of the framework."""
        return self.name.split()[0]
