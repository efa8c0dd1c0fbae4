"""What the files of a run folder must hold; more is allowed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from ..tasks.bounds import CountFrom0, PositiveOrZero


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class Config(_Record):
    """`config.json`."""

    recipe: dict[str, Any]
    model: dict[str, Any]
    task: dict[str, Any]
    vocabulary: list[str] | None = None


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
    """A line of `metrics.jsonl` or `times.jsonl`."""

    phase: str
    update: CountFrom0


class Seconds(_Record):
    """What a clock reads."""

    seconds: PositiveOrZero
    cpu_seconds: PositiveOrZero


class Checkpoint(_Record):
    """The tree in `checkpoint.safetensors`; what lies deeper is checked by those who take it over."""

    phase: CountFrom0
    run: dict[str, Any] | None
    model: dict[str, Tensor] | None
    model_options: dict[str, Any]
    updates: dict[str, CountFrom0]
    metrics_size: CountFrom0
    random: dict[str, Any]
    solved: dict[str, Any] | None
    ended_by: str | None
    clock: Seconds


class Phase(_Record):
    """The tree of a phase's last model."""

    options: dict[str, Any]
    model: dict[str, Tensor]
