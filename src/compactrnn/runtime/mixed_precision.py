"""Mixed precision: which matrices to store in int4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cost import NUMBER_BYTES
from .dead_code import reads, writes
from .measure import Measure
from .program import GATES, Op, Program
from .storage import store

# What a core of a server and a laptop alike has for itself, and shares with its cluster: 1 MiB and 32 MiB, less an
# eighth for inputs, states and scales.
CACHES = (7 << 17, 28 << 20)
SMALLEST = 1 << 15  # weights: smaller matrices cost little either way
MOST_ERROR = 0.1  # of a matrix in int4, at the outputs
_SAVED = 0.48  # by int4, of the bytes of an int8 matrix: half, less the scales of the groups


def choose(
    program: Program, types: Mapping[int, str], measure: Measure | None = None, caches: Sequence[int] = CACHES
) -> dict[int, str]:
    """The `types` of a float32 program's tensors with int8 or int4 in the place of each "auto".

    Int8 is the base. A step touches all matrices; if in int8 they do not fit a cache but would with the largest of them
    in int4, these are, as few as possible, for the smallest such cache. Matrices that fit no cache even so are in int4,
    all but the small: each step reads them from memory. In int8 stay matrices of less than 32768 weights, those that
    lead to nothing but outputs (classifiers, whose errors nothing evens out), and, with `measure`, those whose int4
    alone changes the outputs by more than a tenth (root mean square, relative).
    """
    auto = {i for i, kind in types.items() if kind == "auto"}
    small = _small(program, types, auto, measure, caches) if auto else set()
    return {i: kind if i not in auto else "int4" if i in small else "int8" for i, kind in types.items()}


def _small(
    program: Program, types: Mapping[int, str], auto: set[int], measure: Measure | None, caches: Sequence[int]
) -> set[int]:
    matrices = {i for op in program.ops if (i := _matrix(op)) is not None}
    sizes = {i: program.tensors[i].read for i in matrices}
    total = sum(NUMBER_BYTES.get(types.get(i, "float32"), 1) * size for i, size in sizes.items())
    free = sorted((i for i in matrices & auto - _heads(program) if sizes[i] >= SMALLEST), key=lambda i: -sizes[i])
    errors: dict[int, float] = {}

    def bearable(i: int) -> bool:
        if i not in errors:
            errors[i] = measure.difference(store(program, {i: "int4"})).error if measure else 0.0
        return errors[i] <= MOST_ERROR

    for cache in caches:
        if total <= cache:
            return set()
        if total - sum(_SAVED * sizes[i] for i in free) <= cache:
            chosen, left = set(), float(total)
            for i in free:
                if left > cache and bearable(i):
                    chosen.add(i)
                    left -= _SAVED * sizes[i]
            if left <= cache:
                return chosen
    return {i for i in free if bearable(i)}


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
