"""LSTM, GRU and RNN: over time, and over another axis within a step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import CONSTANT, STEP, Operand
from ...emit.recurrent import Starts, at_every_step, over_sequence
from ...emit.recurrent_rows import MOST_PLACES, over_places
from ...runtime.program import Unary
from .. import cells
from ..folded import Node
from ..model_file import refuse
from ..visitor import Visitor, handles

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


@handles("LSTM", "GRU", "RNN", lazy=True)
def _recurrent(
    visitor: Visitor,
    node: Node,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    peepholes: Any = None,
) -> list[Any] | None:
    """Y (T, directions, rows, n), Y_h and Y_c (directions, rows, n); with layout 1 rows come first."""
    if any(v is not None and not isinstance(v, np.ndarray) for v in (w, r, b, peepholes)):
        raise refuse(node.proto, "has weights that depend on data")
    mover, states = visitor.mover, [s for s in (h, c if node.op == "LSTM" else None) if s is not None]
    ranks = [(x, 3), (w, 3), (r, 3), (b, 2), (peepholes, 2), *((s, 3) for s in states)]
    if any(v is not None and (len(v.shape) != rank or 0 in v.shape) for v, rank in ranks):
        return None
    rows_first = node.get("layout", 0) == 1
    if isinstance(x, np.ndarray):  # as what is given to a decoder of which only the initial state says something
        x = mover.move([x], lambda a: a[0], visitor.grown(node.inputs[0]))
    if rows_first:
        x = mover.move([x], lambda a: a[0].swapaxes(0, 1), _swapped(_time(visitor, node, x)))
    x = visitor.materialize(x)
    if x.kind == CONSTANT and x.time == 0:
        x = at_every_step(visitor.builder, x)
    steps, rows = x.shape[:2]
    if lengths is not None and not (isinstance(lengths, np.ndarray) and bool((lengths == steps).all())):
        raise refuse(node.proto, "gets lengths of sequences; an engine runs one sequence of its own length")
    starts = [s for s in (h, c if node.op == "LSTM" else None)][: 2 if node.op == "LSTM" else 1]
    if rows_first:
        starts = [s if s is None else _turned(visitor, s) for s in starts]
    layer = _Layer(visitor, node, w, r, b, peepholes)
    if any(s is not None and tuple(s.shape) != (layer.directions, rows, layer.size) for s in starts):
        return None
    over_time = x.time == 0
    outputs, lasts = [], []
    for direction in range(layer.directions):
        found = []
        at_once = x.time is None and steps == 1 and rows > 1 and node.op == "GRU" and layer.rows[direction] is not None
        for row in range(rows if x.time != 1 and not at_once else 1):
            given = [None if s is None else (s, direction, slice(None) if at_once else row) for s in starts]
            run = layer.over_time if over_time else layer.each_row if at_once else layer.within_step
            found.append(run(x, row, direction, given))
        outputs.append([y for y, _ in found])
        lasts.append([last for _, last in found])
    return _results(visitor, node, x, outputs, lasts, rows_first)


class _Layer:
    def __init__(self, visitor: Visitor, node: Node, w: np.ndarray, r: np.ndarray, b: Any, peepholes: Any):
        self.visitor, self.node = visitor, node
        self.way = node.get("direction", "forward")
        self.directions = len(w)
        self.size = r.shape[-1]
        self.count = 2 if node.op == "LSTM" else 1
        gates = _GATES[node.op] * self.size
        shapes = [(w, (self.directions, gates, w.shape[-1])), (r, (self.directions, gates, self.size))]
        shapes += [(b, (self.directions, 2 * gates)), (peepholes, (self.directions, 3 * self.size))]
        for value, shape in shapes:
            if value is not None and value.shape != shape:
                raise refuse(node.proto, f"has weights of shape {value.shape} in place of {shape}")
        if node.get("hidden_size", self.size) != self.size:
            raise refuse(node.proto, f"has weights of {self.size} units and hidden_size={node.get('hidden_size', 0)}")
        if self.directions != (2 if self.way == "bidirectional" else 1):
            raise refuse(node.proto, f"has weights of {self.directions} directions and is {self.way}")
        b = np.zeros((self.directions, 2 * gates)) if b is None else b
        self.base = visitor.weight_name(node, 1)
        names = node.get("activations", []) or _DEFAULTS[node.op] * self.directions
        per = len(names) // self.directions
        plain = [n.lower() for n in names] == _DEFAULTS[node.op] * self.directions
        alphas, betas = node.get("activation_alpha", []), node.get("activation_beta", [])
        found = cells.activations(names, alphas, betas)
        if found is None or per != len(_DEFAULTS[node.op]):
            raise refuse(node.proto, f"has the activations {', '.join(names)}, of which some are not known")
        self.steps, self.rows = [], []
        for d in range(self.directions):
            w_bias, r_bias = np.asarray(b[d], np.float64).reshape(2, gates)
            weights = cells.Weights(
                np.asarray(w[d], np.float64),
                np.asarray(r[d], np.float64),
                w_bias,
                r_bias,
                None if peepholes is None else np.asarray(peepholes[d], np.float64).reshape(3, -1),
                partial(self._name, d),
            )
            functions = None if plain else found[d * per : (d + 1) * per]
            clip = node.get("clip", 0.0)
            rows = None
            if node.op == "LSTM":
                coupled = bool(node.get("input_forget", 0))
                self.steps.append(cells.lstm(weights, clip, coupled, functions))
                rows = cells.rows_of_lstm(weights) if cells.is_lstm(clip, coupled, functions, weights) else None
            elif node.op == "GRU":
                linear = bool(node.get("linear_before_reset", 0))
                self.steps.append(cells.gru(weights, clip, linear, functions))
                rows = cells.rows_of_gru(weights) if cells.is_gru(clip, linear, functions) else None
            else:
                self.steps.append(cells.rnn(weights, clip, functions))
            self.rows.append(rows)
        self.bounded = plain and node.op in ("LSTM", "GRU")

    def _name(self, direction: int, part: str) -> str:
        parts = {"input": "W", "hidden": "R", "candidate": "Rh"}
        return f"{self.base}.{parts.get(part, part)}" + ("_reverse" if self._backwards(direction) else "")

    def _backwards(self, direction: int) -> bool:
        return self.way == "reverse" or direction == 1

    def over_time(self, x: Operand, row: int, direction: int, given: list[Any]) -> tuple[Operand, list[Any]]:
        """One row of the sequence `x`: its outputs, (T, 1, n), and its states after the last step, (1, n)."""
        visitor = self.visitor
        source = visitor.mover.piece(x, 1, row) if x.shape[1] > 1 else x
        if self._backwards(direction):
            source = visitor.mover.backwards(source, f"{visitor.builder.where}: runs backwards")
        initial = self._initial(row if x.shape[1] > 1 else None, direction, given)
        step = self.steps[direction]
        y, last = over_sequence(visitor.builder, source, initial, lambda x, states: step(visitor.builder, x, states))
        last = visitor.mover.final(y, last)
        return visitor.mover.backwards(y, visitor.builder.where) if self._backwards(direction) else y, last

    def _initial(self, row: int | None, direction: int, given: list[Any]) -> Any:
        """What the states of a sequence start from: constants, or all of them states of the stream."""
        given = [g if g is None or isinstance(g[0], np.ndarray) else self._part(*g) for g in given]
        kept = [isinstance(g, LazyView) and self._is_kept(g) for g in given]
        if any(kept):
            if not all(kept):
                raise refuse(self.node.proto, "starts from a state of the stream in one state and not in the other")
            return [replace(self.visitor.mover.materialize(g), shape=(1, self.size), kind=STEP) for g in given]
        starts: Starts = {}
        for key, start in zip("hc", given, strict=False):
            if isinstance(start, LazyView):
                value = self.visitor.materialize(start)
                small = value.bounded
            else:
                value = np.zeros(self.size) if start is None else np.asarray(start[0][start[1], start[2]], np.float64)
                small = bool((np.abs(value) <= 1).all())
            name = self._name(direction, key) + ("" if row is None else f"_{row}")
            starts[name] = (value, self.bounded and key == "h" and small)
        return starts

    def _part(self, start: Any, direction: int, row: int) -> LazyView:
        """What one row of a direction starts from."""
        return self.visitor.mover.move([start], lambda a: a[0][direction, row], None)

    def _is_kept(self, start: LazyView) -> bool:
        """Whether a stream has it as a state, which must lie in one piece; what is more than that is refused."""
        found = [id(o) in self.visitor.initial for o in start.operands]
        if any(found) and not all(found):
            raise refuse(self.node.proto, "starts from more than a state of the stream")
        return bool(found) and all(found)

    def within_step(self, x: Operand, row: int, direction: int, given: list[Any]) -> tuple[Operand, list[Operand]]:
        """One row over an axis within a step: its outputs, (S, 1, n), and its states after the last, (1, n)."""
        visitor, build, steps = self.visitor, self.visitor.builder, x.shape[0]
        if steps * (1 if x.time == 1 else x.shape[1]) * self.directions > MOST_PLACES:
            raise refuse(self.node.proto, f"runs {steps} steps over {x.shape[1]} rows within each step; too many")
        states = [self._start(build, x, direction, row, start, n) for n, start in enumerate(given)]
        if x.time == 1:
            if x.rate > 1:
                raise refuse(
                    self.node.proto,
                    f"runs over an axis within each frame, of which a step of the engine has {x.rate}",
                )
            inputs = replace(x, shape=(steps, x.shape[2]), time=None)
        else:
            inputs = visitor.mover.rearrange(x, lambda t: t[:, row], None)
        backwards = self._backwards(direction)
        y, states = over_places(visitor.mover, inputs, states, self.steps[direction], self.rows[direction], backwards)
        return replace(y, shape=(steps, 1, self.size)), states

    def each_row(self, x: Operand, row: int, direction: int, given: list[Any]) -> tuple[Operand, list[Operand]]:
        """One step of all rows, each from a state of its own: outputs, (1, rows, n), and states after it."""
        build, rows, (start,) = self.visitor.builder, x.shape[1], given
        if start is None or isinstance(start[0], np.ndarray):
            value = np.zeros((rows, self.size)) if start is None else np.asarray(start[0][start[1]], np.float64)
            h = replace(self.visitor.mover.constant(value), shape=(rows, self.size))
        else:
            h = self.visitor.materialize(self.visitor.mover.move([start[0]], lambda a: a[0][start[1]], None))
        over = self.rows[direction]
        build.place([x])
        y, states = over(build, replace(x, shape=(rows, x.shape[2]), time=None, segment=build.segment), [h], each=True)
        return replace(y, shape=(1, rows, self.size)), states

    def _start(self, build: Any, x: Operand, direction: int, row: int, start: Any, number: int) -> Operand:
        """A state before the first step, (1, n); the cell of an LSTM is overwritten, so it is a copy."""
        bounded = self.bounded and number == 0
        if start is None or isinstance(start[0], np.ndarray):
            value = np.zeros(self.size) if start is None else np.asarray(start[0][start[1], start[2]], np.float64)
            ref = build.constant(value)
            state = Operand(ref, (1, self.size), None, CONSTANT, 0, bounded and bool((np.abs(value) <= 1).all()))
        else:
            view = self.visitor.mover.move([start[0]], lambda a: a[0][start[1], start[2]][None], None)
            state = replace(self.visitor.materialize(view), shape=(1, self.size))
        if number == 1:
            build.place([x])
            state = replace(build.unary(Unary.COPY, state), kind=STEP)
        return state


def _results(visitor: Visitor, node: Node, x: Operand, outputs: list, lasts: list, rows_first: bool) -> list[Any]:
    """Y, Y_h and Y_c of what directions and rows give."""
    mover, over_time, across = visitor.mover, x.time == 0, x.time == 1
    directions, rows = len(outputs), x.shape[1] if not across else 1
    values = [y for row in outputs for y in row]
    size = values[0].shape[-1]

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        found = [a.reshape(x.shape[0], -1, size) for a in arrays]
        whole = np.concatenate(found, 1).reshape(x.shape[0], directions, rows, size)
        return whole.transpose(2, 0, 1, 3) if rows_first else whole

    time = (1 if rows_first else 0) if over_time else None
    if across:
        return _across(visitor, node, x, values, lasts, rows_first)
    results: list[Any] = [mover.move(values, joined, time)]
    for number in range(len(lasts[0][0])):
        states = [row[number] for one in lasts for row in one]

        def together(arrays: list[np.ndarray]) -> np.ndarray:
            whole = np.concatenate([a.reshape(-1) for a in arrays]).reshape(directions, rows, -1)
            return whole.swapaxes(0, 1) if rows_first else whole

        results.append(mover.move(states, together, None))
    return results


def _across(visitor: Visitor, node: Node, x: Operand, values: list, lasts: list, rows_first: bool) -> list[Any]:
    """The same where rows are steps in time."""
    mover, steps, places = visitor.mover, x.shape[1], x.shape[0]

    def spread(value: Operand, shape: tuple[int, ...], turn: Any, time: int) -> Any:
        return replace(value, shape=shape, time=time)

    timed = [replace(v, shape=(places, steps, v.shape[-1]), time=1, kind=STEP) for v in values]
    y = mover.move(timed, lambda a: np.stack(a, 1), 2)
    results: list[Any] = [y]
    for number in range(len(lasts[0][0])):
        states = [replace(one[0][number], shape=(steps, one[0][number].width), time=0) for one in lasts]
        results.append(mover.move(states, lambda a: np.stack(a), 1))
    if rows_first:
        results[0] = mover.move([y], lambda a: a[0].transpose(2, 0, 1, 3), 0)
        results[1:] = [mover.move([s], lambda a: a[0].swapaxes(0, 1), 0) for s in results[1:]]
    return results


def _time(visitor: Visitor, node: Node, x: Any) -> int | None:
    return x.time if isinstance(x, Operand | LazyView) and not isinstance(x.time, str) else None


def _swapped(time: int | None) -> int | None:
    return {0: 1, 1: 0}.get(time, time) if time is not None else None


def _turned(visitor: Visitor, start: Any) -> Any:
    """A state whose rows come first, with directions first."""
    if isinstance(start, np.ndarray):
        return start.swapaxes(0, 1)
    return visitor.mover.move([start], lambda a: a[0].swapaxes(0, 1), None)
