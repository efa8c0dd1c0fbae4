"""Tasks on separate sequences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from .._memory import check_memory
from ..models.sequence_model import SequenceModel, SequenceModelOptions
from .base import AbstractTask
from .batch import Batch

Answers = Callable[[Batch], Tensor]
Part = Literal["train", "valid", "test"]
PARTS: tuple[str, ...] = get_args(Part)
EXAMPLE_STEPS, CALIBRATION_STEPS = 16, 4096
MAX_STEPS = 1 << 30  # to evaluate, as the metadata of a packed model may ask for


class AbstractSequencesTask(AbstractTask):
    """Sequences (batch, time, inputs), each from the initial state; the model answers at the last step, or at all.

    Sequences of several lengths are padded; see `Batch`. A batch follows from seed, epoch and index alone; validation
    and test parts are the same for every seed. A subclass gives `batch`, `batches`, `loss`, `target_count` and
    `errors`.
    """

    model_options = SequenceModelOptions
    inputs: int
    outputs: int
    every_step = False
    batch_rows = 1  # sequences in a batch of `batches`, at least

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
        """Length of the longest sequence."""

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """The inputs, and the outputs of each layer."""
        return 4 * max(self.batch_size, self.batch_rows) * self.steps * (self.inputs + sum(layer_sizes))

    @abstractmethod
    def batches(self, part: str) -> Iterator[Batch]:
        """All sequences of a part."""

    @abstractmethod
    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Of each metric by name: the sum of the errors of `answers`, and of how many it is the sum."""

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """The same of metrics that are not needed while a model is trained; default: none."""
        return {}

    def build_model(self, options: SequenceModelOptions) -> SequenceModel:
        return SequenceModel(self.inputs, self.outputs, options, self.every_step)

    def forward(self, model: nn.Module, batch: Batch, states: Any) -> tuple[Tensor, Any]:
        """Outputs; no state is carried from one batch to the next."""
        return model(batch.inputs) if batch.lengths is None else model(batch.inputs, batch.lengths), None

    def answers(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The outputs, with `every_step` those that are not at padding."""
        return batch.within(outputs) if self.every_step else outputs

    def evaluate(self, model: Any, part: str, streams: int = 1) -> float:
        return self._means(part, self._model_answers(model), [self.errors])[self.metric]

    def scores(self, model: Any, part: str) -> dict[str, float]:
        return self._means(part, self._model_answers(model), [self.errors, self.other_errors])

    def evaluate_engine(self, engine: Any, part: str) -> float:
        """The mean error of a packed model, which reads one sequence after the other."""
        return self._means(part, self._engine_answers(engine), [self.errors])[self.metric]

    def engine_scores(self, engine: Any, part: str) -> dict[str, float]:
        return self._means(part, self._engine_answers(engine), [self.errors, self.other_errors])

    def _model_answers(self, model: Any) -> Answers:
        device = next(model.parameters()).device

        @torch.no_grad()
        def answers(batch: Batch) -> Tensor:
            training = model.training
            model.eval()
            outputs = self.forward(model, batch.to(device), None)[0].float().cpu()
            model.train(training)
            return self.answers(outputs, batch)

        return answers

    def _engine_answers(self, engine: Any) -> Answers:
        self._check_engine(engine)
        return lambda batch: _run_each(engine, batch, self.every_step)

    def _check_engine(self, engine: Any) -> None:
        ports = [(port.vocabulary, port.shape) for port in engine.inputs]
        answers = [(port.shape, port.final) for port in engine.outputs]
        if ports != [(0, (self.inputs,))] or answers != [((self.outputs,), not self.every_step)]:
            got = f"(vocabulary, shape) {ports} in, (shape, final) {answers} out"
            wanted = f"{self.inputs} numbers a step in, {self.outputs} out "
            wanted += "at every step" if self.every_step else "after the last"
            raise invalid("model", got=got, expected=wanted + f", as its task {self.data.name} needs")
        steps = self.steps * max(self.counts(part)["sequences"] for part in PARTS)
        if steps > MAX_STEPS:
            raise invalid("task", got=f"{steps:,} steps to evaluate", expected=f"at most {MAX_STEPS:,}")
        check_memory(4 * self.batch_rows * self.steps * self.inputs, "the sequences of the task")

    def _means(self, part: str, answers: Answers, measures: Sequence[Callable[..., Any]]) -> dict[str, float]:
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for batch in self.batches(part):
            found = answers(batch)
            for name, (total, count) in (item for measure in measures for item in measure(found, batch).items()):
                totals[name], counts[name] = totals.get(name, 0.0) + total, counts.get(name, 0) + count
        means = {name: totals[name] / counts[name] for name in totals}
        return {**means, **self.extra_metrics(means[self.metric])}

    def metadata(self) -> dict[str, Any]:
        """The section `[task]` and the metric."""
        return {"task": {**asdict(self.data), "metric": self.metric}}

    def example_inputs(self) -> Tensor:
        """The beginning of the first validation sequence, (1, 16, inputs) or shorter."""
        return self.calibration_inputs()[:1, :EXAMPLE_STEPS]

    def calibration_inputs(self) -> Tensor:
        """Four validation sequences, as many of their first steps as all have, at most 4,096."""
        batch = next(self.batches("valid")).rows(0, 4)
        common = batch.inputs.shape[1] if batch.lengths is None else int(batch.lengths.min())
        return batch.inputs[:, : min(common, CALIBRATION_STEPS)]

    def example(self, part: str, number: int) -> tuple[Tensor, ...]:
        """A sequence without padding, in the order of `batches`."""
        before = 0
        for batch in self.batches(part):
            if 1 <= number <= before + len(batch):
                return self.one(batch.rows(number - before - 1, number - before))
            before += len(batch)
        raise invalid("example", got=number, expected=f"1 to {before}, the sequences of the {part} part")

    def one(self, batch: Batch) -> tuple[Tensor, ...]:
        """The arguments of `model(...)` of a batch of one sequence, without padding."""
        return (batch.inputs if batch.lengths is None else batch.inputs[:, : int(batch.lengths)],)


class AbstractSequenceTask(AbstractSequencesTask):
    """One target per sequence, predicted at its last step, or with `every_step` one per step, (batch, time).

    Sequences have time first in memory. A subclass gives `batch`, `batches`, `criterion` and `error_per_target`.
    """

    @abstractmethod
    def criterion(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The mean loss: (targets, outputs), (targets,) -> scalar."""

    @abstractmethod
    def error_per_target(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The error of each answer, whose mean is the metric: (targets, outputs), (targets,) -> (targets,)."""

    def targets(self, batch: Batch) -> Tensor:
        """The targets, one for each of `answers`."""
        return batch.within(batch.targets) if self.every_step else batch.targets

    def target_count(self, batch: Batch) -> int:
        """One per sequence, or per step."""
        return batch.steps() if self.every_step else len(batch)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The criterion over all targets."""
        return self.criterion(self.answers(outputs, batch), self.targets(batch))

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """The sum of `error_per_target`, and the number of targets."""
        errors = self.error_per_target(answers, self.targets(batch))
        return {self.metric: (float(errors.double().sum()), len(errors))}


def _run_each(engine: Any, batch: Batch, every_step: bool) -> Tensor:
    """The answers of an engine to each sequence without its padding."""
    inputs = batch.inputs.contiguous().numpy()
    lengths = [inputs.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
    found = [np.asarray(engine.run(x[:length])) for x, length in zip(inputs, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(found) if every_step else np.stack([np.atleast_1d(y) for y in found]))


def generator(seed: int, part: str, *numbers: int) -> np.random.Generator:
    """Random numbers that follow from the part and `numbers`; those of training from `seed` too.

    >>> bool(generator(0, "valid", 3).integers(100) == generator(1, "valid", 3).integers(100))
    True
    """
    if part not in PARTS:
        raise invalid("part", got=repr(part), expected=f"one of {', '.join(PARTS)}")
    return np.random.default_rng((PARTS.index(part), seed if part == "train" else 0, *numbers))
