"""One phase of training: a model, an optimizer, a position in the data."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from ..tasks.batch import Batch
from .average import WeightAverage
from .devices import Processes
from .optimizer import build_optimizer
from .pruner import build_distill, build_pruner
from .recipe import PhaseOptions, TrainingOptions
from .schedule import LearningRate

STATISTICS = 16  # batches


class PhaseRun:
    """Everything that changes while a phase runs, and the update that changes it.

    The position in the data is the update's number: update u reads batch `u % updates_per_epoch`.
    """

    def __init__(
        self,
        options: PhaseOptions,
        training: TrainingOptions,
        task: AbstractTask,
        model: AbstractModel,
        processes: Processes,
        teacher: nn.Module | None,
        precision: Any = "32-true",
        trained: AbstractModel | None = None,
    ):
        self.options, self.training, self.task, self.processes = options, training, task, processes
        self.fabric = processes.fabric
        self.per_epoch = task.updates_per_epoch()
        self.total = options.total_updates(self.per_epoch)
        self.model = model
        self.pruner = build_pruner(model, task, options, trained)  # its gates are parameters of the model
        self.distill = build_distill(model, teacher, options)
        maps = [] if self.distill is None else self.fabric.to_device(self.distill).parameters()
        optimizer = build_optimizer([*model.parameters(), *maps], options.optimizer)
        self.wrapped, self.optimizer = self.fabric.setup(model, optimizer)
        _let_advance(self.wrapped, model)
        self.rate = LearningRate(
            options.schedule, options.optimizer.learning_rate, total=self.total, per_epoch=self.per_epoch
        )
        self.teacher = self.teacher_outputs = None
        if teacher is not None:
            if self.distill is not None and not self.distill.hidden.pairs:
                self.teacher_outputs = task.teacher_outputs(self.fabric.to_device(teacher.eval()))
            self.teacher = processes.alone(precision).setup_module(teacher.eval().requires_grad_(False))
            _let_advance(self.teacher, teacher)
        self.average = WeightAverage(model, options.average) if options.average is not None else None
        self.update = 0
        self.states: Any = None
        self.teacher_states: Any = None
        self.best = math.inf
        self.best_weights: dict[str, Tensor] | None = None
        self.waited = 0
        self.solved = 0  # batches in a row
        self.loss_sum, self.loss_count = 0.0, 0
        self.trained = {"sequences": 0, "steps": 0, "seconds": 0.0}

    def step(self) -> float:
        """One update; returns its loss (mean per target, without penalties)."""
        began = time.perf_counter()
        index, epoch = self.update % self.per_epoch, self.update // self.per_epoch
        if index == 0 and not self.task.keeps_states:
            self.states = self.teacher_states = None
        whole = self.task.batch(index, epoch)
        batch = self.processes.rows(whole).to(self.fabric.device)
        rate = self.rate.at(self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with nullcontext() if self.distill is None else self.distill.watch():
            outputs, self.states = self.task.forward(self.wrapped, batch, self.states)
            of_teacher = None if self.distill is None else self._teacher_targets(whole, batch)
        plain = self.task.loss(outputs, batch)
        self.optimizer.zero_grad()
        self.fabric.backward(self._objective(plain, outputs, of_teacher, whole, batch))
        if (bound := self.options.optimizer.clip_value) is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, clip_val=bound)
        norm = None
        if (bound := self.options.optimizer.clip) is not None:
            norm = self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=bound, error_if_nonfinite=False)
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.step(self.optimizer)
        if self.average is not None:
            self.average.follow(self.model, self.update)
        self.update += 1
        share = self._share(whole, batch) / self.processes.count
        right = self.task.solved(outputs.detach(), batch)
        value, all_right = self.processes.sum([float(plain.detach()) * share, float(right)])
        self._check_finite("loss", value)
        if (
            norm is not None and self.training.precision != "16-mixed"
        ):  # whose scale of the loss falls after such a step
            self._check_finite("norm of the gradient", float(norm))
        self.solved = self.solved + 1 if all_right == self.processes.count else 0
        self.loss_sum += value
        self.loss_count += 1
        self.trained["sequences"] += len(whole)
        self.trained["steps"] += whole.steps()
        self.trained["seconds"] += time.perf_counter() - began
        return value

    def _objective(
        self, plain: Tensor, outputs: Tensor, of_teacher: Tensor | None, whole: Batch, batch: Batch
    ) -> Tensor:
        """What is minimized: the loss, a teacher's part of it, and penalties."""
        loss = plain
        if self.distill is not None and of_teacher is not None:
            if self.distill.targets != "transcript":
                outputs, of_teacher = self.task.answers(outputs, batch), self.task.answers(of_teacher, batch)
            loss = self.distill.loss(plain, outputs, of_teacher, batch.lengths)
        if self.training.loss_reduction == "sum_steps":
            loss = loss * self.training.steps
        if self.processes.count > 1:
            loss = loss * self._share(whole, batch)
        for cell in self.model.modules():
            if isinstance(cell, AbstractCell) and (penalty := cell.penalty()) is not None:
                loss = loss + penalty
        return loss if self.pruner is None else loss + self.pruner.penalty()

    def _share(self, whole: Batch, batch: Batch) -> float:
        """What a mean over `batch` counts in the mean over processes, so that this is the mean over all targets."""
        if self.processes.count == 1:
            return 1.0
        return self.processes.count * self.task.target_count(batch) / self.task.target_count(whole)

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{what}: expected a finite value, got {value} at update {self.update};"
                " lower the learning rate or set clip"
            )

    @torch.no_grad()
    def _teacher_targets(self, whole: Batch, batch: Batch) -> Tensor:
        """The teacher's outputs for a batch: from one pass over the training part where they fit, else computed now."""
        assert self.teacher is not None
        if self.teacher_outputs is not None:
            index, epoch = self.update % self.per_epoch, self.update // self.per_epoch
            outputs = self.task.teacher_targets(self.teacher_outputs, index, epoch)
            return self.processes.rows(Batch(outputs, whole.targets)).inputs
        outputs, self.teacher_states = self.task.forward(self.teacher, batch, self.teacher_states)
        return outputs

    def evaluate(self) -> dict[str, float]:
        """Validate, remember the best weights; returns the entries of a metrics line."""
        with self.average.in_place(self.model) if self.average is not None else nullcontext():
            device = self.fabric.device
            batches = (self.task.batch(i).to(device) for i in range(min(STATISTICS, self.per_epoch)))
            self.model.update_statistics((b.inputs,) if b.lengths is None else (b.inputs, b.lengths) for b in batches)
            # every process evaluates, for it takes no longer; the first one's value decides
            metric = self.task.evaluate(self.wrapped, "valid", self.training.validation_streams)
            metric = self.processes.of_first(metric)
            self._check_finite(f"validation {self.task.metric}", metric)
            weights = self.model.state_dict()
            # of equal ones the last: it has been trained longer
            if metric <= self.best and self.pruner is None:
                self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.rate.observe(metric)
        if metric < self.best:
            self.best, self.waited = metric, 0
        else:
            self.waited += 1
        record = {"loss": self.mean_loss(), f"valid_{self.task.metric}": metric}
        self.loss_sum, self.loss_count = 0.0, 0
        return record

    def mean_loss(self) -> float:
        """The mean loss of the updates since the last evaluation."""
        return self.loss_sum / max(1, self.loss_count)

    def finished(self) -> bool:
        """Whether the phase is over."""
        patience, target = self.options.patience, self.options.target
        done = self.update >= self.total or (patience is not None and self.waited >= patience)
        return done or (target is not None and self.best <= target)

    def outcome(self) -> Any:
        """The phase's model: the best one seen, or what is left after pruning."""
        self.processes.check_in_step(self.model)
        if self.pruner is not None:
            return self.pruner.shrink()
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint; with several processes the carried states of all, stacked."""
        return {
            "update": self.update,
            "model": dict(self.model.state_dict()),
            "best_weights": self.best_weights,
            "best": self.best,
            "average": None if self.average is None else self.average.weights,
            "waited": self.waited,
            "solved": self.solved,
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "states": self.processes.gather(self.states),
            "teacher_states": self.processes.gather(self.teacher_states),
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "distill": None if self.distill is None else dict(self.distill.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        own = self.processes.own((state["states"], state["teacher_states"]))
        self.states, self.teacher_states = self.fabric.to_device(own)
        self.best_weights = state["best_weights"]
        for name in ("update", "best", "waited", "solved", "loss_sum", "loss_count"):
            setattr(self, name, state[name])
        if self.average is not None:
            self.average.load(self.fabric.to_device(state["average"]), self.model)
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        if self.distill is not None:
            self.distill.load_state_dict(state["distill"])


def _let_advance(wrapped: Any, model: nn.Module) -> None:
    """Let a model that carries states be called by `advance` through its wrapper."""
    if hasattr(model, "advance"):
        wrapped.mark_forward_method("advance")
