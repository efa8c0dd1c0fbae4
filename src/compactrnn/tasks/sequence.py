"""What tasks with one answer per sequence share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from .._memory import check_memory
from ..models.sequence_model import SequenceModel, SequenceModelOptions
from .base import AbstractTask

Part = Literal["train", "valid", "test"]
PARTS: tuple[str, ...] = get_args(Part)
EXAMPLE_STEPS, CALIBRATION_STEPS = 16, 4096
MOST_STEPS = 1 << 30  # that a packed model's own words may ask for


class AbstractSequenceTask(AbstractTask):
    """Sequences (batch, time, inputs), with time first in memory, and an answer each, given after the last step.

    A batch follows from seed, epoch and index alone; validation and test parts are the same for every seed. A subclass
    gives `batch`, `pieces` and what an answer is worth.
    """

    model_options = SequenceModelOptions
    inputs: int
    outputs: int
    piece = 1  # sequences at least that `pieces` gives at a time

    def __init__(self, data: Any, *, batch_size: int, seed: int = 0):
        self.data, self.batch_size, self.seed = data, check_positive(batch_size, "batch_size"), seed

    @classmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task of a recipe; `steps` and `shift` are for tasks that cut one long sequence into updates."""
        return cls(data, batch_size=batch_size, seed=seed)

    @property
    @abstractmethod
    def steps(self) -> int:
        """Of a sequence."""

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """The inputs, and what each layer gives."""
        return 4 * max(self.batch_size, self.piece) * self.steps * (self.inputs + sum(layer_sizes))

    @abstractmethod
    def pieces(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """All sequences and targets of a part, some at a time."""

    @abstractmethod
    def penalty(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What each answer adds to the metric's mean: (batch, outputs) -> (batch,)."""

    def build_model(self, options: SequenceModelOptions) -> SequenceModel:
        """See `SequenceModel`."""
        return SequenceModel(self.inputs, self.outputs, options)

    def forward(self, model: nn.Module, inputs: Tensor, states: Any) -> tuple[Tensor, Any]:
        """Answers; nothing is carried from one batch to the next."""
        return model(inputs), None

    @torch.no_grad()
    def evaluate(self, model: Any, part: str, streams: int = 1) -> float:
        """The mean penalty."""
        training, device = model.training, next(model.parameters()).device
        model.eval()
        value = self._mean(part, lambda inputs: model(inputs.to(device)).float().cpu())
        model.train(training)
        return value

    def check_fits(self, engine: Any) -> None:
        """Raise `ValueError` unless a packed model reads this task's sequences and gives its answers, in good time."""
        ports = [(port.vocabulary, port.shape) for port in engine.inputs]
        answers = [(port.shape, port.final) for port in engine.outputs]
        if ports != [(0, (self.inputs,))] or answers != [((self.outputs,), True)]:
            got = f"(vocabulary, shape) {ports} in, (shape, final) {answers} out"
            wanted = f"{self.inputs} numbers a step in, {self.outputs} out after the last"
            raise invalid("model", got=got, expected=wanted + f", as its task {self.data.name} needs")
        steps = self.steps * max(self.amount(part)["sequences"] for part in PARTS)
        if steps > MOST_STEPS:
            raise invalid("task", got=f"{steps:,} steps to evaluate", expected=f"at most {MOST_STEPS:,}")
        check_memory(4 * self.piece * self.steps * self.inputs, "the sequences of the task")

    def evaluate_engine(self, engine: Any, part: str) -> float:
        """The same for a packed model, which reads one sequence after the other."""

        def answers(inputs: Tensor) -> Tensor:
            return torch.from_numpy(np.stack([np.atleast_1d(engine.run(x)) for x in inputs.contiguous().numpy()]))

        return self._mean(part, answers)

    def _mean(self, part: str, answers: Any) -> float:
        total, count = 0.0, 0
        for inputs, targets in self.pieces(part):
            penalties = self.penalty(answers(inputs), targets)
            total, count = total + float(penalties.double().sum()), count + len(penalties)
        return total / count

    def metadata(self) -> dict[str, Any]:
        """The section `[task]` and the metric."""
        return {"task": {**asdict(self.data), "metric": self.metric}}

    def example_inputs(self) -> Tensor:
        """The beginning of the first validation sequence, (1, 16, inputs)."""
        return self.calibration_inputs()[:1, :EXAMPLE_STEPS]

    def calibration_inputs(self) -> Tensor:
        """Four validation sequences, at most their first 4,096 steps."""
        return next(self.pieces("valid"))[0][:4, :CALIBRATION_STEPS]


def generator(seed: int, part: str, *numbers: int) -> np.random.Generator:
    """Random numbers that follow from the part and `numbers`; those of training from `seed` too.

    >>> bool(generator(0, "valid", 3).integers(100) == generator(1, "valid", 3).integers(100))
    True
    """
    if part not in PARTS:
        raise invalid("part", got=repr(part), expected=f"one of {', '.join(PARTS)}")
    return np.random.default_rng((PARTS.index(part), seed if part == "train" else 0, *numbers))
