"""What a sweep sends to a worker, and the file by which a worker answers that it has stopped a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STOPPED = "stopped.json"


@dataclass(frozen=True)
class Job:
    """A run as it is sent to a worker, in plain values."""

    recipe: Mapping[str, Any]
    folder: str
    source: str | None
    out: str
    working_folder: str
    version: str
    asha: Mapping[str, Any] | None = None  # arguments of `Asha` after the folder
