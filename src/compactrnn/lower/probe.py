"""Detection of the time and batch axes, by enlarging axes and watching the recurrent layers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..layers import is_recurrent
from .calls import Call, Reading, axes_text, called, calls, input_names, reason, resized, steps_of
from .refusals import check_layers, no_time, no_time_axis

_MOST_READINGS = 400


@dataclass(frozen=True)
class Axes:
    """The time axis of each input, and its batch axis (None without one). `one`: the batch must stay one."""

    times: tuple[int, ...]
    batches: Reading
    one: bool = False

    def with_steps(self, inputs: tuple[Tensor, ...], steps: int) -> tuple[Tensor, ...]:
        """`inputs` cut or repeated to `steps` time steps."""
        return resized(inputs, self.times, steps)

    def with_batch(self, inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
        """`inputs` cut or repeated to a batch of `size`; as they are where there is no batch axis."""
        return resized(inputs, self.batches, size)

    def steps(self, inputs: tuple[Tensor, ...]) -> int:
        """Number of time steps of the example."""
        return inputs[0].shape[self.times[0]]

    def rows(self, inputs: tuple[Tensor, ...]) -> int:
        return next((x.shape[b] for x, b in zip(inputs, self.batches, strict=True) if b is not None), 1)

    def sequence(self, inputs: tuple[Tensor, ...], row: int) -> tuple[Tensor, ...]:
        """One sequence, as an engine takes it: time first, no batch axis."""
        found = []
        for x, time, batch in zip(inputs, self.times, self.batches, strict=True):
            x = x.movedim(time, 0)
            found.append(x if batch is None else x.select(batch + (batch < time), row))
        return tuple(found)


def find_axes(model: nn.Module, inputs: tuple[Tensor, ...]) -> Axes:
    """Find the axes of `inputs` that reach the recurrent layers as time and batch.

    Raises:
        UnsupportedModelError: there is no such axis, or more than one reading; says which layer is in the way.
    """
    check_layers(model)
    model = copy_module(model).eval()
    names, kind = input_names(model, len(inputs)), type(model).__name__
    try:
        base = calls(model, inputs)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        if isinstance(error, UnsupportedModelError):
            raise
        raise UnsupportedModelError(f"{kind}: fails on example_inputs ({reason(error)})") from error
    if not base:
        layers = ", ".join(called(n, m) for n, m in model.named_modules() if is_recurrent(m))
        raise UnsupportedModelError(f"{kind}: its forward does not call its recurrent layers ({layers}) in eval mode")
    tried, errors = _try_all(model, inputs)
    times = {r: c for r, c in tried.items() if steps_of(c, 0) == base[0].steps + 1 and len(c) == len(base)}
    if not times:
        raise UnsupportedModelError(f"{kind}: {no_time(base, *_try_all(model, inputs, double=True), inputs)}")
    batches = [r for r, c in tried.items() if len(c) == len(base) and _more_rows(base[0], c[0])]
    found = _together(model, inputs, base, list(times), batches)
    for time, _ in found:
        _check_axes(base, tried, time, names)
    if len(found) > 1 and len(inputs) == 1 and len({t for t, _ in found}) == 1:
        rows = " and ".join(axes_text(b, names) for _, b in found)
        raise UnsupportedModelError(
            f"{base[0].layer}: its rows come from more than one axis, {rows}; an engine runs one sequence: pack the"
            " model for one of them, and run a stream for each"
        )
    if len(found) > 1:
        ways = " or ".join(f"time is {axes_text(t, names)} and the batch {axes_text(b, names)}" for t, b in found[:2])
        raise UnsupportedModelError(
            f"{kind}: example_inputs can be read in more than one way: {ways};"
            " give an example whose batch, steps and widths are all different"
        )
    time, batch = found[0]
    if None in time:
        raise UnsupportedModelError(no_time_axis(model, inputs, names, names[time.index(None)]))
    one = False
    if all(b is None for b in batch):
        batch, one = _alone(inputs, base[0], time, errors)
    return Axes(tuple(t for t in time if t is not None), batch, one)


@torch.no_grad()
def output_axes(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> list[tuple[int | None, int | None]]:
    """The time axis and the batch axis of each tensor that the model returns for more than one step and batch 1."""
    steps = max(2, axes.steps(inputs))
    one, longer = (_tensors(model(*axes.with_steps(inputs, n))) for n in (steps, steps + 1))
    two = one if axes.one else _tensors(model(*axes.with_batch(axes.with_steps(inputs, steps), 2)))
    found = []
    for a, b, c in zip(one, two, longer, strict=True):
        time = next((d for d in range(a.dim()) if a.shape[d] != c.shape[d]), None)
        ones = (d for d in range(a.dim()) if d != time and a.shape[d] == 1 and b.dim() == a.dim())
        found.append((time, next((d for d in ones if axes.one or b.shape[d] == 2), None)))
    return found


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _more_rows(before: Call, after: Call) -> bool:
    """Whether rows were added and nothing else."""
    return after.steps == before.steps and (after.batch or 0) > (before.batch or 0)


def _try_all(
    model: nn.Module, inputs: tuple[Tensor, ...], double: bool = False
) -> tuple[dict[Reading, list[Call]], dict[Reading, BaseException]]:
    """What the recurrent layers get, or the error, where axes of equal length grow together, by one or twofold."""
    tried: dict[Reading, list[Call]] = {}
    errors: dict[Reading, BaseException] = {}
    for size in sorted({n for x in inputs for n in x.shape}, reverse=True):
        choices = [[*(d for d, n in enumerate(x.shape) if n == size), None] for x in inputs]
        for reading in itertools.islice(itertools.product(*choices), _MOST_READINGS):
            if all(axis is None for axis in reading):
                continue
            try:
                tried[reading] = calls(model, resized(inputs, reading, 2 * size if double else size + 1))
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                errors[reading] = error
    return tried, errors


def _together(
    model: nn.Module, inputs: tuple[Tensor, ...], base: list[Call], times: list[Reading], batches: list[Reading]
) -> list[tuple[Reading, Reading]]:
    """The time and the batch axes that can be enlarged both at once, of as many inputs as can be."""
    none: Reading = (None,) * len(inputs)
    found: list[tuple[Reading, Reading]] = []
    for time, batch in itertools.product(times, batches or [none]):
        if any(t is not None and t == b for t, b in zip(time, batch, strict=True)):
            continue
        larger = resized(resized(inputs, time, _size(inputs, time) + 2), batch, _size(inputs, batch) + 1)
        try:
            first = calls(model, larger)[0]
        except (RuntimeError, IndexError, ValueError, TypeError):
            continue
        rows_fit = batch == none or _more_rows(base[0], first._replace(steps=base[0].steps))
        if first.steps == base[0].steps + 2 and rows_fit:
            found.append((time, batch))
    most = max((_covers(t) + _covers(b) for t, b in found), default=0)
    best = [(t, b) for t, b in found if _covers(t) + _covers(b) == most]
    return best or [(max(times, key=_covers), none)]


def _covers(reading: Reading) -> int:
    return sum(axis is not None for axis in reading)


def _size(inputs: tuple[Tensor, ...], reading: Reading) -> int:
    return next((x.shape[a] for x, a in zip(inputs, reading, strict=True) if a is not None), 0)


def _alone(
    inputs: tuple[Tensor, ...], first: Call, time: Reading, errors: dict[Reading, BaseException]
) -> tuple[Reading, bool]:
    """The batch axes of inputs that have none which could be enlarged: where it is fixed to one, an axis of one."""
    none: Reading = (None,) * len(inputs)
    if first.batch is None:
        return none, False
    if first.batch == 1:
        ones = [
            [d for d in range(x.dim() - 1) if x.shape[d] == 1 and d != t] for x, t in zip(inputs, time, strict=True)
        ]
        return tuple(d[0] if d else None for d in ones), any(ones)
    for reading, error in errors.items():
        axis = reading[0]
        if axis not in (None, time[0]) and inputs[0].shape[axis] == first.batch:
            raise UnsupportedModelError(
                f"{first.layer}: gets a batch of {first.batch}, and the model takes no other ({reason(error)});"
                " an engine runs one sequence: write x.shape[0] or -1 where the model has the number"
            )
    return none, False


def _check_axes(base: list[Call], tried: dict[Reading, list[Call]], time: Reading, names: list[str]) -> None:
    """Raise an error for a layer that runs along another axis than the first."""
    found = tried[time]
    for i, (before, after) in enumerate(zip(base, found, strict=True)):
        if after.steps == before.steps + 1 or after.batch == before.batch:
            continue
        other = max((r for r, c in tried.items() if steps_of(c, i) == before.steps + 1), key=_covers, default=None)
        along = "another axis" if other is None else axes_text(other, names)
        raise UnsupportedModelError(
            f"two axes have recurrent layers: {base[0].layer} runs along {axes_text(time, names)} and {before.layer}"
            f" along {along}. An engine has one time axis: pack the part with one time axis"
        )
