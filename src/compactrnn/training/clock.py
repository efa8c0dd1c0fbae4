"""Wall and CPU time of a run, over all resumes."""

from __future__ import annotations

import os
import time


class Clock:
    """Wall-clock seconds, and CPU seconds of all threads and of child processes that have ended (compilers).

    They add up over the stretches of a run that was stopped and resumed; what was done between the last checkpoint and
    a crash is done again and counted once.

    >>> clock = Clock({"seconds": 60.0, "cpu_seconds": 50.0})
    >>> clock.read()["seconds"] >= 60.0
    True
    """

    def __init__(self, before: dict[str, float] | None = None):
        before = before or {"seconds": 0.0, "cpu_seconds": 0.0}
        self._wall = time.monotonic() - before["seconds"]
        self._processors = _processor_seconds() - before["cpu_seconds"]

    def read(self) -> dict[str, float]:
        """The seconds so far."""
        return {"seconds": time.monotonic() - self._wall, "cpu_seconds": _processor_seconds() - self._processors}


def _processor_seconds() -> float:
    return sum(os.times()[:4])
