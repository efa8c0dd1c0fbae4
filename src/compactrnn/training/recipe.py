"""Recipes: TOML files as frozen dataclasses, checked key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from .._errors import invalid
from ..tasks.table import DEFAULT, TASKS

_STRICT = {"extra": "forbid"}  # pydantic hands it on to the dataclasses within a recipe
Data = TypeVar("Data")
Model = TypeVar("Model")


@dataclass(frozen=True)
class OptimizerOptions:
    """`clip` bounds the global norm of the gradient, `clip_value` each of its numbers, before that.

    `weight_decay` acts on all parameters, or with `decay = "matrices"` on those of two axes or more: not on biases, the
    scales of norms and the recurrent vectors of independent units.
    """

    name: Literal["AdamW", "SGD"] = "AdamW"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    clip_value: float | None = None
    decay: Literal["all", "matrices"] = "all"


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate moves; see `LearningRate`."""

    name: Literal["constant", "cosine", "steps", "plateau"] = "constant"
    warmup: int = 0
    final: float = 0.0
    constant_epochs: int = 0
    factor: float = 0.5
    patience: int = 1


@dataclass(frozen=True)
class CompressOptions:
    """What `GroupLasso` is given in this phase: `keep` a share of the units in `steps` updates, or a `strength`."""

    keep: float | None = None
    steps: int | None = None
    strength: float | None = None
    loss_steps: int | None = None
    threshold: float | None = None
    decay: float | None = None
    minimum: int | None = None


@dataclass(frozen=True)
class DistillOptions:
    """Learn from the model that the phase `teacher` ended with: `(1 - weight) * loss + weight * distillation_loss`."""

    teacher: str
    weight: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class PhaseOptions:
    """One stretch of training: `updates` or `epochs` long.

    It ends earlier after `patience` evaluations without progress, or when one gives `target` or less. `task` holds
    entries of the section `[task]` that are others in this phase, such as shorter sequences to begin with.

    Dropout left out is the model's. With `average` the weights that are validated and kept are an exponential moving
    average of the trained ones, each update moving it by `1 - average` (by more at the start).
    """

    updates: int | None = None
    epochs: int | None = None
    patience: int | None = None
    target: float | None = None
    task: dict[str, Any] = field(default_factory=dict)
    dropout: float | None = None
    embedding_dropout: float | None = None
    output_dropout: float | None = None
    average: float | None = None
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    compress: CompressOptions | None = None
    distill: DistillOptions | None = None

    def __post_init__(self):
        if (self.updates is None) == (self.epochs is None):
            raise ValueError("give either updates or epochs")

    def total_updates(self, per_epoch: int) -> int:
        """How many updates at most."""
        return self.updates if self.updates is not None else (self.epochs or 0) * per_epoch


@dataclass(frozen=True)
class TrainingOptions:
    """What holds for every phase; `evaluate_every` None means after each epoch.

    `steps` and `shift` are for tasks that cut one long sequence into updates, as `LanguageModelTask` has it. After
    `max_seconds` on the wall or `max_cpu_seconds` of processors, evaluations included, the phase ends with what it has,
    and those after it are left out.

    `loss_reduction = "sum_steps"` sums the loss over the `steps` of an update and averages over the batch only, as
    Zaremba et al. do: learning rate and clipping of their paper hold as they stand. With "mean" the gradient is
    `steps` times smaller, so the same training needs `steps` times the learning rate and a `steps` times smaller clip.
    """

    seed: int = 0
    batch_size: int = 32
    steps: int = 64
    shift: bool = False
    loss_reduction: Literal["mean", "sum_steps"] = "mean"
    evaluate_every: int | None = None
    validation_streams: int = 1
    checkpoint_every: int = 200
    max_seconds: float | None = None
    max_cpu_seconds: float | None = None
    threads: int | None = None
    accelerator: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"


@dataclass(frozen=True)
class Recipe(Generic[Data, Model]):
    """A whole training run: the phases run in the order in which the file names them.

    `task` and `model` are of the classes that the task's entry in `TASKS` names.
    """

    phases: dict[str, PhaseOptions]
    task: Data
    model: Model
    training: TrainingOptions = field(default_factory=TrainingOptions)
    __pydantic_config__ = _STRICT

    def __post_init__(self):
        if not self.phases:
            raise ValueError("phases: got none, wanted at least one, such as [phases.train]")
        earlier: set[str] = set()
        for name, phase in self.phases.items():
            if phase.distill and phase.distill.teacher not in earlier:
                wanted = f"an earlier phase ({', '.join(sorted(earlier)) or 'there is none'})"
                raise ValueError(f"phases.{name}.distill.teacher: got {phase.distill.teacher!r}, wanted {wanted}")
            earlier.add(name)
            known = asdict(self.task).keys() - {"name"}  # pyright: ignore
            if unknown := sorted(phase.task.keys() - known):
                raise ValueError(f"phases.{name}.task: got {unknown[0]!r}, wanted some of {', '.join(sorted(known))}")

    def task_in(self, phase: PhaseOptions) -> Data:
        """The section `[task]` as it is in a phase."""
        kind: Any = type(self.task)
        return TypeAdapter(kind).validate_python({**asdict(self.task), **phase.task})  # pyright: ignore

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `recipe_from` makes the same recipe."""
        return asdict(self)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a TOML recipe; `overrides` are `section.key=value` texts, values as in TOML or plain words."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise invalid("recipe", got=f"{path} ({error.strerror})", wanted="the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"recipe {path}", got=str(error), wanted="TOML") from error
    for override in overrides:
        _set(table, override)
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
    try:
        return TypeAdapter(_recipe_class(given["task"], where)).validate_python(given)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise ValueError(f"{where}: " + "; ".join(problems)) from None


def _recipe_class(section: Any, where: str) -> Any:
    name = section.get("name", DEFAULT) if isinstance(section, Mapping) else DEFAULT
    if not isinstance(name, str) or name not in TASKS:
        raise invalid(f"{where}: task.name", got=repr(name), wanted=f"one of {', '.join(TASKS)}")
    kind: Any = TASKS[name]
    generic: Any = Recipe
    return generic[kind.data_options, kind.model_options]


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if isinstance(problem["input"], (dict, Recipe)) else f", got {problem['input']!r}"
    message = message[0].lower() + message[1:]
    return (f"{key}: " if key else "") + message + got


def _set(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise invalid("--set", got=repr(override), wanted="section.key=value, such as training.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise invalid("--set", got=repr(override), wanted=f"{part} to be a section, it is a value")
        table = inner
    table[last] = value
