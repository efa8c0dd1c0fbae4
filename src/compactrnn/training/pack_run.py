"""Pack the model of a run for the native engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..lower import pack
from ..models.base import AbstractModel
from ..tasks.base import AbstractTask
from .run_folder import RunFolder

WeightsByName = str | Mapping[str, str]


def pack_run(
    run: str | Path, out: str | Path, weights: WeightsByName, max_bytes: int | None = None, notes: bool = True
) -> dict[str, Any]:
    """Pack the final model of a run; returns the pack report as a dict."""
    model, task, _ = RunFolder(Path(run)).load()
    return pack_model(model, task, out, weights, max_bytes, notes)


def pack_model(
    model: AbstractModel,
    task: AbstractTask,
    out: str | Path,
    weights: WeightsByName,
    max_bytes: int | None = None,
    notes: bool = True,
) -> dict[str, Any]:
    """Pack a model with its task's metadata; the error is measured on the task's calibration inputs.

    What `weights` does not name is stored as `AbstractModel.weight_types` says, or else as `weights` says.
    """
    own = model.weight_types()
    report = pack(
        model.eval(),
        out,
        task.example_inputs(),
        weights={**own, **(weights if isinstance(weights, Mapping) else {"*": weights})} if own else weights,
        calibration=[task.calibration_inputs()],
        metadata=task.metadata(),
        max_bytes=max_bytes,
        notes=notes,
    )
    return {"file": str(out), **asdict(report)}
