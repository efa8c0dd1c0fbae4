"""A recurrent layer as one operation of a graph."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._errors import UnsupportedModelError
from ..cells.base import AbstractCell
from ..layers import cells_of, part_name
from ..layers.loop import look_ahead_packed
from .packing import followed_batch_sizes

_LEAVES: weakref.WeakValueDictionary[int, Leaf] = weakref.WeakValueDictionary()
keys = itertools.count()
LEFT_OUT: Any = object()


class Leaf:
    """A recurrent layer seen as one operation: `(T, B, input), states -> [(T, B, output), states after]`.

    States come flat, (batch, size) each, ordered by layer, then direction, then the cell's own order.
    """

    def __init__(self, name: str, module: nn.Module, alone: bool = False):
        self.key = next(keys)
        self.name = "" if alone else name
        self.alone = alone
        self.module = module
        self.cells: list[list[AbstractCell]] = self.make_cells()
        self.takes_state = False  # whether it is called with a state that was None, and may be another time
        _LEAVES[self.key] = self

    is_step: ClassVar[bool] = False  # whether it runs one step, and Python code repeats it
    forward: ClassVar[Callable[..., Any]]  # stands for the layer's own while it is traced

    def make_cells(self) -> list[list[AbstractCell]]:
        """The layer's cells, `[layer][direction]`."""
        return cells_of(self.module)

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional layer."""
        return len(self.cells[0])

    def slots(self) -> list[tuple[int, int, int]]:
        """(layer, direction, state) of each flat state."""
        return [
            (i, d, s)
            for i, row in enumerate(self.cells)
            for d, cell in enumerate(row)
            for s in range(len(cell.outer_states()))
        ]

    def part_name(self, layer: int, direction: int, part: str) -> str:
        """What the model calls a part of a cell: "encoder.lstm.weight_ih_l0", "rnn.cells.0.0.hidden"."""
        own = part_name(self.module, layer, direction, part)
        return f"{self.name}.{own}" if self.name else own

    def state_name(self, layer: int, direction: int, state: str) -> str:
        """What a state is called: "encoder.lstm.h_l0"."""
        own = f"{state}_l{layer}" + ("_reverse" if direction else "")
        return f"{self.name}.{own}" if self.name else own

    def widths(self) -> list[int]:
        """Width of the output, then of each flat state."""
        output = sum(cell.output_size for cell in self.cells[-1])
        return [output, *(self.cells[i][d].state_sizes()[s] for i, d, s in self.slots())]

    def split(self, hx: Any, batched: bool) -> list[Tensor]:
        """Flat states; torch's stacked tensor and a tuple of states list the same entries in the same order."""
        if hx is None:
            return []
        kinds = [hx] if len(self.cells[0][0].outer_states()) == 1 else list(hx)
        flat = [kinds[s][layer * self.directions + direction] for layer, direction, s in self.slots()]
        return flat if batched else [part.unsqueeze(0) for part in flat]

    def joined(self, flat: list[Tensor], batched: bool) -> Any:
        """Flat states as the layer takes and gives them."""
        flat = flat if batched else [s.squeeze(0) for s in flat]
        kinds = len(self.cells[0][0].outer_states())
        per_layer = isinstance(self.module.hidden_size, list | tuple)
        joined = [tuple(flat[s::kinds]) if per_layer else torch.stack(flat[s::kinds]) for s in range(kinds)]
        return joined[0] if kinds == 1 else tuple(joined)

    def run(self, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
        """The layer by its cells, step by step: x is (sum of batch_sizes, input), batch_sizes[t] rows in step t."""
        flat, after = iter(states), []
        batch = batch_sizes[0]
        for row in self.cells:
            outputs = []
            for d, cell in enumerate(row):
                state = cell.initial_states(batch, x)
                count = len(cell.outer_states())
                if states:
                    state = *(next(flat) for _ in range(count)), *state[count:]
                ahead = look_ahead_packed(cell, cell.project(x), torch.tensor(batch_sizes), d == 1)
                steps = list(zip(ahead.split(batch_sizes), batch_sizes, strict=True))
                ys = []
                for projected, n in reversed(steps) if d else steps:
                    y, new = cell.step(projected, tuple(s[:n] for s in state))
                    state = tuple(torch.cat([a, s[n:]]) for a, s in zip(new, state, strict=True))
                    ys.append(y)
                outputs.append(torch.cat(ys[::-1] if d else ys))
                after += state[:count]
            x = torch.cat(outputs, -1)
        return [x, *(s.clone() for s in after)]


@torch.library.custom_op("compactrnn::recurrent", mutates_args=())
def _recurrent(key: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    y, *after = _LEAVES[key].run(x.flatten(0, 1), states, [x.shape[1]] * x.shape[0])
    return [y.unflatten(0, x.shape[:2]), *after]


@_recurrent.register_fake
def _(key: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    output, *sizes = _LEAVES[key].widths()
    return [x.new_empty(x.shape[0], x.shape[1], output), *(x.new_empty(x.shape[1], n) for n in sizes)]


@torch.library.custom_op("compactrnn::recurrent_packed", mutates_args=())
def _recurrent_packed(key: int, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
    return _LEAVES[key].run(x, states, batch_sizes)


@_recurrent_packed.register_fake
def _(key: int, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
    output, *sizes = _LEAVES[key].widths()
    return [x.new_empty(x.shape[0], output), *(x.new_empty(batch_sizes[0], n) for n in sizes)]


RECURRENT = frozenset([torch.ops.compactrnn.recurrent.default, torch.ops.compactrnn.recurrent_packed.default])


def leaf_forward(module: nn.Module, input: Any, hx: Any = LEFT_OUT) -> tuple[Any, Any]:
    """Stands for the layer's own `forward`: its calling convention around the one operation."""
    leaf: Leaf = module._leaf  # pyright: ignore
    leaf.takes_state |= hx is None
    hx = None if hx is LEFT_OUT else hx
    if isinstance(input, PackedSequence) and (batch_sizes := followed_batch_sizes(input)):
        return _packed_forward(leaf, input, hx, batch_sizes)
    if not isinstance(input, Tensor):
        raise UnsupportedModelError(
            f"{leaf.name or 'the model'}: called with a {type(input).__name__}, expected a padded tensor;"
            " pass the plain tensor (batch 1 needs no packing)"
        )
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(1)
    if batched and module.batch_first:
        x = x.transpose(0, 1)
    y, *after = torch.ops.compactrnn.recurrent(leaf.key, x, leaf.split(hx, batched))
    if batched and module.batch_first:
        y = y.transpose(0, 1)
    return (y if batched else y.squeeze(1)), leaf.joined(after, batched)


Leaf.forward = staticmethod(leaf_forward)


def _packed_forward(leaf: Leaf, input: PackedSequence, hx: Any, batch_sizes: list[int]) -> tuple[PackedSequence, Any]:
    data, sizes, order, back = input
    states = leaf.split(hx, True)
    if order is not None:
        states = [s.index_select(0, order) for s in states]
    y, *after = torch.ops.compactrnn.recurrent_packed(leaf.key, data, states, batch_sizes)
    if back is not None:
        after = [s.index_select(0, back) for s in after]
    return PackedSequence(y, sizes, order, back), leaf.joined(after, True)  # pyright: ignore
