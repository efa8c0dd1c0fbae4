"""Which units can be removed without changing the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.carriers import identity
from .groups import Group, Part

Rows = dict[tuple[int, ...], tuple[Group, Part]]


UNREAD = "their outgoing weights are zero"
ALWAYS_ZERO = "they are always zero"
IDLE = "they have no incoming weights, and what reads them needs none"


@torch.no_grad()
def find_dead(groups: list[Group]) -> dict[str, Tensor]:
    """Which units of each group can be removed: (count,) bool by group name, on the CPU.

    A unit can be removed when, whatever the inputs and the first states are,

    - no weight reads it: all of its consumers are known and their columns are zero, but for rows that are removed too;
    - or it is always zero: written by zeros from a first state of zero, and not shifted on the way to known consumers;
    - or it is idle: written by zeros, its known consumers are zero, and what the others see of it is computed without
      weights: its course from its first state, which `Scattered` goes on giving them.

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


@torch.no_grad()
def why_dead(groups: list[Group], dead: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """For each group the units that each reason applies to, the first that does: (count,) bool by reason."""
    rows: Rows = {identity(p.weight): (g, p) for g in groups for p in g.writers}
    found = {}
    for g in groups:
        left, found[g.name] = dead[g.name].clone(), {}
        written = _sum(g.writers + g.biases, g.count) != 0
        for reason, units in _reasons(g, dead, written, rows).items():
            found[g.name][reason] = left & units
            left &= ~units
    return found


def _reasons(g: Group, dead: dict[str, Tensor], written: Tensor, rows: Rows) -> dict[str, Tensor]:
    changed = [p for p in g.readers if p.inside or not p.frozen]
    read = sum((_live_squares(p, rows, dead, g.count) for p in changed), torch.zeros(g.count)) != 0
    by_incoming = g.by_incoming
    return {
        UNREAD: ~read & ~by_incoming,
        ALWAYS_ZERO: ~written & ~g.nonzero_start & (by_incoming | ~g.not_zero_preserving),
        IDLE: ~written & ~read & by_incoming,
    }


def _settled(groups: list[Group], dead: dict[str, Tensor], written: dict[str, Tensor], rows: Rows) -> bool:
    """Keep what has turned out to be read by something that stays; returns whether there was nothing."""
    before = {name: mask.clone() for name, mask in dead.items()}
    for g in groups:
        dead[g.name] &= torch.stack(list(_reasons(g, dead, written[g.name], rows).values())).any(0)
    return all(torch.equal(before[name], mask) for name, mask in dead.items())


def _spare(groups: list[Group], dead: dict[str, Tensor]) -> bool:
    """Keep one unit of every set that would have none; returns whether there was one."""
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
    return part.sum_by_unit(matrix[live].square().movedim(1, 0).flatten(1).sum(1), count).cpu()
