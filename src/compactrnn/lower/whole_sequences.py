"""Lengths of sequences as an argument of a model: an engine runs one sequence of its own length, without padding."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from .._errors import UnsupportedModelError, invalid
from ..graph.arguments import flatten, positional
from ..graph.copy import copy_module
from ..graph.packing import RecordPacking
from ..layers import is_recurrent
from .calls import fails, input_names

_TOLERANCE = 1e-4
_active: list[_Whole] = []


class Bound:
    """A model that is called without its lengths: they are the number of steps of what it gets.

    `forward(x, lengths)` becomes `forward(x)`, and packing and padding what they are for sequences of equal length, so
    that layers get tensors.

    Raises:
        ValueError: no such arguments; lengths that are not those of the example.
        UnsupportedModelError: without padding the model gives something else.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, names: Sequence[str]):
        self.original, given = positional(copy_module(model), example_inputs)
        known = input_names(self.original, len(given))
        if isinstance(names, str) or len(names) != 1 or names[0] not in known:
            expected = f"a list of the one argument that has them; there are {', '.join(known)}"
            raise invalid("lengths", got=repr(names), expected=expected)
        self.place = known.index(names[0])
        self.name, self.kind = names[0], given[self.place].dtype
        count = given[self.place].numel() if given[self.place].dim() == 1 else 0
        if self.kind.is_floating_point or self.kind == torch.bool or not count or len(given) < 2:
            got = f"{names[0]} of shape {tuple(given[self.place].shape)} and {self.kind}, of {len(given)} arguments"
            raise invalid("lengths", got=got, expected="whole numbers, one for each sequence, beside the sequences")
        self.batch = self._batch_axis(given)
        self.model = _bound(copy_module(self.original), self, [n for n in known if n != names[0]])
        longest = (given[self.place] == given[self.place].max()).nonzero().flatten()  # these have no padding
        self.example = tuple(
            x.index_select(self.batch, longest.to(x.device)).narrow(1 - self.batch, 0, int(given[self.place].max()))
            for x in self._whole(given)
        )
        self._check(given)

    def batches(self, batch: Any) -> Iterator[tuple[Tensor, ...]]:
        """The sequences of a batch, cut to their lengths."""
        tensors, _ = flatten(self.original, batch)
        for row in range(len(tensors[self.place])):
            one, _ = self._row(tensors, row)
            yield one

    def lengths(self, x: Tensor) -> Tensor:
        """Those of sequences without padding."""
        return torch.full((x.shape[self.batch],), x.shape[1 - self.batch], dtype=self.kind)

    def _whole(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return *given[: self.place], *given[self.place + 1 :]

    def _row(self, given: Sequence[Tensor], row: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """One sequence, without padding and without its length, and that."""
        length = given[self.place][row : row + 1]
        sequences = [x.narrow(self.batch, row, 1).narrow(1 - self.batch, 0, int(length)) for x in self._whole(given)]
        return tuple(sequences), length

    def _batch_axis(self, given: Sequence[Tensor]) -> int:
        """0 or 1, that which is as large as there are lengths; where both are, as the model packs."""
        lengths = given[self.place]
        found = [
            axis
            for axis in (0, 1)
            if all(
                x.dim() > 1 and x.shape[axis] == len(lengths) and x.shape[1 - axis] >= int(lengths.max())
                for x in self._whole(given)
            )
        ]
        if not found or int(lengths.min()) < 1:
            shapes = ", ".join(str(tuple(x.shape)) for x in self._whole(given))
            got = f"{lengths.tolist()} for sequences of shape {shapes}"
            raise invalid(f"example_inputs: {self.name}", got=got, expected="the steps of each sequence of the batch")
        with torch.no_grad(), RecordPacking() as seen:
            try:
                copy_module(self.original).cpu().float().eval()(*(_plain(x) for x in given))
            except Exception as error:  # whatever a model raises
                kind = type(self.original).__name__
                raise fails(kind, error) from error
        wanted = [0 if first else 1 for first in dict.fromkeys(seen.batch_first)] or [0, 1]
        return next((axis for axis in wanted if axis in found), found[0])

    @torch.no_grad()
    def _check(self, given: Sequence[Tensor]) -> None:
        """Compare the outputs with the model's own for single sequences of the example, cut to their lengths."""
        original = copy_module(self.original).cpu().float().eval()
        model = copy_module(self.model).cpu().float().eval()
        for row in range(min(3, len(given[self.place]))):
            one, length = self._row([_plain(x) for x in given], row)
            wanted = original(*one[: self.place], length, *one[self.place :])
            for a, b in zip(_tensors(wanted), _tensors(model(*one)), strict=True):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
                    kind = type(self.original).__name__
                    raise UnsupportedModelError(
                        f"{kind}: expected the same outputs where {self.name} is the number of steps of a sequence"
                        f" without padding, got others for sequence {row} of the example: let forward take the sequence"
                        f" alone, and leave {self.name} out of example_inputs"
                    )


class _Whole(TorchFunctionMode):
    """While it is entered, sequences are packed and padded as what they are when none has padding."""

    def __init__(self):
        super().__init__()
        self._known: list[tuple[Tensor, tuple[Any, Any]]] = []

    def __enter__(self) -> Any:
        _active.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _active.remove(self)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            x, _, batch_first = args
            x = x.transpose(0, 1) if batch_first else x
            steps, batch = x.shape[:2]
            self._known.append((torch.full((steps,), batch, dtype=torch.int64), (steps, batch)))
            return x.flatten(0, 1), self._known[-1][0]
        if name == "_pad_packed_sequence" and (shape := self.shape(args[1])):
            x = args[0].unflatten(0, shape)
            return x.transpose(0, 1) if args[2] else x, torch.full((shape[1],), shape[0], dtype=torch.int64)
        if name == "index_select" and len(args) == 3 and args[0].shape[args[1]] == args[2].numel() == 1:
            return args[0]  # of one sequence, in the order of lengths
        return func(*args, **(kwargs or {}))

    def shape(self, batch_sizes: Tensor) -> tuple[Any, Any] | None:
        """Steps and sequences of what was packed with these."""
        return next((shape for known, shape in self._known if known is batch_sizes), None)


def _bound(model: nn.Module, lengths: Bound, names: Sequence[str]) -> nn.Module:
    """`model`, changed so that it is called without its lengths."""
    kind = type(model)

    def forward(self: nn.Module, *given: Tensor) -> Any:
        with _Whole():
            place = lengths.place
            return kind.forward(self, *given[:place], lengths.lengths(given[0]), *given[place:])

    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # pyright: ignore
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    for layer in filter(is_recurrent, model.modules()):
        layer.register_forward_pre_hook(_unpacked, with_kwargs=True)
        layer.register_forward_hook(_packed_again)
    return model


def _unpacked(layer: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """A layer gets a tensor in place of a sequence that was packed here."""
    packed = args[0] if args else kwargs.get("input")
    layer._packed = None
    if (
        not _active
        or not isinstance(packed, PackedSequence)
        or (shape := _active[-1].shape(packed.batch_sizes)) is None
    ):
        return None
    layer._packed = packed
    x = packed.data.unflatten(0, shape)
    x = x.transpose(0, 1) if layer.batch_first else x
    rest = [_ordered(state, packed.sorted_indices) for state in args[1:]]
    named = {name: _ordered(state, packed.sorted_indices) for name, state in kwargs.items() if name != "input"}
    return (x, *rest), named


def _packed_again(layer: Any, args: tuple, made: tuple[Tensor, Any]) -> tuple[Any, Any] | None:
    """What it gives is packed as what it got."""
    packed, layer._packed = layer._packed, None
    if packed is None:
        return None
    y, states = made
    y = (y.transpose(0, 1) if layer.batch_first else y).flatten(0, 1)
    again = PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    return again, _ordered(states, packed.unsorted_indices)


def _ordered(state: Any, order: Tensor | None) -> Any:
    """States, sequences along their last axis but one, in another order."""
    if isinstance(state, tuple | list):
        return tuple(_ordered(part, order) for part in state)
    return state if order is None or state is None or state.shape[-2] == 1 else state.index_select(-2, order)


def _plain(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.float() if x.is_floating_point() else x


def _tensors(nest: Any) -> list[Tensor]:
    if isinstance(nest, Tensor):
        return [nest]
    parts = nest.values() if isinstance(nest, dict) else nest if isinstance(nest, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
