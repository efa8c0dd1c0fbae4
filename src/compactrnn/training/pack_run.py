"""From a run folder to a file for the native engine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..lower import pack
from .run_folder import RunFolder


def pack_run(run: str | Path, out: str | Path, weights: str) -> dict[str, Any]:
    """Pack the model that a run ended with, its task and vocabulary as metadata; returns what was measured."""
    model, task, _ = RunFolder(Path(run)).load()
    stretch = task.rows[:1, : 1 + 512]
    report = pack(model, out, task.example_inputs(), weights=weights, calibration=[stretch], metadata=task.metadata())
    return {"file": str(out), **asdict(report)}
