"""Resizing along the axes of a step, and of time to a whole multiple of the steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...emit.address import LazyView
from ...emit.builder import Operand
from ...emit.pointwise import broadcast
from ...runtime.program import Binary
from ..folded import Node
from ..visitor import Visitor, handles


@handles("Resize", "Upsample", lazy=True)
def _resize(visitor: Visitor, node: Node, x: Any, *sizes: Any) -> Operand | LazyView | None:
    """By the nearest entry a movement, linear a weighted sum of two entries, one axis after the other."""
    shape, wanted, before = x.shape, visitor.type(node.outputs[0]).shape, node.op == "Upsample"
    mode, of_place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if before or visitor.file.opsets.get("", 13) < 11:
        of_place = "asymmetric"
    plain = not (node.get("antialias", 0) or node.get("exclude_outside", 0))
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if not plain or policy != "stretch" or mode not in ("nearest", "linear") or of_place not in _PLACES:
        return None
    if any(v is not None and not isinstance(v, np.ndarray) for v in sizes):
        return None
    factors = _factors(node, shape, wanted, [None if v is None else v.ravel() for v in sizes], before)
    near = "floor" if before or visitor.file.opsets.get("", 13) < 11 else node.get("nearest_mode", "round_prefer_floor")
    for axis, (n, m, factor) in enumerate(zip(shape, wanted, factors, strict=True)):
        if n == m and factor == 1:
            continue
        places = _PLACES[of_place](np.arange(m), n, m, factor)
        if mode == "nearest":
            x = _picked(visitor, node, x, axis, _nearest(places, near).clip(0, n - 1).astype(np.int64))
        elif axis == visitor.grown(node.inputs[0]):
            return None
        else:
            x = _between(visitor, visitor.materialize(x), axis, places.clip(0, n - 1))
    return x


# Where an entry of the result lies in the input: of its place, the sizes of both, and the factor between them.
_PLACES = {
    "asymmetric": lambda i, n, m, factor: i / factor,
    "half_pixel": lambda i, n, m, factor: (i + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda i, n, m, factor: (i + 0.5) / factor - 0.5 if m > 1 else np.zeros(m),
    "align_corners": lambda i, n, m, factor: i * (n - 1) / (m - 1) if m > 1 else np.zeros(m),
}
_ROUNDED = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _nearest(places: np.ndarray, mode: str) -> np.ndarray:
    whole = np.round(places)  # what is whole but for rounding stays so
    return _ROUNDED[mode](np.where(np.abs(places - whole) < 1e-5, whole, places))


def _factors(node: Node, shape: Any, wanted: Any, given: list, before: bool) -> list[float]:
    """By how much each axis grows: as the file says it, or by its sizes."""
    axes = [int(a) % len(shape) for a in node.get("axes", [])] or list(range(len(shape)))
    scales = given[0] if before and given else given[1] if len(given) > 1 else None
    if before and scales is None:
        scales = np.asarray(node.get("scales", [0.0]))
    found = [m / n for n, m in zip(shape, wanted, strict=True)]
    if scales is not None and len(scales) == len(axes):
        for axis, factor in zip(axes, scales, strict=True):
            found[axis] = float(factor)
    return found


def _picked(visitor: Visitor, node: Node, x: Any, axis: int, picks: np.ndarray) -> LazyView:
    """Entries at `picks` along an axis; of time each as often as the others, one after the other."""
    time, name = visitor.grown(node.inputs[0]), node.outputs[0]
    rate = visitor.rate(name) if axis == time else visitor.rate(node.inputs[0])
    return visitor.mover.move([x], lambda arrays: np.take(arrays[0], picks, axis), time, rate=rate)


def _between(visitor: Visitor, x: Operand, axis: int, places: np.ndarray) -> Operand:
    """The entries at `places` along an axis of a step, linear between those that there are."""
    first, mover = np.floor(places).astype(np.int64), visitor.mover
    second, part = np.minimum(first + 1, x.shape[axis] - 1), places - first
    shape = tuple(len(places) if d == axis else n for d, n in enumerate(x.shape))
    wide = [-1 if d == axis else 1 for d in range(len(shape))]
    parts = [
        broadcast(
            mover,
            Binary.MUL,
            mover.rearrange(x, lambda t, i=index: np.take(t, i, axis), x.time),
            weight.reshape(wide),
            shape,
            x.time,
        )
        for index, weight in ((first, 1 - part), (second, part))
        if weight.any()
    ]
    return parts[0] if len(parts) == 1 else visitor.builder.binary(Binary.ADD, parts[0], parts[1])
