"""What the training loop asks of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ..models.base import AbstractModel


class AbstractTask(ABC):
    """Data and a measure of quality; lower is better.

    The loop asks for update `i` of an epoch by its number, so a position in the data is a number too. `data_options`
    and `model_options` are frozen dataclasses: the sections `[task]` and `[model]` of a recipe. The former has a field
    `name`, the task's.
    """

    data_options: ClassVar[type]
    model_options: ClassVar[type]
    metric: str

    @classmethod
    @abstractmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task that a recipe describes; `saved` is the `metadata` of the run that is opened again."""

    @abstractmethod
    def updates_per_epoch(self) -> int:
        """How many updates go once through the training part."""

    @abstractmethod
    def batch(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs and targets of update `index` of epoch number `epoch`, batch first."""

    def check_start(self, streams: int) -> None:
        """Raise `ValueError` if there is too little data to train on or for `evaluate` with so many `streams`."""
        self.updates_per_epoch()

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """A lower bound of the memory that an update takes besides the weights."""
        return 0

    @abstractmethod
    def build_model(self, options: Any) -> AbstractModel:
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

    def also(self, metric: float) -> dict[str, float]:
        """A metric's value in other words, by their names."""
        return {}

    def solved(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether all of a batch is answered rightly; never, for a task that is not said to be solved at some point."""
        return False

    @abstractmethod
    def amount(self, part: str) -> dict[str, int]:
        """How much there is in `part`, under the name of what is counted."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What a packed model must carry to be evaluated."""

    @abstractmethod
    def example_inputs(self) -> Tensor:
        """A small input, batch first, as `model(...)` takes it."""

    @abstractmethod
    def calibration_inputs(self) -> Tensor:
        """Validation data, batch first, on which the error of a packed model is measured."""
