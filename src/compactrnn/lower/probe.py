"""Detection of the time and batch axes, by enlarging axes and watching the recurrent layers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError, invalid
from ..emit.frames import frames_a_step
from ..graph.copy import copy_module
from ..layers import cells_of, is_recurrent
from .calls import Call, Reading, axes_text, called, calls, fails, input_names, reason, resized
from .refusals import cells_used, check_layers, no_time

_MOST_READINGS = 400


@dataclass(frozen=True)
class Axes:
    """The time axis of each input, and its batch axis (None without one). `one`: the batch must stay one.

    An input without a time axis is the same for a whole sequence, of which it is given once.

    A step is `frames` entries of the time axis: more than one where the model has strides over time.
    """

    times: Reading
    batches: Reading
    one: bool = False
    frames: int = 1

    def with_steps(self, inputs: tuple[Tensor, ...], steps: int) -> tuple[Tensor, ...]:
        """`inputs` cut or repeated to `steps` time steps."""
        return resized(inputs, self.times, steps * self.frames)

    def whole(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """`inputs` without the frames behind the last whole step; repeated to one step where they are shorter."""
        return inputs if self.frames == 1 else self.with_steps(inputs, max(1, self.steps(inputs)))

    def with_batch(self, inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
        """`inputs` cut or repeated to a batch of `size`; as they are where there is no batch axis."""
        return resized(inputs, self.batches, size)

    def steps(self, inputs: tuple[Tensor, ...]) -> int:
        """Number of time steps of the example."""
        return _size(inputs, self.times) // self.frames

    def rows(self, inputs: tuple[Tensor, ...]) -> int:
        return next((x.shape[b] for x, b in zip(inputs, self.batches, strict=True) if b is not None), 1)

    def sequence(self, inputs: tuple[Tensor, ...], row: int) -> tuple[Tensor, ...]:
        """One sequence, as an engine takes it: time first, no batch axis."""
        found = []
        for x, time, batch in zip(inputs, self.times, self.batches, strict=True):
            if batch is not None:
                x = x.narrow(batch, row, 1)
            x = x if time is None else x.movedim(time, 0)
            x = x if batch is None else x.squeeze(batch + (time is not None and batch < time))
            found.append(x if self.frames == 1 or time is None else x.unflatten(0, (-1, self.frames)))
        return tuple(found)


class TimeUnclearError(UnsupportedModelError):
    """Several axes have recurrent layers that could run over time; `axes` of the first input that has them."""

    def __init__(self, message: str, axes: Sequence[int]):
        super().__init__(message)
        self.axes = tuple(axes)


def find_axes(model: nn.Module, inputs: tuple[Tensor, ...], time: int | None = None, cut: bool = False) -> Axes:
    """Find the axes of `inputs` that reach the recurrent layers as time and batch.

    Where layers run along two axes, as in a dual-path model, time is the one along which no layer is bidirectional; the
    other lies within a step. `time` says which it is, by an axis of the first input.

    Where the model has strides over time, a step is as many frames as all layers and outputs need to grow by whole
    steps.

    Inputs that are as long as the model takes, such as those of a table of positions, are cut to half first, which
    `cut` says of `inputs`.

    Raises:
        UnsupportedModelError: there is no such axis, or more than one reading; says which layer is in the way.
        TimeUnclearError: layers run along several axes that could be time.
        ValueError: no layer runs along the axis `time`.
    """
    check_layers(model)
    model = copy_module(model).eval()
    for module in filter(is_recurrent, model.modules()):
        cells_of(module)  # which refuses weights that the code of the model computes
    names, kind = input_names(model, len(inputs)), type(model).__name__
    time = _checked(time, inputs[0], names[0])
    try:
        base = calls(model, inputs)
    except Exception as error:  # whatever a model raises
        if isinstance(error, UnsupportedModelError):
            raise
        raise fails(kind, error) from error
    if not base:
        layers = ", ".join(called(n, m) for n, m in model.named_modules() if is_recurrent(m))
        raise UnsupportedModelError(
            f"{kind}: its forward does not call its recurrent layers ({layers}) in eval mode"
            + (f", and {cells}" if (cells := cells_used(model)) else "")
        )
    tried, errors = _try_all(model, inputs)
    along = _along(base, tried)
    if time is None:  # of two axes that of layers in both directions may have a stride within a step
        along = _chosen(base, along, names, time)
    strided, frames = _strided(model, inputs, base, along, time)
    if frames > 1:
        inputs = resized(inputs, strided, max(1, _size(inputs, strided) // frames) * frames)
        base = calls(model, inputs)
        tried, errors = _try_all(model, inputs, frames)
        along = _along(base, tried)
    along = _chosen(base, along, names, time)
    if frames > 1 and along and strided not in [reading for reading, _ in along]:
        raise UnsupportedModelError(
            f"{kind}: layers run along two axes, along one of them with a stride: say which is time by pack(time=...)"
        )
    if not along and not cut and (halved := _of_half(model, inputs, time)) is not None:
        return halved
    if not along:
        raise UnsupportedModelError(f"{kind}: {no_time(base, *_try_all(model, inputs, 0), inputs)}")
    lead = min(along[0][1])
    steady = {r: c for r, c in tried.items() if [x.steps for x in c] == [x.steps for x in base]}
    batches = [r for r, c in steady.items() if _more_rows(base[lead], c[lead])]
    times = {r: tried[r][lead].steps for r, _ in along}
    found = _together(model, inputs, base, lead, times, batches, frames)
    if not found and not cut and (halved := _of_half(model, inputs, time)) is not None:
        return halved
    found = found or [(max(times, key=_covers), (None,) * len(inputs))]
    if len(found) > 1 and len(inputs) == 1 and len({t for t, _ in found}) == 1:
        found = [min(found, key=lambda pair: pair[1][0] or 0)]  # the others are rows of each sequence
    if len(found) > 1:
        ways = " or ".join(f"time is {axes_text(t, names)} and the batch {axes_text(b, names)}" for t, b in found[:2])
        raise UnsupportedModelError(
            f"{kind}: example_inputs can be read in more than one way: {ways};"
            " give an example whose batch, steps and widths are all different"
        )
    chosen, batch = found[0]
    one = False
    if all(b is None for b in batch):
        batch, one = _alone(inputs, base[lead], chosen, errors)
    return Axes(chosen, batch, one, frames)


def _of_half(model: nn.Module, inputs: tuple[Tensor, ...], time: int | None) -> Axes | None:
    """The axes of inputs that cannot be enlarged, found on half of them; None where there are none, either."""
    for size, reading in _readings(inputs):
        if size > 3:
            with contextlib.suppress(UnsupportedModelError, ValueError):
                found = find_axes(model, resized(inputs, reading, size // 2), time, cut=True)
                if found.times == reading:
                    return found
    return None


def _checked(time: int | None, x: Tensor, name: str) -> int | None:
    """`time` counted from the first axis."""
    if time is None:
        return None
    if isinstance(time, bool) or not isinstance(time, int) or not -x.dim() <= time < x.dim():
        raise invalid("time", got=repr(time), expected=f"an axis of {name}, of shape {tuple(x.shape)}, as a number")
    return time % x.dim()


def _along(base: list[Call], tried: dict[Reading, list[Call]]) -> list[tuple[Reading, frozenset[int]]]:
    """The readings along which layers run, and the numbers of their calls.

    Of two of which one has all calls of the other, the larger alone.
    """
    found = []
    for reading, after in tried.items():
        if len(after) == len(base):
            grown = frozenset(i for i, (a, b) in enumerate(zip(base, after, strict=True)) if b.steps > a.steps)
            found += [(reading, grown)] if grown else []
    return [(r, mine) for r, mine in found if not any(mine < other for _, other in found)]


def _chosen(
    base: list[Call], along: list[tuple[Reading, frozenset[int]]], names: list[str], time: int | None
) -> list[tuple[Reading, frozenset[int]]]:
    """Those of one set of calls, of which `time` says which it is."""
    if time is not None and along:
        kept = [(r, mine) for r, mine in along if r[0] == time]
        if not kept:
            axes = ", ".join(str(axis) for axis in sorted({r[0] for r, _ in along if r[0] is not None}))
            expected = f"an axis of {names[0]} along which recurrent layers run ({axes})"
            raise invalid("time", got=str(time), expected=expected)
        along = kept
    sets = list(dict.fromkeys(mine for _, mine in along))
    streaming = [mine for mine in sets if not any(base[i].both for i in mine)]
    if len(sets) > 1 and len(streaming) != 1:
        readings = [next(r for r, other in along if other == mine) for mine in sets]
        ways = " and ".join(
            f"{base[min(mine)].layer} runs along {axes_text(r, names)}" for mine, r in zip(sets, readings, strict=True)
        )
        axes = [r[0] for r in readings if r[0] is not None]
        if len(axes) == 1:  # the others are of other inputs
            return _chosen(base, along, names, axes[0])
        given = " or ".join(f"time={axis}" for axis in axes)
        why = "either could be time" if streaming else "neither streams, as layers along both are bidirectional"
        raise TimeUnclearError(f"two axes have recurrent layers: {ways}; {why}: say which it is by pack({given})", axes)
    chosen = streaming[0] if len(streaming) == 1 else sets[0] if sets else None
    return [(r, mine) for r, mine in along if mine == chosen]


@torch.no_grad()
def output_axes(model: nn.Module, inputs: tuple[Tensor, ...], axes: Axes) -> list[tuple[int | None, int | None, int]]:
    """Of each tensor that the model returns for more than one step and batch 1: the axes of time and batch, the rate.

    The rate is how many entries of time it has for each step.
    """
    steps = max(2, axes.steps(inputs))
    one, longer = (_tensors(model(*axes.with_steps(inputs, n))) for n in (steps, steps + 1))
    two = one if axes.one else _tensors(model(*axes.with_batch(axes.with_steps(inputs, steps), 2)))
    found = []
    for a, b, c in zip(one, two, longer, strict=True):
        time = next((d for d in range(a.dim()) if a.shape[d] != c.shape[d]), None)
        ones = (d for d in range(a.dim()) if d != time and a.shape[d] == 1 and b.dim() == a.dim())
        rate = 1 if time is None else c.shape[time] - a.shape[time]
        found.append((time, next((d for d in ones if axes.one or b.shape[d] == 2), None), rate))
    return found


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _more_rows(before: Call, after: Call) -> bool:
    """Whether rows were added and nothing else."""
    return after.steps == before.steps and (after.batch or 0) > (before.batch or 0)


def _strided(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    base: list[Call],
    along: list[tuple[Reading, frozenset[int]]],
    time: int | None,
) -> tuple[Reading, int]:
    """Axes along which layers run with a stride, and how many frames a step is; one where there is no stride.

    `along` are those along which layers get more steps for one entry more.
    """
    found = [reading for reading, _ in along]
    if not found or time is not None:
        found += [reading for reading, _ in _along(base, _try_all(model, inputs, 0)[0]) if reading not in found]
    for reading in sorted(found, key=_covers, reverse=True):
        if time is None or reading[0] == time:
            frames = frames_a_step(cache(partial(_sizes, model, inputs, reading)), _size(inputs, reading))
            if frames is not None and frames > 1:
                return reading, frames
    return (), 1


@torch.no_grad()
def _sizes(model: nn.Module, inputs: tuple[Tensor, ...], reading: Reading, length: int) -> tuple[int, ...] | None:
    """The steps that layers get and the sizes of outputs where axes are so long; None where the model refuses."""
    returned: list[Any] = []
    hook = model.register_forward_hook(lambda m, x, y: returned.append(y))
    try:
        steps = [call.steps for call in calls(model, resized(inputs, reading, length))]
    except Exception:  # whatever a model raises that is not made for these shapes
        return None
    finally:
        hook.remove()
    return (*steps, *(n for y in _tensors(returned[-1]) for n in y.shape))


def _try_all(
    model: nn.Module, inputs: tuple[Tensor, ...], more: int = 1
) -> tuple[dict[Reading, list[Call]], dict[Reading, BaseException]]:
    """What the recurrent layers get, or the error, where axes of equal length grow together, by `more` or twofold."""
    tried: dict[Reading, list[Call]] = {}
    errors: dict[Reading, BaseException] = {}
    for size, reading in _readings(inputs):
        try:
            tried[reading] = calls(model, resized(inputs, reading, size + (more or size)))
        except Exception as error:  # whatever a model raises
            errors[reading] = error
    return tried, errors


def _readings(inputs: tuple[Tensor, ...]) -> Iterator[tuple[int, Reading]]:
    """Sizes, the largest first, and axes of the inputs that are so long."""
    for size in sorted({n for x in inputs for n in x.shape}, reverse=True):
        choices = [[*(d for d, n in enumerate(x.shape) if n == size), None] for x in inputs]
        for reading in itertools.islice(itertools.product(*choices), _MOST_READINGS):
            if any(axis is not None for axis in reading):
                yield size, reading


def _together(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    base: list[Call],
    lead: int,
    times: dict[Reading, int],
    batches: list[Reading],
    frames: int,
) -> list[tuple[Reading, Reading]]:
    """The time and the batch axes that can be enlarged both at once, of as many inputs as can be.

    `times`: how many steps the leading call has where these axes are one step longer, which is so many `frames`.
    """
    none: Reading = (None,) * len(inputs)
    found: list[tuple[Reading, Reading]] = []
    for time, batch in itertools.product(times, batches or [none]):
        if any(t is not None and t == b for t, b in zip(time, batch, strict=True)):
            continue
        larger = resized(resized(inputs, time, _size(inputs, time) + 2 * frames), batch, _size(inputs, batch) + 1)
        try:
            first = calls(model, larger)[lead]
        except Exception:  # whatever a model raises that is not made for these shapes
            continue
        rows_fit = batch == none or _more_rows(base[lead], first._replace(steps=base[lead].steps))
        if first.steps == 2 * times[time] - base[lead].steps and rows_fit:
            found.append((time, batch))
    most = max((_covers(t) + _covers(b) for t, b in found), default=0)
    return [(t, b) for t, b in found if _covers(t) + _covers(b) == most]


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
    if first.batch == 1 or all(first.batch not in x.shape for x in inputs):
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
