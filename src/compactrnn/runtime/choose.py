"""Which matrices to store in int4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from .engine import Engine
from .file import write
from .program import GATES, Op, Program
from .rounding import quantize_groups
from .tidy import reads, writes

# What a core of a server and a laptop alike has for itself, and shares with its cluster: 1 MiB and 32 MiB, less an
# eighth for inputs, states and scales.
CACHES = (7 << 17, 28 << 20)
SMALLEST = 1 << 15  # weights: smaller matrices cost little either way
MOST_ERROR = 0.1  # of a matrix in int4, at the outputs
_SAVED = 0.48  # by int4, of the bytes of an int8 matrix: half, less the scales of the groups


def choose(program: Program, calibration: Sequence = (), caches: Sequence[int] = CACHES) -> set[int]:
    """The tensors of a float32 program to store in int4, so that the others can be int8.

    Int8 is the base. A step touches all matrices; if in int8 they do not fit a cache but would with the largest of them
    in int4, these are, as few as possible, for the smallest such cache. Matrices that fit no cache even so are in int4,
    all but the small: each step reads them from memory. In int8 stay matrices of less than 32768 weights, those that
    lead to nothing but outputs (classifiers, whose errors nothing evens out), and, with `calibration`, those whose
    int4 alone changes the outputs by more than a tenth (root mean square, relative).
    """
    matrices = {i for op in program.ops if (i := _matrix(op)) is not None}
    sizes = {i: program.tensors[i].values.size for i in matrices}
    total = sum(sizes.values())
    free = sorted((i for i in matrices - _heads(program) if sizes[i] >= SMALLEST), key=lambda i: -sizes[i])
    errors = _Errors(program, calibration)
    for cache in caches:
        if total <= cache:
            return set()
        if total - sum(_SAVED * sizes[i] for i in free) <= cache:
            chosen, left = set(), float(total)
            for i in free:
                if left > cache and errors.of(i) <= MOST_ERROR:
                    chosen.add(i)
                    left -= _SAVED * sizes[i]
            if left <= cache:
                return chosen
    return {i for i in free if errors.of(i) <= MOST_ERROR}


def _matrix(op: Op) -> int | None:
    return op.tensor if op.code in GATES else None


def _heads(program: Program) -> set[int]:
    """The matrices that neither a state nor another matrix depends on."""
    feeds = {i for i, b in enumerate(program.buffers) if b.kind == "state"}
    heads, others = set(), set()
    for op in reversed(program.ops):
        matrix, used = _matrix(op), any(ref.buffer in feeds for ref, _ in writes(op))
        if matrix is not None:
            (others if used else heads).add(matrix)
        if used or matrix is not None:
            feeds.update(ref.buffer for ref, _ in reads(op))
    return heads - others


class _Errors:
    """How much a program's outputs change with one matrix in int4."""

    def __init__(self, program: Program, calibration: Sequence):
        self.program, self.calibration = program, calibration
        self.known: dict[int, float] = {}

    @cached_property
    def exact(self) -> list[np.ndarray]:
        """The outputs of the program as it is."""
        return self._run(self.program)

    def of(self, tensor: int) -> float:
        """The root mean square of the change, relative to that of the outputs; 0 without calibration."""
        if tensor not in self.known:
            self.known[tensor] = self._measure(tensor) if self.calibration else 0.0
        return self.known[tensor]

    def _measure(self, tensor: int) -> float:
        stored = self.program.tensors[tensor]
        tensors = list(self.program.tensors)
        tensors[tensor] = quantize_groups(stored.values, stored.block)
        got = self._run(replace(self.program, tensors=tensors))
        power = sum(float(np.square(x, dtype=np.float64).sum()) for x in self.exact)
        change = sum(float(np.square(x - y, dtype=np.float64).sum()) for x, y in zip(self.exact, got, strict=True))
        return (change / max(power, np.finfo(np.float64).tiny)) ** 0.5

    def _run(self, program: Program) -> list[np.ndarray]:
        engine, outputs = Engine(write(program)), []
        for xs in self.calibration:
            y = engine.run(xs)
            outputs += y if isinstance(y, tuple) else [y]
        return outputs
