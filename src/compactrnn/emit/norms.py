"""Layer norms that an exporter wrote out in single steps, as the one operation that they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..runtime.dead_code import overlap, writes
from ..runtime.program import Binary, Code, Op, Program, Reduce, Ref, Unary


def with_layer_norms(program: Program) -> Program:
    """The program with (x - mean) / sqrt(mean((x - mean)^2) + epsilon) in one operation where several compute it.

    The means are those of each k consecutive numbers of x.
    """
    segments = []
    for segment in program.segments:
        steps = _Steps(program, segment.ops)
        segments.append(replace(segment, ops=tuple(steps.norm(op) or op for op in segment.ops)))
    return replace(program, segments=segments)


class _Steps:
    """The operations of a segment, by the values that they make: scratch that is written once."""

    def __init__(self, program: Program, ops: tuple[Op, ...]):
        self.program = program
        self.ops = ops
        self.written: dict[int, list[tuple[Ref, int, Op]]] = {}
        for op in ops:
            for ref, width in writes(op):
                self.written.setdefault(ref.buffer, []).append((ref, width, op))

    def norm(self, op: Op) -> Op | None:
        """The norm that ends with `op`, if one does."""
        if op.code != Code.BINARY or op.fn not in (Binary.DIV, Binary.MUL) or op.a is None or op.b is None:
            return None
        root = self._narrow(op.b, op.k or op.n)
        if op.fn == Binary.MUL:
            root = None if root is None else self._input(root, Unary.RECIPROCAL)
        squares = None if root is None else self._input(root, Unary.SQRT)
        centered = self._centered(op.a, op.n)
        if squares is None or centered is None:
            return None
        (variance, groups), epsilon = squares, 0.0
        shifted = self._made(variance, groups, Code.UNARY, Unary.SCALE_SHIFT)
        if shifted is not None and shifted.a is not None and shifted.p0 == 1:
            variance, epsilon = shifted.a, shifted.p1
        x, (mean, means) = centered
        square = self._averaged(variance, groups, op.n)
        product = None if square is None else self._made(square, op.n, Code.BINARY, Binary.MUL)
        if product is None or product.a is None or product.a != product.b or product.k not in (0, op.n):
            return None
        if self._centered(product.a, op.n) != centered or means != groups or self._averaged(mean, groups, op.n) != x:
            return None
        if epsilon < 0 or not self._is_kept(x, op.n, op):
            return None
        return Op(Code.LAYER_NORM, op.dst, op.n, op.n // groups, a=x, p0=epsilon, name=op.name)

    def _centered(self, ref: Ref, width: int) -> tuple[Ref, tuple[Ref, int]] | None:
        """The x and the means, as `_narrow` gives them, whose difference is at `ref`."""
        op = self._made(ref, width, Code.BINARY, Binary.SUB)
        if op is None or op.a is None or op.b is None:
            return None
        means = self._narrow(op.b, op.k or op.n)
        return None if means is None else (op.a, means)

    def _made(self, ref: Ref, width: int, code: Code, fn: int = 0) -> Op | None:
        """The operation that makes the `width` numbers at `ref`, if it is of this kind and alone writes there."""
        found = [w for w in self.written.get(ref.buffer, ()) if overlap(ref, width, w[0], w[1])]
        if len(found) != 1 or found[0][:2] != (ref, width) or self.program.buffers[ref.buffer].kind != "scratch":
            return None
        op = found[0][2]
        return op if op.code == code and op.fn == fn and op.dst == ref else None

    def _input(self, place: tuple[Ref, int], fn: Unary) -> tuple[Ref, int] | None:
        """Of what the function `fn` is that is at `place`."""
        op = self._made(*place, Code.UNARY, fn)
        return None if op is None or op.a is None else (op.a, op.n)

    def _narrow(self, ref: Ref, width: int) -> tuple[Ref, int] | None:
        """The numbers that are repeated to `width`, and how many they are."""
        op = self._made(ref, width, Code.GATHER)
        if op is None or op.a is None or op.tensor is None:
            return (ref, width) if width == 1 else None
        index, k = self.program.tensors[op.tensor].values, op.k
        repeated = width % k == 0 and np.array_equal(index, np.repeat(np.arange(k), width // k))
        return (op.a, k) if repeated else None

    def _averaged(self, ref: Ref, groups: int, n: int) -> Ref | None:
        """Of which `n` numbers those at `ref` are the means of `groups` groups."""
        scaled = self._made(ref, groups, Code.UNARY, Unary.SCALE_SHIFT)
        if scaled is None or scaled.a is None or scaled.p1 or abs(scaled.p0 * n / groups - 1) > 1e-6:
            return None
        total = self._made(scaled.a, groups, Code.REDUCE, Reduce.SUM)
        return total.a if total is not None and total.k * groups == n else None

    def _is_kept(self, ref: Ref, width: int, until: Op) -> bool:
        """Whether the numbers at `ref` are the same from where they are read first to the operation `until`."""
        read = next(i for i, op in enumerate(self.ops) if op.code == Code.REDUCE and op.a == ref)
        between = self.ops[read : next(i for i, op in enumerate(self.ops) if op is until)]
        return not any(overlap(ref, width, *place) for op in between for place in writes(op))
