"""Which units can go."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.units import identity
from .groups import Group, Part

Rows = dict[tuple[int, ...], tuple[Group, Part]]


@torch.no_grad()
def find_dead(groups: list[Group]) -> dict[str, Tensor]:
    """Which units of each group can go: (count,) bool by group name, on the CPU.

    A unit can go when, whatever the inputs and the first states are,

    - nobody reads it: all its readers are known and their columns are zero, up to rows that write what goes too;
    - or it is always zero: written by zeros from a first state of zero, and not shifted on the way to known readers;
    - or it is written by zeros, its known readers are zero, and what the others see of it is made without weights: the
      course of an idle unit from its first state, which `Scattered` goes on giving them.

    One unit of every unit set always stays, and all of what is frozen or excluded.
    """
    dead = {g.name: torch.full((g.count,), not g.left_alone) for g in groups}
    written = {g.name: _sum(g.writers + g.biases, g.count) != 0 for g in groups}
    rows: Rows = {identity(p.weight): (g, p) for g in groups for p in g.writers}
    while True:
        while not _settled(groups, dead, written, rows):
            pass
        if not _spare(groups, dead):
            return dead


def _settled(groups: list[Group], dead: dict[str, Tensor], written: dict[str, Tensor], rows: Rows) -> bool:
    """Spare what has turned out to be read by something that stays; returns whether there was nothing."""
    before = {name: mask.clone() for name, mask in dead.items()}
    for g in groups:
        changed = [p for p in g.readers if p.inside or not p.frozen]
        read = sum((_live_squares(p, rows, dead, g.count) for p in changed), torch.zeros(g.count)) != 0
        by_writers = g.by_writers
        unread = ~read & ~by_writers
        silent = ~written[g.name] & ~g.given & (by_writers | ~g.shifted)
        idle = ~written[g.name] & ~read & by_writers
        dead[g.name] &= unread | silent | idle
    return all(torch.equal(before[name], mask) for name, mask in dead.items())


def _spare(groups: list[Group], dead: dict[str, Tensor]) -> bool:
    """One unit of every set that would have none; returns whether there was one."""
    empty = [(g, m) for g in groups for m in g.members if dead[g.name][m.units].all()]
    for g, m in empty:
        dead[g.name][m.units[0]] = False
    return bool(empty)


def _sum(parts: list[Part], count: int) -> Tensor:
    return sum((p.squares(count).cpu() for p in parts), torch.zeros(count))


def _live_squares(part: Part, rows: Rows, dead: dict[str, Tensor], count: int) -> Tensor:
    """Squares of the columns of a reader, leaving out the rows that write dead units."""
    owner, writer = rows.get(identity(part.weight), (None, None))
    if owner is None or writer is None or writer.axis == part.axis:
        return part.squares(count).cpu()
    matrix = part.matrix()
    live = ~dead[owner.name].to(matrix.device)[writer.units_on(matrix.device)]
    return part.sum_by_unit(matrix[live].square().sum(0), count).cpu()
