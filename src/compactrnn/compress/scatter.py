"""A narrowed recurrent layer with the output width of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..layers import cells_of
from .idle import Idle

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


class AbstractScattered(nn.Module):
    """Runs a narrowed layer, or cell, and writes its output and states back to their old width.

    Exact where the missing units are zero, or are not read, or are idle: they have no incoming weights, and so they
    take a course that needs no weights (`Idle`). The code around still sees the old shapes and the old `hidden_size`.
    States keep the form that the wide layer gave them.
    """

    idle: Idle | None

    def __init__(self, layer: nn.Module, kept: list[dict[str, Tensor]], idle: bool = False):
        """`layer` is still wide; `kept[layer][unit set]` are the units that it will have.

        The others are zeros, or with `idle` units that may start from states that are not zero.
        """
        super().__init__()
        rows = cells_of(layer)
        self.layer = layer
        self.hidden_size = layer.hidden_size
        self.proj_size = getattr(layer, "proj_size", 0)
        removed: list[dict[str, Tensor]] = []
        for i, row in enumerate(rows):
            removed.append({})
            for units in row[0].active_units():
                count = row[0].unit_count(units)
                index = kept[i].get(units.name, torch.arange(count)).cpu()
                gone = torch.ones(count, dtype=torch.bool).index_fill(0, index, False).nonzero().flatten()
                order = torch.cat([index, gone])
                removed[i][units.name] = gone
                for name, buffer in (("kept", index), ("gone", gone), ("places", order.argsort())):
                    self.register_buffer(f"{name}_{i}_{units.name}", buffer)
        self._directions = len(rows[0])
        self._states = [(spec.units, max(1, spec.delay)) for spec in rows[0][0].outer_states()]
        self._kinds = len(self._states)
        self._outputs = [f"{len(rows) - 1}_{units.name}" for units in rows[-1][0].output_units()]
        self._layers = len(rows)
        for hooks in _HOOKS:  # they see what they saw
            setattr(self, hooks, getattr(layer, hooks))
            setattr(layer, hooks, type(getattr(layer, hooks))())
        self.idle = Idle(rows, removed) if idle else None
        self.to(next(layer.parameters()).device)

    def __getattr__(self, name: str) -> Any:
        """Attributes of the wrapped layer that other code reads: `batch_first`, `flatten_parameters()`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer" or name.startswith("__"):
                raise
            return getattr(self.layer, name)

    def _selected(self, entries: list[list[Tensor]], which: str) -> list[list[Tensor]]:
        return [[self._selected_state(x, which, i, s) for i, x in enumerate(kind)] for s, kind in enumerate(entries)]

    def _selected_state(self, x: Tensor, which: str, entry: int, kind: int) -> Tensor:
        units, rows = self._states[kind]
        if units is None:
            return x
        index = getattr(self, f"{which}_{entry // self._directions}_{units}")
        return x.unflatten(-1, (rows, -1)).index_select(-1, index).flatten(-2)

    def _spread_state(self, x: Tensor, rest: Tensor | None, entry: int, kind: int) -> Tensor:
        units, rows = self._states[kind]
        if units is None:
            return x
        rest = None if rest is None else rest.unflatten(-1, (rows, -1))
        return self._spread(x.unflatten(-1, (rows, -1)), rest, f"{entry // self._directions}_{units}").flatten(-2)

    def _spread(self, x: Tensor, rest: Tensor | None, slot: str) -> Tensor:
        gone = len(getattr(self, f"gone_{slot}"))
        rest = x.new_zeros(*x.shape[:-1], gone) if rest is None else rest[..., :gone]
        return torch.cat([x, rest], -1).index_select(-1, getattr(self, f"places_{slot}"))


