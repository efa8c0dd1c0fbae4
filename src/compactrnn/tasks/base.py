"""The interface of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from .._errors import invalid
from .._validate import validated
from ..models.base import AbstractModel
from .batch import Batch


class AbstractTask(ABC):
    """A data set, a loss and a metric, of which lower is better.

    The training loop asks for batch `index` of an epoch by its number, so a position in the data is a number too.
    `data_options` and `model_options` are frozen dataclasses: the sections `[task]` and `[model]` of a recipe. The
    former has a field `name`, the task's.
    """

    data_options: ClassVar[type]
    model_options: ClassVar[type]
    metric: str
    distill_targets: ClassVar[tuple[str, ...]] = ("probabilities",)  # of `Distill`; none where outputs are no logits
    one_process: ClassVar[bool] = False  # whether it cannot be trained on several devices
    keeps_states: bool = False  # whether the states that are carried from batch to batch outlast an epoch

    @classmethod
    @abstractmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task that a recipe describes; `saved` is the `metadata` of a trained model that is opened again."""

    @classmethod
    def with_data(cls, options: Any, data: str) -> Any:
        """`options` with another data set; `ValueError` for a task that has its own."""
        raise invalid("data", got=repr(data), expected=f"none: the task {options.name} has its own")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], data: str | None = None) -> Self:
        """The task of a packed model, to be evaluated on, or on other `data`; the metadata may be anyone's."""
        section = {key: value for key, value in metadata["task"].items() if key != "metric"}
        options = validated(cls.data_options, section, "model metadata: task")
        options = options if data is None else cls.with_data(options, data)
        return cls.build(options, batch_size=1, steps=1, shift=False, seed=0, saved=metadata)

    @abstractmethod
    def updates_per_epoch(self) -> int:
        """Number of updates that go once through the training part."""

    @abstractmethod
    def batch(self, index: int, epoch: int = 0) -> Batch:
        """The batch of update `index` of epoch number `epoch`."""

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
    def forward(self, model: nn.Module, batch: Batch, states: Any) -> tuple[Tensor, Any]:
        """Outputs of the model, and the states to carry into the next batch, detached."""

    @abstractmethod
    def answers(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The outputs that have a target, without those at padding: (targets, outputs)."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean loss per target."""

    @abstractmethod
    def target_count(self, batch: Batch) -> int:
        """The number of targets in a batch."""

    def teacher_outputs(self, teacher: nn.Module) -> Tensor | None:
        """Outputs of a teacher for the whole training part; None where they are too many to keep."""
        return None

    def teacher_targets(self, outputs: Tensor, index: int, epoch: int) -> Tensor:
        """Those of `teacher_outputs` that belong to a batch."""
        raise NotImplementedError(f"{type(self).__name__} keeps no teacher outputs")

    @abstractmethod
    def evaluate(self, model: nn.Module, part: str, streams: int = 1) -> float:
        """The metric on `part` (train, valid or test); a text is read as `streams` stretches side by side."""

    @abstractmethod
    def evaluate_engine(self, engine: Any, part: str) -> float:
        """The metric of a packed model on `part`; `ValueError` if its inputs or outputs are not this task's."""

    def scores(self, model: nn.Module, part: str) -> dict[str, float]:
        """The metric of `evaluate` and others, by name."""
        metric = self.evaluate(model, part)
        return {self.metric: metric, **self.extra_metrics(metric)}

    def engine_scores(self, engine: Any, part: str) -> dict[str, float]:
        """The metric of `evaluate_engine` and others, by name."""
        metric = self.evaluate_engine(engine, part)
        return {self.metric: metric, **self.extra_metrics(metric)}

    def extra_metrics(self, metric: float) -> dict[str, float]:
        """Other metrics that follow from the value of the metric, by name."""
        return {}

    def solved(self, outputs: Tensor, batch: Batch) -> bool:
        """Whether every target of a batch is predicted correctly; always False for a task without such a criterion."""
        return False

    @abstractmethod
    def counts(self, part: str) -> dict[str, int]:
        """The size of `part`, by the name of what is counted."""

    def data_name(self) -> str | None:
        """The name or path of the data set, for a task that can read several."""
        return None

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """What a packed model must carry to be evaluated: an entry `task` with the name and the metric, and more."""

    @abstractmethod
    def example_inputs(self) -> Tensor:
        """A small input, batch first, as `model(...)` takes it."""

    @abstractmethod
    def calibration_inputs(self) -> Tensor:
        """Validation data, batch first, on which the error of a packed model is measured."""

    @abstractmethod
    def example(self, part: str, number: int) -> tuple[Tensor, ...]:
        """Sequence `number` of a part, from 1, as arguments of `model(...)`; `ValueError` if there is none."""

    def text_inputs(self, text: str) -> tuple[Tensor, ...]:
        """A text as arguments of `model(...)`; `ValueError` for a task that reads none."""
        raise invalid("text", got=f"{text[:20]!r} for a model of another kind", expected="it with a language model")

    def step_labels(self, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
        """What is read at each step of an example, in words; none where it is numbers."""
        return ()
