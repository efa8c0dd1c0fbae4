"""Sizes before and after pruning."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import SIZES, PruningPlan
from .table import size_lines


@dataclass(frozen=True)
class LayerReport:
    """Units of one layer: how many there are, how many are kept, their consumers, and why not all of those are known.

    `left_alone` is "frozen" or "excluded" where all units stay for that reason.
    """

    name: str
    units: int
    kept: int
    readers: tuple[str, ...]
    reason: str = ""
    left_alone: str = ""


@dataclass(frozen=True)
class PruneReport:
    """Sizes before and after: `layers`, `parameters`, `recurrent_parameters`, `macs` (recurrent layers, per step).

    `position` is the pruner's position in its schedule.
    """

    layers: tuple[LayerReport, ...]
    parameters: tuple[int, int]
    recurrent_parameters: tuple[int, int]
    macs: tuple[int, int]
    position: str = ""

    def __str__(self) -> str:
        rows = [f"at {self.position}"] if self.position else []
        for layer in self.layers:
            readers = ", ".join(layer.readers) or "nothing else"
            note = f"; not all consumers are known ({layer.reason})" if layer.reason else ""
            note += f"; left alone ({layer.left_alone})" if layer.left_alone else ""
            rows.append(f"{layer.name}: {layer.kept} of {layer.units} units; read by {readers}{note}")
        return "\n".join([*rows, *size_lines(self, SIZES)])


def report(plan: PruningPlan) -> PruneReport:
    """The sizes in `plan`."""
    layers = (LayerReport(u.name, u.units, len(u.kept), u.consumers, u.reason, u.left_alone) for u in plan.units)
    return PruneReport(tuple(layers), plan.parameters, plan.recurrent_parameters, plan.macs, plan.position)