class Scattered(AbstractScattered):
    """A narrowed recurrent layer with the output width of the original."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """The calling convention of the original layer: (..., input) -> (..., old width), states of the old widths."""
        given = None if hx is None else self._entries(hx)
        if given is not None:
            hx = self._joined(self._selected(given, "kept"), self.layer)
        y, states = self.layer(input, hx)
        narrow = self._entries(states)
        idle_outputs: list[Tensor | None] = [None] * self._directions
        idle_states: list[list[Tensor | None]] = [[None] * len(kind) for kind in narrow]
        if self.idle is not None and not (given is None and self.idle.at_rest):
            start = None if given is None else self._selected(given, "gone")
            idle_outputs, idle_states = self._idle(input, start)  # pyright: ignore
        data = y.data if isinstance(y, PackedSequence) else y
        wide = []
        for d, part in enumerate(data.chunk(self._directions, -1)):
            sizes = [len(getattr(self, f"kept_{slot}")) for slot in self._outputs]
            idle_sizes = [max(1, len(getattr(self, f"gone_{slot}"))) for slot in self._outputs]
            rest = idle_outputs[d]
            rests = [None] * len(sizes) if rest is None else rest.split(idle_sizes, -1)
            parts = zip(part.split(sizes, -1), rests, self._outputs, strict=True)
            wide += [self._spread(x, r, slot) for x, r, slot in parts]
        data = torch.cat(wide, -1)
        after = [
            [self._spread_state(x, r, i, s) for i, (x, r) in enumerate(zip(kind, idle_states[s], strict=True))]
            for s, kind in enumerate(narrow)
        ]
        return (y._replace(data=data) if isinstance(y, PackedSequence) else data), self._joined(after, self)

    def _entries(self, states: Any) -> list[list[Tensor]]:
        return [list(kind) for kind in ([states] if self._kinds == 1 else states)]

    def _joined(self, entries: Sequence[list[Tensor]], form: nn.Module) -> Any:
        """In the form that `form` takes or gives."""
        kinds = [tuple(e) if isinstance(form.hidden_size, list | tuple) else torch.stack(e) for e in entries]
        return kinds[0] if self._kinds == 1 else tuple(kinds)

    def _idle(self, input: Any, start: list[list[Tensor]] | None) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Outputs (as the layer lays them out) of each direction, and states, of the units that were cut out."""
        assert self.idle is not None
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        batched, lengths = packed or x.dim() == 3, None
        if packed:
            sizes = input.batch_sizes.tolist()
            steps, batch = len(sizes), sizes[0]
            lengths = (input.batch_sizes[:, None] > torch.arange(batch)).sum(0).to(x.device)
        else:
            shape = x.shape if batched else (x.shape[0], 1)
            steps, batch = (shape[1], shape[0]) if batched and self.layer.batch_first else shape[:2]

        def lay(y: Tensor) -> Tensor:
            if packed:
                return torch.cat([y[t, :n] for t, n in enumerate(sizes)])
            return y.squeeze(1) if not batched else y.transpose(0, 1) if self.layer.batch_first else y

        def each(state: Tensor, order: Tensor | None) -> Tensor:
            return state if order is None else state.index_select(0, order)

        order, back = (input.sorted_indices, input.unsorted_indices) if packed else (None, None)
        outputs, states = [], [[] for _ in range(self._kinds)]
        for place in range(self._layers * self._directions):
            first = None
            if start is not None:
                parts = [kind[place] if batched else kind[place].unsqueeze(0) for kind in start]
                wide = [0 if p.shape[-1] else rows for p, (_, rows) in zip(parts, self._states, strict=True)]
                first = tuple(nn.functional.pad(each(p, order), (0, n)) for p, n in zip(parts, wide, strict=True))
            y, last = self.idle.run(place, first, steps, batch, x, lengths)
            outputs.append(lay(y))
            for kind, state in zip(states, last, strict=True):
                kind.append(each(state, back) if batched else state.squeeze(0))
        return outputs[-self._directions :], states


class ScatteredCell(AbstractScattered):
    """A narrowed cell of torch with the output width of the original."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The calling convention of the original cell, with states of the old width."""
        given = None if hx is None else [[state] for state in ([hx] if self._kinds == 1 else hx)]
        states = self.layer(input, None if given is None else self._joined(self._selected(given, "kept")))
        rest: list[Tensor | None] = [None] * self._kinds
        if self.idle is not None and not (given is None and self.idle.at_rest):
            rest = self._idle(input, None if given is None else self._selected(given, "gone"))  # pyright: ignore
        narrow = [states] if self._kinds == 1 else states
        return self._joined(
            [[self._spread_state(x, r, 0, s)] for s, (x, r) in enumerate(zip(narrow, rest, strict=True))]
        )

    def _joined(self, kinds: list[list[Tensor]]) -> Any:
        return kinds[0][0] if self._kinds == 1 else tuple(kind[0] for kind in kinds)

    def _idle(self, input: Tensor, start: list[list[Tensor]] | None) -> list[Tensor]:
        """The states, after this step, of the units that were cut out."""
        assert self.idle is not None
        like = input if input.dim() == 2 else input[None]
        first = None
        if start is not None:  # one unit that is not read, where none is gone
            parts = [kind[0] if input.dim() == 2 else kind[0][None] for kind in start]
            first = tuple(nn.functional.pad(p, (0, int(not p.shape[-1]))) for p in parts)
        _, last = self.idle.run(0, first, 1, like.shape[0], like, None)
        return list(last) if input.dim() == 2 else [state[0] for state in last]
