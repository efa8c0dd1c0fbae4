"""Arrays in and out of an engine: conversion and validation."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from .._errors import invalid
from .program import Input, Output, State


def state_values(state: State, values) -> np.ndarray:
    """The values of a state as float32 in its shape, axes of length one aside."""
    array, what = np.asarray(values), f"state {state.name!r}"
    if array.dtype.kind not in "bfiu":
        raise TypeError(f"{what}: expected an array of float32, got an array of {array.dtype}")
    if [n for n in array.shape if n != 1] != [n for n in state.shape if n != 1]:
        raise invalid(what, got=f"shape {array.shape}", expected=str(state.shape))
    with np.errstate(over="ignore"):
        array = np.require(array, np.float32, ["C", "A"])
    largest = np.abs(array).max(initial=0.0, where=~np.isnan(array)) if state.bounded else 0.0
    if largest > 1:
        raise invalid(
            what,
            got=f"a number of size {largest:.4g}",
            expected="numbers from -1 to 1, which this state never leaves",
            hint="quantized products read it with a fixed scale: pack(weights='float32') or pack(states=...) takes any",
        )
    return array


def _each(inputs: tuple[Input, ...], given) -> tuple:
    if len(inputs) == 1:
        return (given,)
    if not isinstance(given, (tuple, list)) or len(given) != len(inputs):
        got = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        raise invalid("input", got=got, expected=f"a tuple of {len(inputs)}: {', '.join(i.name for i in inputs)}")
    return tuple(given)


def given_once(inputs: tuple[Input, ...], given: Mapping[str, object]) -> dict[str, np.ndarray | int]:
    """The inputs that a sequence has once, by name: an array or a token each."""
    ports = {port.name: port for port in inputs if port.once}
    for name in given:
        if name not in ports:
            names = ", ".join(ports) or "none: it takes all of them at every step"
            raise invalid("stream", got=repr(name), expected=f"an input that a sequence has once ({names})")
    found = {name: _once(ports[name], value) for name, value in given.items()}
    return {name: x.item() if ports[name].vocabulary else x.copy() for name, x in found.items()}


def at_every_step(inputs: tuple[Input, ...], given, once: Mapping[str, np.ndarray | int]) -> tuple:
    """`given`, the inputs of a step or of several, and those that a sequence has `once`, in their order."""
    ports = tuple(port for port in inputs if not port.once)
    if isinstance(given, tuple) and len(given) == len(inputs) > len(ports):
        names = ", ".join(once)
        hint = f"a stream has {names} already: engine.stream(), reset()"
        raise invalid("input", got=f"{len(given)} values", expected=", ".join(port.name for port in ports), hint=hint)
    each = iter(_each(ports, given))
    return tuple(once[port.name] if port.once else next(each) for port in inputs)


def one_step(inputs: tuple[Input, ...], x) -> list[np.ndarray]:
    """The inputs of one time step: an array or a token each."""
    return [_row(port, value) for port, value in zip(inputs, _each(inputs, x), strict=True)]


def sequences(inputs: tuple[Input, ...], xs, frames: int = 1) -> tuple[list[np.ndarray], int]:
    """The inputs of a sequence, (time, ...) each, and the number of time steps.

    Where a step is several `frames`, an input is (time, frames, ...), or all frames one after the other. What a
    sequence has once has no time axis, and becomes a view that repeats it.
    """
    arrays, lengths = [], []
    for port, value in zip(inputs, _each(inputs, xs), strict=True):
        if port.once:
            arrays.append(_once(port, value))
            continue
        value = _in_steps(port, value, frames) if frames > 1 else value
        arrays.append(_tokens(port, value) if port.vocabulary else _numbers(port, value, ("time", *port.shape)))
        lengths.append(len(arrays[-1]))
    if len(set(lengths)) > 1:
        raise invalid("input", got=f"{lengths} time steps", expected="the same number for all")
    steps = lengths[0] if lengths else 0
    once = [port.once for port in inputs]
    return [np.broadcast_to(x, (steps, *x.shape)) if one else x for x, one in zip(arrays, once, strict=True)], steps


def output_rows(outputs: tuple[Output, ...], shapes: list[tuple[int, ...]], out) -> list[np.ndarray]:
    """Arrays for the outputs: new ones, or those of `out` if they fit."""
    if out is None:
        return [np.empty(shape, np.float32) for shape in shapes]
    given = list(out) if len(outputs) > 1 and isinstance(out, (tuple, list)) else [out]
    if len(given) != len(outputs):
        raise invalid("out", got=f"{len(given)} arrays", expected=f"a tuple of {len(outputs)} arrays")
    for port, array, shape in zip(outputs, given, shapes, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"out: expected an array, got {type(array).__name__} for {port.name!r}")
        if array.dtype != np.float32 or array.shape != shape or not array.flags.carray:
            flaw = "" if array.flags.carray else ", not aligned, writable and in one piece"
            got = f"{array.dtype} of shape {array.shape}{flaw}"
            raise invalid(
                "out", got=got, expected=f"float32 of shape {shape} for {port.name!r}", hint="np.empty makes one"
            )
    return given


def check_apart(rows: list[np.ndarray], inputs: list[np.ndarray]) -> None:
    """Outputs are written before all inputs are read, so no two may lie in the same memory."""
    if any(np.may_share_memory(row, x) for row in rows for x in inputs):
        raise invalid("out", got="memory of the input", expected="memory of its own")
    if any(np.may_share_memory(p, q) for p, q in combinations(rows, 2)):
        raise invalid("out", got="memory of another output", expected="memory of its own")


def _row(port: Input, value) -> np.ndarray:
    return np.array(_token(port, value), np.int32) if port.vocabulary else _numbers(port, value, port.shape)


def _once(port: Input, value) -> np.ndarray:
    """The same of an input that a sequence has once, where axes of length one do not count."""
    shape = np.shape(value)
    if (
        port.shape != shape
        and [n for n in shape if n != 1] == [n for n in port.shape if n != 1]
        and not port.vocabulary
    ):
        value = np.asarray(value).reshape(port.shape)
    return _row(port, value)


def _token(port: Input, value) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"input {port.name!r}: expected an int token, got a bool")
    try:
        token = operator.index(value)
    except TypeError:
        raise TypeError(f"input {port.name!r}: expected an int token, got {type(value).__name__}") from None
    if not 0 <= token < port.vocabulary:
        raise invalid(f"input {port.name!r}", got=token, expected=f"a token from 0 to {port.vocabulary - 1}")
    return token


def _tokens(port: Input, value) -> np.ndarray:
    array = np.asarray(value)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"input {port.name!r}: expected int tokens, got an array of {array.dtype}")
    if array.ndim != 1:
        raise invalid(f"input {port.name!r}", got=f"shape {array.shape}", expected="(time,) tokens")
    wrong = array[(array < 0) | (array >= port.vocabulary)]
    if wrong.size:
        raise invalid(f"input {port.name!r}", got=int(wrong[0]), expected=f"tokens from 0 to {port.vocabulary - 1}")
    return np.require(array, np.int32, ["C", "A"])


def _in_steps(port: Input, value, frames: int):
    """Frames one after the other as steps; what has an axis of steps as it is."""
    array = np.asarray(value)
    if array.ndim != len(port.shape) or array.shape[1:] != port.shape[1:]:
        return value
    if len(array) % frames:
        raise invalid(f"input {port.name!r}", got=f"{len(array)} frames", expected=f"a multiple of the {frames} a step")
    return array.reshape(-1, *port.shape)


def _numbers(port: Input, value, shape: tuple) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "bfiu":
        got = f"an array of {array.dtype}" if isinstance(value, (np.ndarray, list, tuple)) else type(value).__name__
        raise TypeError(f"input {port.name!r}: expected an array of float32, got {got}")
    fits = array.ndim == len(shape) and all(a == b for a, b in zip(array.shape, shape, strict=True) if b != "time")
    if not fits:
        wanted = "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
        raise invalid(f"input {port.name!r}", got=f"shape {array.shape}", expected=wanted)
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C", "A"]).reshape(array.shape)
