"""Early stopping by asynchronous successive halving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...training.progress import Progress
from ...training.run_folder import RunFolder

REDUCTION = 3
RUNGS = (1 / 9, 1 / 3)  # of a run's updates


class Asha:
    """Asks at each rung whether a run is among the best third of its rivals that have come as far.

    A rung is reached with the first evaluation after that part of a run's updates; what counts is the validation metric
    there, lower is better. Of m runs at the rung, itself included, a run goes on if fewer than max(1, floor(m / 3)) are
    better. The values are read from the folders of the rivals, so that any process can ask and a sweep can be resumed.

    `starts` has the number of updates before each phase, `updates` their sum.

    Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar: A system for massively parallel
    hyperparameter tuning, 2020.
    """

    def __init__(self, folder: Path, rivals: Sequence[Path], starts: Mapping[str, int], updates: int):
        self.folder, self.rivals, self.starts, self.updates = folder, rivals, starts, updates
        passed = values_at_rungs(RunFolder(folder).progress_lines(), starts, updates)
        self.passed = max(passed, default=-1)  # the last rung that was asked at

    def stops(self, progress: Progress) -> bool:
        """Whether the run ends with this evaluation."""
        here = values_at_rungs([progress.as_dict()], self.starts, self.updates)
        if (rung := max(here, default=-1)) <= self.passed:
            return False
        self.passed = rung
        others = [values_at_rungs(RunFolder(path).progress_lines(), self.starts, self.updates) for path in self.rivals]
        return not goes_on(here[rung], [values[rung] for values in others if rung in values])


def values_at_rungs(lines: Iterable[Mapping[str, Any]], starts: Mapping[str, int], updates: int) -> dict[int, float]:
    """The first validation metric at or after each rung that was reached.

    >>> line = {"event": "evaluation", "phase": "train"}
    >>> lines = [{**line, "update": update, "validation": 1 / update} for update in (5, 20, 50, 100)]
    >>> values_at_rungs(lines, {"train": 0}, 100)
    {0: 0.05, 1: 0.02}
    """
    values: dict[int, float] = {}
    for line in lines:
        if line["event"] == "evaluation" and line["phase"] in starts:
            part = (starts[line["phase"]] + line["update"]) / updates
            for number, rung in enumerate(RUNGS):
                if part >= rung:
                    values.setdefault(number, line["validation"])
    return values


def goes_on(value: float, others: Sequence[float]) -> bool:
    """Whether a run with this value goes on beside others at the same rung.

    >>> goes_on(2.5, [2.4]), goes_on(2.5, [2.4, 2.6, 2.7, 2.8, 2.9])
    (False, True)
    """
    return sum(other < value for other in others) < max(1, (len(others) + 1) // REDUCTION)


def are_rivals(recipe: Mapping[str, Any], parameters: int, other: Mapping[str, Any], others: int) -> bool:
    """Whether a run is measured against another: one with the same budget that has no more parameters.

    A frontier has models of many sizes: small ones are worse and belong to it, so larger ones never stop them.
    """

    def targets(table: Mapping[str, Any]) -> list[Any]:
        return [(name, phase["compress"], phase["factorize"]) for name, phase in table["phases"].items()]

    return others <= parameters and targets(recipe) == targets(other)
