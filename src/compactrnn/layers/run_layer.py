"""One layer over a sequence, in one or both directions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..cells.base import AbstractCell, States
from .loop import look_ahead_packed, run_cell, run_packed, wanted_loop
from .sequence import Steps


def scan_layer(
    row: Sequence[AbstractCell], steps: Steps, states: Sequence[Tensor], last_only: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """`scan` in every direction of a layer; states, before and after, are (directions, batch, size) per kind.

    Those that are internal to a cell begin here and are left out. With `last_only` the output may have the last step
    alone.
    """
    if len(row) == 1:
        output, last = scan(row[0], steps, _with_internal(row[0], tuple(s[0] for s in states)), last_only=last_only)
        return output, [s[None] for s in last[: len(states)]]
    outputs, after = [], []
    for d, cell in enumerate(row):
        output, last = scan(cell, steps, _with_internal(cell, tuple(s[d] for s in states)), reverse=d == 1)
        outputs.append(output)
        after.append(last[: len(states)])
    return torch.cat(outputs, -1), [torch.stack(kind) for kind in zip(*after, strict=True)]


def _with_internal(cell: AbstractCell, states: States) -> States:
    if len(states) == len(cell.states):
        return states
    return *states, *cell.initial_states(states[0].shape[0], states[0])[len(states) :]


def scan(
    cell: AbstractCell, steps: Steps, states: States, reverse: bool = False, last_only: bool = False
) -> tuple[Tensor, States]:
    """Outputs, in the form of `steps.data`, and final states of one cell; the input projection is hoisted.

    The plain loop is the reference; where a faster one exists, that one runs (see `compactrnn.time_loop`). Under
    `torch.autocast` the input product is cast; states and outputs keep the type of the parameters, and on the CPU the
    loop runs in it.
    """
    # tensors given in place of parameters, by torch.func.functional_call, are not ours to write to
    if cell.training and torch.is_grad_enabled() and all(isinstance(p, nn.Parameter) for p in cell.parameters()):
        cell.constrain_()
    device = steps.data.device.type
    jumps = last_only and steps.batch_sizes is None and not reverse and wanted_loop() == "auto"
    if jumps and not torch.is_autocast_enabled(device) and (made := cell.jump(steps.data, states)) is not None:
        return made[0][None], made[1]
    projected = cell.project(steps.data)
    if not torch.is_autocast_enabled(device):
        return _run(cell, projected, steps.batch_sizes, states, reverse)
    own = next(itertools.chain(cell.parameters(), cell.buffers())).dtype
    with torch.autocast(device, enabled=device != "cpu"):
        return _run(cell, projected.to(own), steps.batch_sizes, tuple(s.to(own) for s in states), reverse)


def _run(
    cell: AbstractCell, projected: Tensor, batch_sizes: Tensor | None, states: States, reverse: bool
) -> tuple[Tensor, States]:
    if batch_sizes is not None:
        projected = look_ahead_packed(cell, projected, batch_sizes, reverse)
        return run_packed(cell, projected, batch_sizes, states, reverse)
    if not reverse:
        return run_cell(cell, cell.look_ahead(projected), states)
    output, after = run_cell(cell, cell.look_ahead(projected.flip(0)), states)
    return output.flip(0), after
