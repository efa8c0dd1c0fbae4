"""Products with Kronecker products."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..runtime.program import Matmul, Ref
from .builder import Builder, Operand
from .factor import Structured


@dataclass(frozen=True, eq=False)
class Kronecker(Structured):
    """`sum_r A_r (x) B_r` for each gate, the gates below each other.

    `left` has the A, (gates, rank, tall, wide), `right` the B, (gates, rank, out_block, in_block). A product with x is
    `sum_r A_r X B_r^T` with x as the matrix X, (wide, in_block): the A of all gates and ranks, as one matrix, times X,
    then for each gate the rows of that times its B side by side.
    """

    left: np.ndarray
    right: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        gates, _, tall, wide = self.left.shape
        return gates * tall * self.right.shape[2], wide * self.right.shape[3]

    def multiply(self, build: Builder, x: Operand, init: Ref | None, name: str) -> Ref:
        gates, rank, tall, wide = self.left.shape
        _, _, out_block, in_block = self.right.shape
        rows = np.swapaxes(self.left, 1, 2).reshape(-1, wide)  # for each gate and row of A: of all ranks
        middle = build.matmul(Matmul.LEFT, rows, x, None, name=f"{name}.left" if name else "")
        dst, n, k = build.buffer(gates * tall * out_block), tall * out_block, tall * rank * in_block
        for gate, blocks in enumerate(self.right):
            part = replace(x, ref=Ref(middle.buffer, gate * k), shape=(k,), time=None, bounded=False)
            start = None if init is None else Ref(init.buffer, init.offset + gate * n)
            beside = np.swapaxes(blocks, 0, 1).reshape(out_block, -1)
            to = Ref(dst.buffer, gate * n)
            build.matmul(Matmul.RIGHT, beside, part, start, to, f"{name}.right" if name else "")
        return dst
