"""Materialization of moved entries: views, copies, delay lines and reversed sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .._errors import UnsupportedModelError
from ..runtime.program import Code, Ref, Unary
from .address import LazyView, Source, addresses, padded, why_unclear
from .builder import CONSTANT, HELD, LAST, STEP, Builder, Operand
from .copies import copied, is_run
from .ends import continued, with_ends
from .plan import SHIFT, MixedError, Operands, Plan, Relation, read_plan, same
from .positions import Table, by_position

Movement = Callable[[list[np.ndarray]], np.ndarray]


class Mover:
    """Moves entries lazily and materializes the result.

    `steps`: of the sequence that is traced, where a step may be several frames; a time axis is then a multiple of it.
    Values may have fewer; what reads final states or writes outputs asks what is `missing`.
    """

    def __init__(self, builder: Builder, steps: int | None = None):
        self.builder = builder
        self.steps = steps
        self._edges: list[np.ndarray] = []
        self._grown: list[np.ndarray] = []
        self._unknown: list[np.ndarray] = []
        self._flipped: dict[tuple, Operand] = {}
        self._clock: Operand | None = None
        self.rates: dict[int, int] = {}  # by how many entries a time axis has: how many of them are a step's
        self.tables: dict[int, Callable[[], Table | None]] = {}
        self._rows: dict[str, Operand] = {}

    def edge(self, value: float) -> np.ndarray:
        """A fill value before the first or after the last step."""
        self._edges.append(float32(value))
        return self._edges[-1]

    def grows(self, constant: np.ndarray, table: Callable[[], Table | None] = lambda: None) -> None:
        """Mark a constant as having the sequence's length; `table` gives it for the longest sequence."""
        self._grown.append(constant)
        self.tables[id(constant)] = table

    def rate(self, shape: Sequence[int], time: int | str | None) -> int:
        """How many entries of the time axis of `shape` a step has."""
        if not isinstance(time, int) or self.steps is None:
            return 1
        return self.rates.get(shape[time]) or max(shape[time] // self.steps, 1)

    def _rate_like(self, operands: Sequence[Source | LazyView], shape: Sequence[int], time: int | str | None) -> int:
        """That of an operand with as many entries of time; else how many there are for each step."""
        for x in operands:
            if isinstance(time, int) and isinstance(x, Operand | LazyView) and isinstance(x.time, int):
                if x.shape[x.time] == shape[time]:
                    return x.rate
        return self.rate(shape, time)

    def frames(self, x: Operand | LazyView) -> int:
        """Frames of the sequence that `x`, which may be padded, is made of; 0 where it is made of none."""
        if x.time is not None and self.steps is not None:
            return self.steps * x.rate
        operands = x.operands if isinstance(x, LazyView) else [x]
        timed = [o for o in operands if isinstance(o, Operand) and o.time is not None]
        return max((o.shape[o.time] for o in timed if o.time is not None), default=0)

    def move(
        self,
        operands: Sequence[Source | LazyView],
        run: Movement,
        time: int | str | None,
        where: str = "",
        rate: int | None = None,
    ) -> LazyView:
        """The result of `run(operands)`, an operation that only moves entries; `time` is the result's time axis.

        `run` gets the operands as arrays of 64-bit whole numbers, and must do the same whatever they are. `where` is
        what messages name; else what is being lowered. `rate` is how many entries of time a step has where these are
        not `rate` for each, but, as of what is padded, more or less at the ends.
        """
        flat: list[Source] = []
        moved = run([addresses(o, flat) for o in operands])
        rate = self._rate_like(operands, moved.shape, time) if rate is None else rate
        view = LazyView(flat, moved, time, where or self.builder.where, rate=rate)
        held = [o for o in flat if isinstance(o, Operand)]
        if isinstance(time, int) and held and all(o.kind == HELD and o.time is None for o in held):
            return LazyView([row := self.materialize(view)], addresses(row, []), time, view.where, rate=rate)
        return view

    def pad(self, x: Source | LazyView, pads: Sequence[tuple[int, int]], value: float, time: int | None) -> LazyView:
        """`x` padded with `value` along each axis; negative amounts crop.

        `time` is the time axis of `x`, which the result has too.
        """
        others = [(0, 0) if d == time else p for d, p in enumerate(pads)]
        over_time = [p if d == time else (0, 0) for d, p in enumerate(pads)]

        def run(arrays: list[np.ndarray]) -> np.ndarray:
            moved, inside, outside = arrays
            return padded(padded(moved, others, int(inside)), over_time, int(outside))

        rate = x.rate if isinstance(x, Operand | LazyView) else None
        return self.move([x, float32(value), self.edge(value)], run, time, rate=rate)

    def beyond(self, x: LazyView, steps: int) -> LazyView:
        """`x` and so many steps after the last, which are not known: what reads the result must cut them off."""
        assert isinstance(x.time, int)
        sizes, time = [steps if d == x.time else n for d, n in enumerate(x.shape)], x.time
        unknown = self.unknown(tuple(sizes))
        return self.move([x, unknown], lambda arrays: np.concatenate(arrays, time), time, rate=x.rate)

    def whole(self, x: Operand, value: float) -> Operand:
        """`x`, of whose last step some frames are missing, with `value` in place of these."""
        missing = (self.steps or 0) * x.rate - x.shape[x.time or 0]
        return self.materialize(
            self.pad(x, [(0, missing if d == x.time else 0) for d in range(len(x.shape))], value, x.time)
        )

    def rearrange(
        self, x: Source, run: Callable[[np.ndarray], np.ndarray], time: int | None, rate: int | None = None
    ) -> Operand:
        """`x` moved by `run`, whose result has time axis `time`."""
        return self.materialize(self.move([x], lambda arrays: run(arrays[0]), time, rate=rate))

    def spread_like(self, x: Source | float, like: Operand) -> Operand:
        """`x`, a value or constant, broadcast to the shape of another value, with as many entries a step."""
        return self.spread(x, like.shape, like.time, like.rate)

    def spread(self, x: Source | float, shape: tuple[int, ...], time: int | None, rate: int | None = None) -> Operand:
        """`x`, a value or constant, broadcast to `shape`, whose time axis is `time`, with `rate` entries a step."""
        if isinstance(x, Operand) and x.shape == shape:
            return x
        source = x if isinstance(x, Operand | np.ndarray) else float32(x)
        return self.rearrange(source, lambda t: np.broadcast_to(t, shape), time, rate)

    def piece(self, x: Operand, axis: int, place: int) -> Operand:
        """Entry `place` along a feature axis, kept with length one."""
        return self.rearrange(x, lambda t: np.take(t, [place], axis), x.time)

    def join(self, parts: Sequence[Source], axis: int, where: str = "") -> Operand:
        """Concatenation along a feature axis."""
        time = next((p.time for p in parts if isinstance(p, Operand) and p.time is not None), None)
        return self.materialize(self.move(parts, lambda arrays: np.concatenate(arrays, axis), time, where))

    def materialize(self, moved: LazyView, passing: bool = False) -> Operand:
        """Materialize `moved`: a view if its entries are contiguous, else a copy.

        `passing`: it is read by the next operation alone, so it may be a view of a delay line, which has changed by the
        next step.
        """
        if moved.value is None:
            moved.value = self._materialized(moved, passing)
        return moved.value

    def _materialized(self, moved: LazyView, passing: bool) -> Operand:
        time, shape, where, build = moved.time, moved.shape, moved.where, self.builder
        if isinstance(time, str):
            raise UnsupportedModelError(f"{where}: {why_unclear(time)}")
        rate = moved.rate
        if self.steps is not None and time is not None and self.missing(moved):
            whole = continued(self, moved, self.steps)
            return whole if whole is None else replace(self._materialized(whole, passing), shape=shape)
        operands = Operands(moved.operands, {id(t) for t in self._edges}, {id(t) for t in self._grown}, self.steps)
        unknown = [n for n, o in enumerate(moved.operands) if any(o is u for u in self._unknown)]
        if unknown and bool(np.isin(moved.address // SHIFT - 1, unknown).any()):
            raise UnsupportedModelError(
                f"{where}: reads what padding behind the last step adds to it, or the cell of a layer over fewer steps;"
                " an engine gives one result for each step: cut it off, or pad before the first step alone"
            )
        if self.steps is not None and time is not None and shape[time] != rate * self.steps and rate > 1:
            raise UnsupportedModelError(f"{where}: {_ENDS}")
        if (counted := by_position(self, moved)) is not None:
            return counted
        try:
            plan = read_plan(moved.address, time, operands, where, rate)
        except MixedError as error:
            if (value := with_ends(self, moved, error.wrong)) is None:
                raise
            return value
        if bool((plan.relation == Relation.NUMBER).all()):
            return replace(self.constant(plan.number), shape=shape, time=time, rate=rate)
        parts = self._parts(plan, moved.operands, where)
        delayed = [(mask, base, plan.where(mask)) for mask, base in self._delayed(plan, moved.operands, where)]
        entries = np.zeros((len(plan.operand), 2), np.int64)
        sources: list[Operand] = []
        for mask, source, positions in parts:
            entries[mask] = np.stack([np.full_like(positions, len(sources)), positions], 1)
            sources.append(source)
        lines = [base for _, base, _ in delayed]
        if len(sources) == 1 and not lines and is_run(entries[:, 1]):
            return _view(sources[0], int(entries[0, 1]), shape, time, rate)
        kind = build.place([*sources, *lines], where)
        for mask, base, part in delayed:
            steps = part.steps
            line = build.delay_line(base, int(steps.max()), float(part.number[steps > 0][0]))
            positions = steps * base.width + self._positions(part)
            entries[mask] = np.stack([np.full_like(positions, len(sources)), positions], 1)
            sources.append(line)
        if passing and len(sources) == 1 and is_run(entries[:, 1]):
            return _view(sources[0], int(entries[0, 1]), shape, time, rate)
        bounded = all(s.bounded for s in sources)
        return Operand(copied(build, entries, sources), shape, time, kind, build.segment, bounded, rate)

    def _parts(self, plan: Plan, operands: list, where: str) -> list[tuple[np.ndarray, Operand, np.ndarray]]:
        """What needs no delay line of this segment: (entries, source, positions in the source)."""
        parts: list[tuple[np.ndarray, Operand, np.ndarray]] = []
        ahead = plan.steps < 0
        for number in np.unique(plan.number[ahead]).tolist():
            mask = ahead & same(plan.number, number)
            parts.append((mask, self._ahead(plan.where(mask), operands, number, where), np.arange(int(mask.sum()))))
        for kind in (Relation.FLIP, Relation.FIRST, Relation.LAST, Relation.ALWAYS, Relation.STEP):
            of_kind = (plan.relation == kind) & ~self._on_lines(plan) & ~ahead
            for i in np.unique(plan.operand[of_kind]).tolist():
                mask = of_kind & (plan.operand == i)
                parts.append((mask, self._source(operands[i], kind, where), plan.position[mask]))
        mask = plan.relation == Relation.NUMBER
        if bool(mask.any()):
            parts.append((mask, self.constant(plan.number[mask]), np.arange(int(mask.sum()))))
        return parts

    def constant(self, numbers: np.ndarray) -> Operand:
        """A constant in place."""
        small = bool((np.abs(numbers) <= 1).all())
        return Operand(self.builder.constant(float32(numbers)), numbers.shape, None, CONSTANT, 0, small)

    def _source(self, operand: Operand, kind: Relation, where: str) -> Operand:
        """The row that holds the entries of this relation."""
        if kind in (Relation.ALWAYS, Relation.STEP):
            return operand
        if kind != Relation.LAST:
            operand = self.flip(operand, where)
            if kind == Relation.FLIP:
                return operand
        if operand.kind != STEP:
            return replace(operand, shape=operand.step_shape, time=None, rate=1)
        # a copy: should the sequence itself be read again later, its buffer will hold all of its steps
        last = self.builder.unary(Unary.COPY, operand, bounded=operand.bounded)
        return replace(last, shape=operand.step_shape, time=None, kind=LAST, rate=1)

    def missing(self, x: Operand | LazyView) -> int:
        """How many of the last steps a value does not have, such as what a convolution without padding leaves out."""
        if self.steps is None or not isinstance(x.time, int):
            return 0
        return max(self.steps - x.shape[x.time] // x.rate, 0)

    def late(self, x: Operand, start: float) -> Operand:
        """`x` with what steps it has at the last ones, and `start` before them."""
        if not (missing := self.missing(x)) or x.time is None:
            return x
        if x.shape[x.time] % x.rate:
            raise UnsupportedModelError(f"{self.builder.where}: combines steps of which the last is a part of one")
        build = self.builder
        build.every_step([x])
        line = build.delay_line(x, missing, start)
        last = replace(x, ref=Ref(line.ref.buffer, line.ref.offset + missing * x.width), segment=build.segment)
        shape = tuple(n + missing * x.rate if d == x.time else n for d, n in enumerate(x.shape))
        return replace(build.unary(Unary.COPY, replace(last, kind=STEP)), shape=shape)

    def final(self, y: Operand, states: list) -> list:
        """`states` after the last step of a layer's output `y`, which the first of them is where it is as wide.

        Where `y` has fewer steps than the sequence that is its last row, and the others are not known.
        """
        if not self.missing(y):
            return states
        known = [self.move([self.unknown(state.shape)], lambda a: a[0], None) for state in states]
        if states[0].width == y.width:
            known[0] = self.move([y], lambda a: a[0][-1].reshape(states[0].shape), None)
        return known

    def unknown(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is not known, and must not be read."""
        self._unknown.append(np.zeros(shape))
        return self._unknown[-1]

    def clock(self) -> Operand:
        """Which step it is, from one on."""
        build = self.builder
        if self._clock is None:
            build.every_step([])
            count = build.buffer(1, "state", np.zeros(1))
            build.emit(Code.UNARY, count, 1, a=count, fn=int(Unary.SCALE_SHIFT), p0=1.0, p1=1.0)
            now = Operand(count, (1,), None, STEP, build.segment)
            self._clock = build.unary(Unary.COPY, now)
        return self._clock

    def count(self) -> Operand:
        """How many steps the sequence has, as if it ended at this step."""
        last = self.builder.unary(Unary.COPY, self.clock())
        return replace(last, kind=LAST)

    def backwards(self, x: Operand, where: str = "") -> Operand:
        """`x` from the last frame to the first."""
        if x.rate == 1:
            return replace(self.flip(self.late(x, 0.0), where), shape=x.shape)
        time = x.time
        assert time is not None
        return self.materialize(self.move([x], lambda arrays: np.flip(arrays[0], time), time, where))

    def flip(self, value: Operand, where: str = "") -> Operand:
        """The rows of `value` from the last step to the first, also those of steps that it does not have."""
        build, key = self.builder, (value.ref, value.width)
        if value.kind != STEP:
            return value
        if key not in self._flipped:
            if value.segment == build.segment:
                build.close(where or build.where)
            build.every_step([value])
            dst = build.buffer(value.width)
            build.emit(Code.FLIP, dst, value.width, a=value.ref)
            self._flipped[key] = replace(value, ref=dst, segment=build.segment)
        return replace(self._flipped[key], shape=value.shape, time=value.time, rate=value.rate)

    def _on_lines(self, plan: Plan) -> np.ndarray:
        """Entries taken from delay lines: earlier steps, and this step where earlier ones are read too."""
        keys = plan.operand * SHIFT + plan.position
        return (plan.relation == Relation.STEP) & (plan.steps >= 0) & np.isin(keys, keys[plan.steps > 0])

    def _delayed(self, plan: Plan, operands: list, where: str) -> list[tuple[np.ndarray, Operand]]:
        """Entries taken from delay lines, and the delayed row of each line."""
        mask = self._on_lines(plan)
        found = []
        for number in np.unique(plan.number[plan.steps > 0]).tolist():
            late = mask & (plan.steps > 0) & same(plan.number, number)
            keys = plan.operand * SHIFT + plan.position
            part = late | (mask & (plan.steps == 0) & np.isin(keys, keys[late]))
            mask = mask & ~part
            found.append((part, self._row(plan.where(part), operands, where)))
        return found

    def _row(self, plan: Plan, operands: list, where: str) -> Operand:
        """The numbers that the entries of `plan` are or will be in other steps, each once, side by side."""
        build, (operand, position) = self.builder, _distinct(plan)
        numbers = np.unique(operand).tolist()
        sources = [operands[i] for i in numbers]
        whole = len(sources) == 1 and np.array_equal(position, np.arange(sources[0].width))
        if whole and sources[0].kind == STEP:
            return sources[0]
        refs = [(*operands[i].ref, p) for i, p in zip(operand.tolist(), position.tolist(), strict=True)]
        key = repr(refs)
        if key not in self._rows:
            build.every_step(sources, where)
            places = np.array([numbers.index(i) for i in operand.tolist()])
            ref = copied(build, np.stack([places, position], 1), sources)
            bounded = all(s.bounded for s in sources)
            self._rows[key] = Operand(ref, (len(refs),), None, STEP, build.segment, bounded)
        return self._rows[key]

    def _positions(self, plan: Plan) -> np.ndarray:
        """For each entry of `plan`, its place in `_row(plan)`."""
        operand, position = _distinct(plan)
        order = {k: n for n, k in enumerate((operand * SHIFT + position).tolist())}
        return np.array([order[k] for k in (plan.operand * SHIFT + plan.position).tolist()])

    def _ahead(self, plan: Plan, operands: list, number: float, where: str) -> Operand:
        """Entries of later steps, by a delay line over the reversed sequence."""
        build = self.builder
        steps = int(-plan.steps.min())
        ahead = f"{where}, which reads {steps} steps ahead (what is padded before the first step alone does not)"
        row = self.flip(self._row(plan, operands, where), ahead)
        build.every_step([row])
        line = build.delay_line(row, steps, number)
        entries = np.stack([np.zeros_like(plan.steps), self._positions(plan) - plan.steps * row.width], 1)
        row = Operand(copied(build, entries, [line]), (len(entries),), None, STEP, build.segment, line.bounded)
        return self.flip(row, where)


_ENDS = (
    "changes the number of steps: expected, of a sequence of n steps, n times as many results as of one step; padding"
    " before the first step of (kernel - stride) makes up for what a convolution leaves out"
)


def _view(source: Operand, start: int, shape: tuple[int, ...], time: int | None, rate: int) -> Operand:
    return replace(source, ref=Ref(source.ref.buffer, source.ref.offset + start), shape=shape, time=time, rate=rate)


def _distinct(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Operand and position of all entries, each pair once, in the order in which they come first."""
    keys, first = np.unique(plan.operand * SHIFT + plan.position, return_index=True)
    ordered = keys[np.argsort(first)]
    return ordered // SHIFT, ordered % SHIFT


def float32(x: np.ndarray | float) -> np.ndarray:
    """As float32; too large values become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)
