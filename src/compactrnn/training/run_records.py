"""Required entries of the files in a run folder; more are allowed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator
from torch import Tensor

from .._bounds import CountFrom0, PositiveOrZero


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def _tensors(nest: Any) -> Any:
    """None, or tensors in lists and tuples."""
    if isinstance(nest, (list, tuple)):
        for inner in nest:
            _tensors(inner)
    elif nest is not None and not isinstance(nest, Tensor):
        raise ValueError("input should be tensors")
    return nest


class Config(_Record):
    """`config.json`."""

    recipe: dict[str, Any]
    model: dict[str, Any]
    task: dict[str, Any]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None


class Result(_Record):
    """`result.json`."""

    metric: str
    test: float
    valid: float
    seed: int
    updates: dict[str, CountFrom0]
    parameters: CountFrom0
    recurrent_parameters: CountFrom0
    seconds: PositiveOrZero
    cpu_seconds: PositiveOrZero
    recipe: dict[str, Any]
    machine: dict[str, Any]
    ended_by: str | None = None

    @field_validator("updates")
    @classmethod
    def _has_total(cls, updates: dict[str, int]) -> dict[str, int]:
        if "total" not in updates:
            raise ValueError("input should have an entry total")
        return updates


class Evaluation(_Record):
    """A line of `metrics.jsonl`."""

    phase: str
    update: CountFrom0


class ProgressLine(Evaluation):
    """A line of `progress.jsonl`."""

    event: str
    seconds: PositiveOrZero
    cpu_seconds: PositiveOrZero


class Seconds(_Record):
    """Wall and CPU time."""

    seconds: PositiveOrZero
    cpu_seconds: PositiveOrZero


class Rate(_Record):
    """The state of a learning rate; `best` is infinite before the first evaluation."""

    model_config = ConfigDict(allow_inf_nan=True)

    scale: PositiveOrZero
    best: float
    waited: CountFrom0


class PhaseState(_Record):
    """The state of the running phase in a checkpoint."""

    model_config = ConfigDict(allow_inf_nan=True)

    update: CountFrom0
    model: dict[str, Tensor]
    best_weights: dict[str, Tensor] | None
    best: float
    average: list[Tensor] | None
    waited: CountFrom0
    solved: CountFrom0
    optimizer: dict[str, Any]
    rate: Rate
    states: Annotated[Any, AfterValidator(_tensors)]
    teacher_states: Annotated[Any, AfterValidator(_tensors)]
    loss_sum: float
    loss_count: CountFrom0
    pruner: dict[str, Any] | None
    distill: dict[str, Tensor] | None


class Checkpoint(_Record):
    """The tree in `checkpoint.safetensors`; what lies deeper is checked by those who take it over."""

    phase: CountFrom0
    run: PhaseState | None
    model: dict[str, Tensor] | None
    model_options: dict[str, Any]
    updates: dict[str, CountFrom0]
    metrics_size: CountFrom0
    progress_size: CountFrom0
    random: dict[str, Any]
    generators: list[Tensor] | None
    solved: dict[str, Any] | None
    ended_by: str | None
    clock: Seconds


class Phase(_Record):
    """The tree of a phase's last model."""

    options: dict[str, Any]
    model: dict[str, Tensor]
