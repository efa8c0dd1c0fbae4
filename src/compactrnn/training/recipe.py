"""Recipes: TOML files as frozen dataclasses, checked key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from .._bounds import (
    STRICT,
    Count,
    CountFrom0,
    Finite,
    Flag,
    Option,
    Positive,
    PositiveOrZero,
    Projections,
    Seed,
    Share,
    ShareAbove0,
    ShareBelow1,
)
from .._errors import invalid
from .._files import read_file
from .._validate import validated
from ..tasks.table import DEFAULT, TASKS
from ..weights.registry import weight_spec
from .compress_options import CompressOptions
from .overrides import override_
from .phase_names import PhaseName, check_apart

_MAX_BYTES = 1 << 20
Data = TypeVar("Data")
Model = TypeVar("Model")


@dataclass(frozen=True)
class OptimizerOptions:
    """`clip` bounds the global norm of the gradient, `clip_value` each of its numbers, before that.

    `weight_decay` acts on all parameters, or with `decay = "matrices"` on those of two axes or more: not on biases, the
    scales of norms and the recurrent vectors of independent units.
    """

    name: Literal["AdamW", "SGD"] = "AdamW"
    learning_rate: Positive = 1e-3
    weight_decay: PositiveOrZero = 0.0
    momentum: ShareBelow1 = 0.0
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.999)
    clip: Positive | None = None
    clip_value: Positive | None = None
    decay: Literal["all", "matrices"] = "all"


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning-rate schedule; see `LearningRate`."""

    name: Literal["constant", "cosine", "steps", "plateau"] = "constant"
    warmup: CountFrom0 = 0
    final: Share = 0.0
    constant_epochs: CountFrom0 = 0
    every_epochs: Count = 1
    factor: ShareAbove0 = 0.5
    patience: CountFrom0 = 1


@dataclass(frozen=True)
class FactorizeOptions:
    """What the model's matrices are replaced by at the start of a phase; see `compactrnn.factorize_`.

    Low rank for all of them: of a `rank`, of the smallest rank with this share of `energy`, or of the ranks with which
    the fraction `keep` of the model's parameters is left. `weights` has other weights by name, such as
    `"output" = { kind = "LowRank", rank = 8 }`; an empty table leaves a matrix. With `projection` layers first get
    one of so many numbers each, 0 for none, which their recurrence and the next layer share. Ranks and factors are of
    what flows through on `calibration` batches of training data, with 0 of the matrices alone.
    """

    rank: Count | None = None
    energy: ShareAbove0 | None = None
    keep: ShareAbove0 | None = None
    weights: dict[str, dict[str, Option]] = field(default_factory=dict)
    projection: Projections = ()
    calibration: CountFrom0 = 0

    def __post_init__(self):
        given = [name for name in ("rank", "energy", "keep") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.weights or self.projection):
            raise ValueError("give one of rank, energy and keep, or weights by name, or projection")
        if self.keep == 1:
            raise ValueError("keep: expected less than 1, got 1")
        for name, table in self.weights.items():
            if table:
                try:
                    weight_spec(table)
                except ValueError as error:
                    raise ValueError(f"weights.{name}: {error}") from None


@dataclass(frozen=True)
class DistillOptions:
    """Distillation from the final model of phase `teacher`; see `compactrnn.Distill`.

    The loss is `(1 - weight) * loss + weight * loss_of_teacher`, and for each recurrent layer named in `hidden` its
    number times the mean squared difference of the states. `targets` are the teacher's "probabilities", its most
    likely "classes", or the "transcript" that its outputs are decoded to; a task has some of them.
    """

    teacher: PhaseName
    weight: Share = 0.5
    temperature: Annotated[Positive, Field(ge=1e-2, le=1e3)] = 1.0
    targets: Literal["probabilities", "classes", "transcript"] = "probabilities"
    hidden: dict[str, Positive] = field(default_factory=dict)

    def __post_init__(self):
        if self.targets != "probabilities" and self.temperature != 1:
            raise ValueError(f"temperature: expected none with targets = {self.targets!r}, got {self.temperature}")


