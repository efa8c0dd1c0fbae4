"""What a compressor would leave."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..graph.copy import copy_module
from ..layers import cells_of, is_recurrent
from .dead import find_dead
from .groups import Group


@dataclass(frozen=True)
class LayerReport:
    """Units of one layer: how many there are, how many stay, who reads them, and why they cannot simply go.

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

    `position` says how far the pruner has come.
    """

    layers: tuple[LayerReport, ...]
    parameters: tuple[int, int]
    recurrent_parameters: tuple[int, int]
    macs: tuple[int, int]
    position: str = ""

    def __str__(self) -> str:
        rows = [f"at {self.position}"] if self.position else []
        for layer in self.layers:
            readers = ", ".join(layer.readers) or "nobody else"
            note = f"; not all readers can be named ({layer.reason})" if layer.reason else ""
            note += f"; left alone ({layer.left_alone})" if layer.left_alone else ""
            rows.append(f"{layer.name}: {layer.kept} of {layer.units} units; read by {readers}{note}")
        for name in ("parameters", "recurrent_parameters", "macs"):
            before, after = getattr(self, name)
            rows.append(f"{name.replace('_', ' ')}: {before:,} -> {after:,} ({before / max(after, 1):.2f}x)")
        return "\n".join(rows)


def report(model: nn.Module, groups: list[Group], small: nn.Module, position: str = "") -> PruneReport:
    """Compare `model` with `small`, what it shrinks to."""
    dead = find_dead(groups)
    layers = tuple(
        LayerReport(
            m.name,
            len(m.units),
            len(m.units) - int(dead[g.name][m.units].sum()),
            tuple(dict.fromkeys(g.reader_names)),
            g.reason,
            g.left_alone,
        )
        for g in groups
        for m in g.members
    )
    before, after = _counts(model), _counts(small)
    return PruneReport(layers, *zip(before, after, strict=True), position)  # pyright: ignore


def _counts(model: nn.Module) -> tuple[int, int, int]:
    layers = [m for m in model.modules() if is_recurrent(m)]
    own = {id(p): p.numel() for m in layers for p in m.parameters()}
    plain = [m for m in copy_module(model).modules() if is_recurrent(m)]
    macs = sum(cell.macs() for m in plain for row in cells_of(m) for cell in row)
    return sum(p.numel() for p in model.parameters()), sum(own.values()), macs
