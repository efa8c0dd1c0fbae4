"""Numbers that follow from how many steps a sequence has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..runtime.program import Unary
from .builder import Operand
from .movement import Mover
from .pointwise import scale


def counted(mover: Mover, values: Mapping[int, float]) -> Operand | None:
    """A number that is a T + b of the number of steps T, or the reciprocal or the root of such; None for others.

    `values` are what it is at three or more T, the first of them one apart.
    """
    steps = list(values)
    for inverse, power in ((False, 1), (True, 1), (False, 2), (True, 2)):
        with np.errstate(all="ignore"):
            line = [np.float64(v) ** (-power if inverse else power) for v in values.values()]
        if not np.isfinite(line).all():
            continue
        slope = round(line[1] - line[0], 3)
        start = round(line[0] - slope * steps[0], 3)
        if not np.allclose(line, [slope * n + start for n in steps], 1e-5, 0):
            continue
        y = scale(mover.builder, mover.count(), slope, start)
        y = mover.builder.unary(Unary.SQRT, y) if power == 2 else y
        return mover.builder.unary(Unary.RECIPROCAL, y) if inverse else y
    return None
