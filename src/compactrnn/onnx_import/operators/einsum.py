"""Einstein sums of two values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...emit.attention import Scores
from ...emit.builder import Operand
from ...emit.products import matmul, time_after
from ..folded import Node
from ..visitor import Visitor, handles


@handles("Einsum")
def _einsum(visitor: Visitor, node: Node, *given: Any) -> Operand | None:
    """Of two values, one of which may be constant: sums over the axes that both have and the result has not.

    The axes that both and the result have, such as groups, are taken one position after the other with a constant.
    """
    found = read_terms(node, given)
    if found is None:
        return None
    names, result = terms, _ = found
    if isinstance(given[0], np.ndarray):
        names, given = names[::-1], given[::-1]
    (a, b), (x, y) = names, given
    if not isinstance(x, Operand):
        return None
    groups = [c for c in a if c in b and c in result]
    summed = [c for c in a if c in b and c not in result]
    left, right = [c for c in a if c not in b], [c for c in b if c not in a]
    size = {c: n for term, value in ((a, x), (b, y)) for c, n in zip(term, value.shape, strict=True)}
    if {*result} != {*groups, *left, *right} or any(size[c] != n for c, n in zip(a, x.shape, strict=True)):
        return None
    mover = visitor.mover
    rows = moved(visitor, x, _order(a, groups, left, summed))
    if isinstance(y, np.ndarray):
        matrices = _together(_order(b, groups, right, summed)(y), len(groups))
        matrices = matrices.reshape(len(matrices), -1, matrices.shape[-1])
        rows = moved(visitor, rows, lambda t: _together(t, len(groups)))
        pieces = [mover.piece(rows, 0, i) for i in range(len(matrices))] if len(matrices) > 1 else [rows]
        name = visitor.weight_name(node, terms.index(b))
        parts = [visitor.linear(node, p, m, None, name) for p, m in zip(pieces, matrices, strict=True)]
        product = mover.join(parts, 0) if len(parts) > 1 else parts[0]
    elif len(left) <= 1 and len(right) <= 1:
        if not left:
            rows = moved(visitor, rows, lambda t: t[..., None, :])
        columns = moved(visitor, y, _order(b, groups, right, summed))
        if not right:
            columns = moved(visitor, columns, lambda t: t[..., None, :])
        product = matmul(mover, rows, moved(visitor, columns, lambda t: t.swapaxes(-1, -2)))
    else:
        return None
    made = [*groups, *left, *right]
    return moved(visitor, product, lambda t: t.reshape(_sizes(size, made)).transpose([made.index(c) for c in result]))


def read_terms(node: Node, given: Sequence[Any]) -> tuple[list[str], str] | None:
    """The axes of the two values and of the result, each a letter; None where they are others."""
    terms, arrow, result = node.get("equation", "").replace(" ", "").partition("->")
    names = terms.split(",")
    if not arrow or len(names) != 2 or len(given) != 2 or not "".join((*names, result)).isalpha():
        return None
    return None if any(len({*term}) < len(term) for term in (*names, result)) else (names, result)


def _sizes(size: Mapping[str, int], axes: Sequence[str]) -> tuple[int, ...]:
    return tuple(size[c] for c in axes)


def _order(term: str, groups: Sequence[str], axes: Sequence[str], summed: Sequence[str]) -> Callable[..., np.ndarray]:
    """Moves the axes of a term to (*groups, *axes, all that is summed)."""

    def move(t: np.ndarray) -> np.ndarray:
        turned = t.transpose([term.index(c) for c in (*groups, *axes, *summed)])
        kept = turned.shape[: len(groups) + len(axes)]
        return turned.reshape(*kept, math.prod(turned.shape[len(kept) :]))

    return move


def _together(t: np.ndarray, axes: int) -> np.ndarray:
    """The first axes as one."""
    return t.reshape(math.prod(t.shape[:axes]), *t.shape[axes:])


def moved(visitor: Visitor, x: Any, move: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A value, or scores, moved by `move`."""
    if isinstance(x, Scores):
        return x.moved(move)
    return visitor.mover.rearrange(x, move, time_after(x, move))
