"""The calling convention of torch's recurrent layers: input forms, states, stacking."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE


@dataclass
class Steps:
    """A batch of sequences, time first: `data` is (T, B, n), or the packed (sum of lengths, n) with `batch_sizes`."""

    data: Tensor
    batch_sizes: Tensor | None
    batch: int


@dataclass(frozen=True)
class StateForm:
    """Shapes and initial values of a layer's states.

    For each kind of state (h; or h and c) `sizes[kind][layer]` is its width. Sizes given as one int make torch's form,
    one tensor (num_layers * directions, batch, size) a kind. Sizes given per layer, and a kind whose width differs
    between layers, make a tuple with the same entries in the same order, (batch, size of the layer) each, so that
    `h_n[-1]` means the same in both. `initial(layer, batch, like)` are a layer's own first states, (directions, batch,
    size) per kind; without it they are zero.
    """

    sizes: tuple[tuple[int, ...], ...]
    directions: int
    per_layer: bool
    initial: Callable[[int, int, Tensor], list[Tensor]] | None = None

    def split(self, hx: Any, batch: int, batched: bool, order: Tensor | None, like: Tensor) -> list[list[Tensor]]:
        """`states[layer][kind]`, each (directions, batch, size), from what the caller gave (None: the cell's own)."""
        layers, d = len(self.sizes[0]), self.directions
        if hx is None and self.initial is not None:
            return [self.initial(i, batch, like) for i in range(layers)]
        if hx is None:
            return [[like.new_zeros(d, batch, sizes[i]) for sizes in self.sizes] for i in range(layers)]
        given = [hx] if len(self.sizes) == 1 else hx
        if not isinstance(given, tuple | list) or len(given) != len(self.sizes):
            raise invalid("initial states", got=type(hx).__name__, expected=f"a tuple of {len(self.sizes)} states")
        rows = [self._parts(kind, sizes, batch, batched) for kind, sizes in zip(given, self.sizes, strict=True)]
        if order is not None:
            rows = [[part.index_select(0, order) for part in row] for row in rows]
        return [[torch.stack(row[i * d : (i + 1) * d]) for row in rows] for i in range(layers)]

    def _parts(self, kind: Any, sizes: tuple[int, ...], batch: int, batched: bool) -> list[Tensor]:
        """One (batch, size) tensor for each layer and direction."""
        wanted = [(batch, n) if batched else (n,) for n in sizes for _ in range(self.directions)]
        if isinstance(kind, Tensor) and len(set(sizes)) > 1:
            raise invalid("initial state", got="one tensor", expected=f"a tuple of tensors of shapes {wanted}")
        parts: list[Tensor] = []
        for part in kind:
            parts.extend(part.unbind(0) if part.dim() > len(wanted[0]) else [part])
        if isinstance(kind, Tensor) and tuple(kind.shape) != (len(wanted), *wanted[0]):
            raise invalid("initial state shape", got=tuple(kind.shape), expected=str((len(wanted), *wanted[0])))
        if [tuple(p.shape) for p in parts] != wanted:
            raise invalid("initial state shapes", got=[tuple(p.shape) for p in parts], expected=str(wanted))
        return parts if batched else [p.unsqueeze(0) for p in parts]

    def join(self, states: Sequence[Sequence[Tensor]], batched: bool, order: Tensor | None) -> Any:
        """The final states in the caller's form, from `states[layer][kind]`."""
        joined = []
        for kind, sizes in zip(zip(*states, strict=True), self.sizes, strict=True):
            if order is not None:
                kind = [s.index_select(1, order) for s in kind]
            if not batched:
                kind = [s.squeeze(1) for s in kind]
            apart = self.per_layer or len(set(sizes)) > 1
            joined.append(tuple(t for s in kind for t in s.unbind(0)) if apart else torch.cat(list(kind)))
        return joined[0] if len(joined) == 1 else tuple(joined)


def run_stack(
    layer: Any,
    form: StateForm,
    input: Tensor | PackedSequence,
    hx: Any,
    run_layer: Callable[[int, Steps, list[Tensor]], tuple[Tensor, Sequence[Tensor]]],
) -> tuple[Any, Any]:
    """All layers over a batch of sequences, in the calling convention of `torch.nn.LSTM`.

    `run_layer(number, steps, states)` runs all directions of one layer: states (directions, batch, size) per kind.
    `layer` has input_size, num_layers, batch_first, dropout, locked_dropout and training.
    """
    packed = isinstance(input, PackedSequence)
    if packed:
        data, batch_sizes, order, back = input
        steps, batched, batch_axis = Steps(data, batch_sizes, int(batch_sizes[0])), True, None
    else:
        if not isinstance(input, Tensor) or input.dim() not in (2, 3):
            got = f"{input.dim()}D" if isinstance(input, Tensor) else type(input).__name__
            raise invalid(f"{type(layer).__name__} input", got=got, expected="a 2D or 3D tensor or a PackedSequence")
        order = back = None
        batched = input.dim() == 3
        batch_axis = 0 if layer.batch_first and batched else 1
        data = input if batched else input.unsqueeze(1)
        data = data.transpose(0, 1) if batch_axis == 0 else data
        steps = Steps(data, None, data.shape[1])
    if steps.data.dim() != (2 if packed else 3) or steps.data.shape[-1] != layer.input_size:
        raise invalid(f"{type(layer).__name__} input size", got=steps.data.shape[-1], expected=str(layer.input_size))
    if len(steps.data) == 0:
        raise invalid(f"{type(layer).__name__} input", got="a sequence of no steps", expected="at least one step")
    check_dtype(layer, "input", steps.data)
    states = form.split(hx, steps.batch, batched, order, steps.data)
    for state in (s for kinds in states for s in kinds):
        check_dtype(layer, "initial state", state)
    after = []
    for i in range(layer.num_layers):
        data, new = run_layer(i, steps, states[i])
        after.append(new)
        if layer.dropout and layer.training and i + 1 < layer.num_layers:
            data = drop(layer, Steps(data, steps.batch_sizes, steps.batch))
        steps = Steps(data, steps.batch_sizes, steps.batch)
    if packed:
        output = PackedSequence(steps.data, steps.batch_sizes, order, back)  # pyright: ignore
    else:
        output = steps.data.transpose(0, 1) if batch_axis == 0 else steps.data
        output = output if batched else output.squeeze(1)
    return output, form.join(after, batched, back)


def drop(layer: Any, steps: Steps) -> Tensor:
    """The numbers of `steps` after the dropout of `layer`, which is the same at all steps of a sequence if locked."""
    data, batch_sizes = steps.data, steps.batch_sizes
    if not layer.locked_dropout:
        return functional.dropout(data, layer.dropout)
    factors = functional.dropout(data.new_ones(steps.batch, data.shape[-1]), layer.dropout)
    if batch_sizes is None:
        return data * factors
    return data * torch.cat([factors[:count] for count in batch_sizes.tolist()])


def check_dtype(layer: Any, what: str, tensor: Tensor) -> None:
    """Check that the dtype matches the parameters, unless autocast is enabled."""
    own = next(layer.parameters()).dtype
    if tensor.dtype != own and not torch.is_autocast_enabled(tensor.device.type):
        hint = f"convert it, {what.split()[-1]}.to({own})"
        hint += f", or the layer, .to({tensor.dtype})" if tensor.is_floating_point() else ""
        raise invalid(f"{type(layer).__name__} {what} dtype", got=tensor.dtype, expected=str(own), hint=hint)


def sizes_per_layer(hidden_size: int | Sequence[int], num_layers: int) -> tuple[list[int], int]:
    """The hidden size of every layer and the number of layers; a list of sizes sets both."""
    check_positive(num_layers, "num_layers")
    if isinstance(hidden_size, list | tuple):
        if not hidden_size or num_layers not in (1, len(hidden_size)):
            raise invalid("num_layers", got=num_layers, expected=f"{len(hidden_size)}, one for each of {hidden_size}")
        return [check_positive(n, "hidden_size") for n in hidden_size], len(hidden_size)
    return [check_positive(hidden_size, "hidden_size")] * num_layers, num_layers  # pyright: ignore


def projection_per_layer(proj_size: int | Sequence[int], sizes: list[int], weight: WeightSpec = DENSE) -> list[int]:
    """The projection of every layer, 0 in all of them for none; `weight` is that of its matrix."""
    projections = list(proj_size) if isinstance(proj_size, list | tuple) else [proj_size] * len(sizes)
    if len(projections) != len(sizes):
        raise invalid("proj_size", got=proj_size, expected=f"{len(sizes)} sizes, one for each layer")
    if any(projections):
        for projection in projections:
            check_positive(projection, "proj_size")
    elif weight != DENSE:
        raise invalid("projection_weight", got=weight, expected="it with proj_size, the size of the projection")
    return projections  # pyright: ignore


def check_dropout(dropout: object, num_layers: int) -> float:
    """Validated `dropout`, with the same conditions and warning as in torch."""
    if not isinstance(dropout, Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:  # pyright: ignore
        raise invalid("dropout", got=repr(dropout), expected="a number in range [0, 1], the probability of a zero")
    if dropout and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    return float(dropout)  # pyright: ignore
