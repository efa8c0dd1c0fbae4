"""Products with sums of matrices, diagonal matrices and selections of entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.program import Binary, Code, Ref, Tensor
from .builder import Builder, Operand
from .factor import Factor, Structured, stored


@dataclass(frozen=True, eq=False)
class Sum(Structured):
    """`F1 F2 ... + G1 G2 ... + ...`: each of `parts` are the factors of a summand."""

    parts: Sequence[Sequence[Factor]]

    @property
    def shape(self) -> tuple[int, int]:
        first = self.parts[0]
        return first[0].shape[0], first[-1].shape[1]

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        for number, factors in enumerate(self.parts):
            init = build.chain(factors, x, init, f"{name}.part{number}" if name else "")
        assert init is not None
        return init


@dataclass(frozen=True, eq=False)
class Diagonal(Structured):
    """The square matrix with `values` on its diagonal."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), len(self.values)

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        n, dst = len(self.values), build.buffer(len(self.values))
        build.emit(Code.BINARY, dst, n, k=n, a=x.ref, b=_stored_once(build, self.values), fn=int(Binary.MUL), name=name)
        return _plus(build, dst, n, init)


@dataclass(frozen=True, eq=False)
class Selection(Structured):
    """`y[i] = x[index[i]]`, 0 where the index is negative, of a vector of `columns` entries."""

    index: np.ndarray
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.columns

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        n, dst = len(self.index), build.buffer(len(self.index))
        tensor = build.tensor(Tensor(self.index.astype(np.int32)))
        build.emit(Code.GATHER, dst, n, k=self.columns, a=x.ref, tensor=tensor)
        return _plus(build, dst, n, init)


@dataclass(frozen=True, eq=False)
class Blocks(Structured):
    """A block-diagonal matrix of `count` blocks: those of `values`, or the only one there repeated."""

    values: np.ndarray
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.count * self.values.shape[1], self.count * self.values.shape[2]

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        _, n, k = self.values.shape
        dst, scale = build.buffer(self.count * n), 1 / 127 if x.bounded else 0.0
        for number in range(self.count):
            block = self.values[number if len(self.values) > 1 else 0]
            to, a = Ref(dst.buffer, number * n), Ref(x.ref.buffer, x.ref.offset + number * k)
            b = init and Ref(init.buffer, init.offset + number * n)
            where = f"{name}.block{number}" if name and len(self.values) > 1 else name
            build.emit(Code.AFFINE, to, n, k=k, a=a, b=b, tensor=build.tensor(stored(block)), p0=scale, name=where)
        return dst


def _stored_once(build: Builder, values: np.ndarray) -> Ref:
    """A constant of these values, that of another diagonal matrix where it is the same."""
    values = values.astype(np.float32)
    for number, buffer in enumerate(build.program.buffers):
        if buffer.kind == "constant" and np.array_equal(buffer.init, values):  # pyright: ignore
            return Ref(number)
    return build.constant(values)


def _plus(build: Builder, product: Ref, n: int, init: Ref | None) -> Ref:
    if init is None:
        return product
    dst = build.buffer(n)
    build.emit(Code.BINARY, dst, n, k=n, a=product, b=init, fn=int(Binary.ADD))
    return dst
