"""Verification of a float32 program against torch, on the example, test sequences and calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import UnsupportedModelError, invalid
from ..emit.packed_file import Check
from ..graph.copy import copy_module
from ..runtime.delta import has_references
from ..runtime.engine import Engine
from ..runtime.file import write
from ..runtime.quantize import quantize
from .calls import reason
from .lowering import Lowered
from .outputs import Port
from .reference import Reference
from .sequences import made_up, shuffled
from .unrolled import Unrolled

PARITY = 1e-4
_OTHER, _FEW = "other lengths", (0, 1, 4)  # more than the least, where the ends may differ at other lengths
_LOSSES = 16  # a program may lose as many times what float32 itself loses in torch
_CROSSED = 4  # and as many times what a threshold that is crossed a step earlier or later changes


def verify(reference: Reference, engine: Engine, batches: Iterable[tuple[Tensor, ...]]) -> list[Check]:
    """Compare `engine`, the float32 program, with torch.

    An error of 1e-4 is accepted, or 16 times what float32 itself has lost in torch up to this step against float64,
    where that is more. In a program with references (`runtime.delta`) a rounding error may decide at which step a
    number is sent; there it may also be 4 times the largest difference that coarser rounding of the weights makes in
    torch.

    Raises:
        UnsupportedModelError: the outputs differ; says which, from which step on, on what data and by how much.
    """
    lowered, example = reference.lowered, reference.lowered.example
    sizes = [np.abs(_finite(y)).max(initial=0.0) for y in reference.run(lowered.axes.with_batch(example, 1))[0]]
    steps, most = lowered.axes.steps(example), lowered.program.most_steps
    if most and steps > most:
        raise UnsupportedModelError(
            f"{type(lowered.trace.model).__name__}: the tables of positions in a file are for {most} steps, which is"
            f" less than the {steps} of the example: give it fewer steps; an engine that gets more refuses them"
        )
    checks = [_check("the example", reference, engine, example, sizes)]
    longer = 2 * max(steps, lowered.reach) + 3
    longer = min(longer, most or longer)
    another = "a longer sequence" if longer > steps else "another sequence"
    checks.append(_check(another, reference, engine, shuffled(lowered, longer, 1), sizes))
    if checks[-1].skipped:
        longer = steps
    checks += _other_lengths(reference, engine, sizes)
    for what, inputs in made_up(lowered, longer):
        checks.append(_check(what, reference, engine, inputs, sizes))
    if isinstance(lowered.model, Unrolled):
        checks.append(_check_given_states(lowered, lowered.model, engine, shuffled(lowered, longer, 1), sizes))
    found = [_check("calibration", reference, engine, inputs, sizes) for inputs in batches]
    if found:
        checks.append(Check("calibration", sum(c.steps for c in found), max(c.error or 0.0 for c in found)))
    return checks


def allow_short(reference: Reference) -> None:
    """Let the program take as few steps as torch, where it gives the same then.

    A value of fewer steps than the sequence, such as a difference of neighbours, has none in a short one. That may be
    padded before anything reads it.
    """
    lowered = reference.lowered
    program, sizes = lowered.program, [0.0] * len(lowered.ports)
    least = 1 + max(output.fewer for output in program.outputs)
    while (fewer := program.least_steps - 1) >= least:
        engine = Engine(write(quantize(replace(program, least_steps=fewer), "float32", False)))
        try:
            if _check(_OTHER, reference, engine, shuffled(lowered, fewer, 1), sizes).skipped:
                return
        except UnsupportedModelError:
            return
        program.least_steps = fewer


def _other_lengths(reference: Reference, engine: Engine, sizes: list[float]) -> list[Check]:
    """Compare on one step, and where the ends, or questions of Python code about the number of steps, may matter."""
    lowered = reference.lowered
    least, most = max(lowered.program.least_steps, 1), lowered.program.most_steps
    ends = lowered.axes.frames > 1 or least > 1
    asked = lowered.trace.unguarded(lowered.axes.frames)
    few = {least, *(least + n for n in _FEW if ends)}
    found = []
    for n in sorted(n for n in few | asked.keys() if n >= least and not (most and n > most)):
        try:
            found.append(_check(_OTHER, reference, engine, shuffled(lowered, n, 1), sizes))
        except UnsupportedModelError as error:
            if ends and n in few:
                raise
            if not isinstance(error, _ShapeError):  # too short for a delay, a model may give other numbers of results
                raise _asked(type(lowered.trace.model).__name__, n, asked.get(n, ""), error) from error
    compared = [check for check in found if not check.skipped]
    if not compared and not ends:
        return []
    worst = max((check.error or 0.0 for check in compared), default=None)
    skipped = next((check.skipped for check in found if check.skipped), "") if ends else ""
    return [Check(_OTHER, sum(check.steps for check in compared), worst, skipped)]


class _ShapeError(UnsupportedModelError):
    """As many steps as torch gives and the program differ."""


def _asked(model: str, steps: int, guard: str, error: UnsupportedModelError) -> UnsupportedModelError:
    """The error for code that does something else for so many steps than where `guard` is true of their number n."""
    than = f"than where {guard}, of n entries" if guard else "than for more"
    return UnsupportedModelError(
        f"{model}: its Python code asks how long a sequence is, and does something else for {steps} steps {than}; an"
        f" engine does the same at any length ({error})"
    )


def argument(sequence: tuple[np.ndarray, ...]) -> Any:
    """What `Engine.run` takes: one input alone, several as a tuple."""
    (*rest, last) = sequence
    return sequence if rest else last


def given(lowered: Lowered, inputs: tuple[Tensor, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """The sequences of a batch as the engine takes them."""
    for row in range(lowered.axes.rows(inputs)):
        yield tuple(x.numpy() for x in lowered.axes.sequence(inputs, row))


class _Started(NamedTuple):
    """An engine whose sequences start from given states, and that gives its states after each step too."""

    engine: Engine
    states: dict[str, np.ndarray]

    def run(self, xs: Any) -> tuple[np.ndarray, ...]:
        stream, rows = self.engine.stream(), []
        stream.reset(**self.states)
        for t in range(len(xs[0] if isinstance(xs, tuple) else xs)):
            y = stream.step(tuple(x[t] for x in xs) if isinstance(xs, tuple) else xs[t])
            rows.append([*(y if isinstance(y, tuple) else [y]), *map(stream.get_state, self.states)])
        return tuple(map(np.stack, zip(*rows, strict=True)))


def _check_given_states(
    lowered: Lowered, unrolled: Unrolled, engine: Engine, inputs: tuple[Tensor, ...], sizes: list[float]
) -> Check:
    """Compare from random states, and the states after each step."""
    model, generator = copy_module(unrolled), torch.Generator().manual_seed(0)
    given = {s.name: torch.randn(s.layout.port, generator=generator) for s in model.states}
    model.start_from(given)
    names = enumerate(model.states, len(lowered.ports))
    states = [Port(s.name, number, 0, None if s.layout.batch is None else 1) for number, s in names]
    told = replace(lowered, model=model, ports=[*lowered.ports, *states])
    started = _Started(engine, {name: value.numpy() for name, value in given.items()})
    return _check("given states", Reference(told), started, inputs, [*sizes, *(0.0 for _ in states)])


def _check(
    what: str, reference: Reference, engine: Engine | _Started, inputs: tuple[Tensor, ...], sizes: list[float]
) -> Check:
    lowered = reference.lowered
    steps = lowered.axes.steps(inputs) * lowered.axes.rows(inputs)
    try:
        wanted = reference.run(inputs)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if what == "calibration":
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            got = f"a batch of shape {shapes}, which the model refuses ({reason(error)})"
            raise invalid("calibration", got=got, expected="batches like example_inputs") from error
        if what == "the example":
            raise
        return Check(what, steps, None, f"the model refuses it: {str(error).strip().splitlines()[0]}")
    got = [engine.run(argument(sequence)) for sequence in given(lowered, inputs)]
    got = [results if isinstance(results, tuple) else (results,) for results in got]
    worst = 0.0
    for number, port in enumerate(lowered.ports):
        ours, theirs = ([row[number] for row in rows] for rows in (got, wanted))
        if steps == 1 and ours[0].size == theirs[0].size:  # `squeeze` without an axis takes time away, too
            theirs = [y.reshape(ours[0].shape) for y in theirs]
        if ours[0].shape != theirs[0].shape:
            raise _ShapeError(f"{port.name}: the program gives shape {ours[0].shape}, torch {theirs[0].shape}")
        size = max([sizes[number], *(np.abs(_finite(y)).max(initial=0.0) for y in theirs)]) or 1.0
        errors = [_errors(a, b, size, port.time) for a, b in zip(ours, theirs, strict=True)]
        if max(e.max() for e in errors) > PARITY:
            losses = [
                np.maximum.reduce([_errors(rows[i][number], theirs[i], size, port.time) for rows in exact])
                for exact in [reference.exact(inputs)]
                for i in range(len(theirs))
            ]
            crossed = 0.0
            if has_references(lowered.program):
                rows = reference.crossed(inputs)
                pairs = [_errors(r[number], y, size, port.time) for r, y in zip(rows, theirs, strict=True)]
                crossed = _CROSSED * max(float(_finite(e).max(initial=0.0)) for e in pairs)
            _refuse_beyond(port.name, what, errors, losses, max(PARITY, crossed))
        worst = max(worst, *(float(_finite(e).max(initial=0.0)) for e in errors))
    return Check(what, steps, worst)


def _errors(got: np.ndarray, want: np.ndarray, size: float, time: int | None) -> np.ndarray:
    """Largest difference per step; infinite where only one of the two is finite or NaN."""
    got, want = (np.atleast_1d(values).astype(np.float64) for values in (got, want))  # one number, too
    with np.errstate(invalid="ignore"):
        difference = np.abs(got - want) / size
    difference[(got == want) | (np.isnan(got) & np.isnan(want))] = 0.0
    difference[~np.isfinite(difference)] = np.inf
    return difference.reshape(len(got) if time is not None else 1, -1).max(1, initial=0.0)


def _refuse_beyond(name: str, what: str, errors: list[np.ndarray], losses: list[np.ndarray], accepted: float) -> None:
    for error, loss in zip(errors, losses, strict=True):
        allowed = np.maximum(accepted, _LOSSES * np.maximum.accumulate(loss))
        if (wrong := np.flatnonzero(error > allowed)).size:
            step = int(wrong[0])
            since = f" from step {step} of {len(error)} on" if len(error) > 1 else ""
            raise UnsupportedModelError(
                f"output {name!r}: the program differs from torch{since}, on {what}, by {error[step:].max():.3g}"
                f" of its largest value; at most {allowed[step]:.3g} is accepted. Some operation of the model does not"
                " mean the same step by step"
            )


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
