"""What every task can do for the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class AbstractTask(ABC):
    """Data and a measure of quality; lower is better.

    The loop asks for update `i` of an epoch by its number, so a position in the data is a number too.
    """

    metric: str

    @abstractmethod
    def updates_per_epoch(self) -> int:
        """How many updates go once through the training part."""

    @abstractmethod
    def batch(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs and targets of update `index` of epoch number `epoch`, batch first."""

    @abstractmethod
    def build_model(self, options: Any) -> nn.Module:
        """A new model for this task."""

    @abstractmethod
    def forward(self, model: nn.Module, inputs: Tensor, states: Any) -> tuple[Tensor, Any]:
        """Outputs and the states to carry into the next batch, cut off from the gradient."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss per target."""

    def predictions(self, model: nn.Module) -> Tensor | None:
        """What `model` gives for the whole training part, for `lesson` to cut; None where that is too much to keep."""
        return None

    def lesson(self, predictions: Tensor, index: int, epoch: int) -> Tensor:
        """The part of `predictions` that belongs to a batch."""
        raise ValueError(f"{type(self).__name__} keeps no predictions")

    @abstractmethod
    def evaluate(self, model: nn.Module, part: str, streams: int = 1) -> float:
        """The metric on `part` (train, valid or test); `streams` > 1 reads that many pieces of it side by side."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What a packed model must carry to be evaluated."""

    @abstractmethod
    def example_inputs(self) -> Tensor:
        """A small input, batch first, as `model(...)` takes it."""
