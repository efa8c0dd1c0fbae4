"""Values that change only where they have moved by more than a threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..runtime.program import Binary, Code, Unary
from .builder import Builder, Operand


def held(build: Builder, x: Operand, reference: Operand, threshold: float) -> Operand:
    """`reference` where |x - reference| <= threshold, else x: where one of the two is a NaN, too."""
    limit = build.constant(np.array([threshold], np.float32))
    size = build.unary(Unary.ABS, build.binary(Binary.SUB, x, reference))
    near = build.binary(Binary.LESS_EQUAL, size, limit, period=1)
    value = build.compute(Code.SELECT, [x, reference, near], x, a=reference.ref, b=x.ref, c=near.ref)
    return replace(value, bounded=x.bounded and reference.bounded)