@dataclass(frozen=True)
class PhaseOptions:
    """One phase of training, `updates` or `epochs` long.

    It ends earlier after `patience` evaluations without progress, or when one gives `target` or less. `task` and
    `model` override entries of the sections `[task]` and `[model]` in this phase: shorter sequences to begin with, less
    dropout while the network is pruned.

    With `average` the weights that are validated and kept are an exponential moving average of the trained ones, each
    update moving it by `1 - average` (by more at the start).
    """

    updates: Count | None = None
    epochs: Count | None = None
    patience: Count | None = None
    target: Finite | None = None
    task: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    average: ShareBelow1 | None = None
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    compress: CompressOptions | None = None
    factorize: FactorizeOptions | None = None
    distill: DistillOptions | None = None

    def __post_init__(self):
        if (self.updates is None) == (self.epochs is None):
            raise ValueError("give either updates or epochs")
        if self.compress and self.factorize and self.compress.method != "doping":
            raise ValueError(f"give {self.compress.method} and factorize in two phases, one after the other")
        if self.updates is not None:
            self.check_length(self.updates)

    def total_updates(self, per_epoch: int) -> int:
        """Maximum number of updates."""
        return self.updates if self.updates is not None else (self.epochs or 0) * per_epoch

    def check_length(self, updates: int) -> None:
        """Raise `ValueError` where `compress` ends later than after so many updates: nothing would be cut."""
        cut = self.compress.last if self.compress else 0
        if cut > updates:
            raise ValueError(f"compress.steps: expected at most the {updates} updates of the phase, got {cut}")


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of all phases; `evaluate_every` None means after each epoch.

    `steps` and `shift` are for tasks that cut one long sequence into updates, such as `LanguageModelTask`. After
    `max_seconds` on the wall or `max_cpu_seconds` of processors, evaluations included, the phase ends with what it has,
    and those after it are left out. Every `log_every` updates a line goes to `progress.jsonl`.

    `devices` is the number of processes, each with a device of its own (on "cpu": a process), that train on
    `batch_size / devices` sequences of every batch: the same training as with one device, but for dropout and for the
    statistics of `norm = "batch"`, which each process takes from its own sequences.

    "bf16-mixed" is "32-true" on a processor that does not multiply in bfloat16: there torch would emulate it, slowly.

    `loss_reduction = "sum_steps"` sums the loss over the `steps` of an update and averages over the batch only, as
    Zaremba et al. do: learning rate and clipping of their paper hold as they stand. With "mean" the gradient is
    `steps` times smaller, so the same training needs `steps` times the learning rate and a `steps` times smaller clip.
    """

    seed: Seed = 0
    batch_size: Count = 32
    steps: Count = 64
    shift: Flag = False
    loss_reduction: Literal["mean", "sum_steps"] = "mean"
    evaluate_every: Count | None = None
    validation_streams: Count = 1
    checkpoint_every: Count = 200
    max_seconds: Positive | None = None
    max_cpu_seconds: Positive | None = None
    threads: Count | None = None
    log_every: Count = 100
    accelerator: Literal["cpu", "cuda", "mps"] = "cpu"
    devices: Count = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def __post_init__(self):
        if self.batch_size % self.devices:
            raise ValueError(f"devices: expected a divisor of the batch_size {self.batch_size}, got {self.devices}")


@dataclass(frozen=True)
class Recipe(Generic[Data, Model]):
    """A whole training run: the phases run in the order in which the file names them.

    `task` and `model` are of the classes that the task's entry in `TASKS` names.
    """

    phases: dict[PhaseName, PhaseOptions]
    task: Data
    model: Model
    training: TrainingOptions = field(default_factory=TrainingOptions)
    __pydantic_config__ = STRICT  # pydantic hands it on to the dataclasses within a recipe

    def __post_init__(self):
        if not self.phases:
            raise ValueError("phases: expected at least one, such as [phases.train], got none")
        check_apart(self.phases)
        task: Any = self.task
        if self.training.devices > 1 and TASKS[task.name].one_process:
            raise ValueError(f"training.devices: expected 1 with {task.name}, got {self.training.devices}")
        earlier: set[str] = set()
        for name, phase in self.phases.items():
            if phase.distill:
                try:
                    self._check_distill(phase.distill, earlier)
                except ValueError as error:
                    raise ValueError(f"phases.{name}.distill.{error}") from None
            gates = phase.compress is not None and phase.compress.method == "neuron_selection"
            if gates and self.training.devices > 1:
                got = f"training.devices = {self.training.devices}"
                raise ValueError(f"phases.{name}.compress.method: expected one device with neuron_selection, got {got}")
            earlier.add(name)
            adjustable: Any = type(self.model)
            _check_keys(f"phases.{name}.task", phase.task, asdict(self.task).keys() - {"name"})  # pyright: ignore
            _check_keys(f"phases.{name}.model", phase.model, adjustable.adjustable)
            try:
                self.task_in(phase)
                self.model_in(phase)
            except ValueError as error:
                raise ValueError(f"phases.{name}.{error}") from None

    def _check_distill(self, distill: DistillOptions, earlier: set[str]) -> None:
        """Raise `ValueError` unless a phase after the `earlier` ones can learn from its teacher."""
        if distill.teacher not in earlier:
            known = ", ".join(sorted(earlier)) or "there is none"
            raise invalid("teacher", got=repr(distill.teacher), expected=f"an earlier phase ({known})")
        task: Any = self.task
        known = TASKS[task.name].distill_targets
        if distill.weight and distill.targets not in known:
            if not known:
                raise invalid("weight", got=distill.weight, expected=f"0 with {task.name}, whose outputs are no logits")
            raise invalid("targets", got=repr(distill.targets), expected=f"{' or '.join(known)} for {task.name}")
        if self.training.devices > 1 and (distill.hidden or distill.targets == "transcript"):
            got = f"training.devices = {self.training.devices}"
            raise invalid("hidden" if distill.hidden else "targets", got=got, expected="one device")

    def task_in(self, phase: PhaseOptions) -> Data:
        """The section `[task]` as it is in a phase."""
        return _override(self.task, phase.task, "task")

    def model_in(self, phase: PhaseOptions) -> Model:
        """The section `[model]` as it is in a phase."""
        return _override(self.model, phase.model, "model")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `recipe_from` makes the same recipe."""
        return asdict(self)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a TOML recipe; `overrides` are `section.key=value` strings, see `parse_override`."""
    try:
        data = read_file(path, "recipe", _MAX_BYTES)
    except OSError as error:
        raise invalid("recipe", got=f"{path} ({error.strerror})", expected="the path of a TOML file") from error
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(f"recipe {path}", got=str(error), expected="TOML") from error
    for override in overrides:
        override_(table, override)
    return recipe_from(table, str(path))


def recipe_from(table: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check plain values and make a recipe of them.

    >>> recipe_from({"phases": {"train": {"updates": 10}}}).model.cell
    'LSTM'
    >>> recipe_from({"phases": {"train": {"updates": 10, "lerning_rate": 1}}})
    Traceback (most recent call last):
    ValueError: recipe: phases.train.lerning_rate: unexpected keyword argument, got 1
    """
    given = {"task": {}, "model": {}, **table}
    return validated(_recipe_class(given["task"], where), given, where)


def _recipe_class(section: Any, where: str) -> Any:
    name = section.get("name", DEFAULT) if isinstance(section, Mapping) else DEFAULT
    if not isinstance(name, str) or name not in TASKS:
        raise invalid(f"{where}: task.name", got=repr(name), expected=f"one of {', '.join(TASKS)}")
    kind: Any = TASKS[name]
    generic: Any = Recipe
    return generic[kind.data_options, kind.model_options]


def _check_keys(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    if unknown := sorted(table.keys() - set(known)):
        raise ValueError(f"{where}: expected some of {', '.join(sorted(known))}, got {unknown[0]!r}")


def _override(section: Any, changes: Mapping[str, Any], where: str) -> Any:
    return validated(type(section), {**asdict(section), **changes}, where)
