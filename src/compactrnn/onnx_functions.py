"""Functions of torch that compute nodes of a folded ONNX graph which have no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Function = Callable[..., Any]

_LARGE = 1 << 31  # an index beyond any axis
_REDUCED: dict[str, Callable[..., Tensor]] = {
    "ReduceMax": torch.amax, "ReduceMean": torch.mean, "ReduceMin": torch.amin, "ReduceSum": torch.sum,
}  # fmt: skip
_OF_ONE: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "Elu": (lambda x, alpha: nn.functional.elu(x, alpha), {"alpha": 1.0}),
    "Gelu": (lambda x, approximate: nn.functional.gelu(x, approximate=approximate), {"approximate": "none"}),
    "HardSigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": (nn.functional.hardswish, {}),
    "LeakyRelu": (lambda x, alpha: nn.functional.leaky_relu(x, alpha), {"alpha": 0.01}),
    "Softsign": (nn.functional.softsign, {}),
}
NAMES = sorted([*_REDUCED, *_OF_ONE, "AveragePool", "Concat", "Flatten", "MaxPool", "Pad", "Reshape", "Slice", "Split"])


class Node:
    """What a function is made of: operator and attributes, constants of the inputs, and shapes at several sizes.

    `shapes` and `results` are those of the first input and output in each graph, which are folded for other numbers of
    steps, and for another batch where the file leaves that open.
    """

    def __init__(self, node: Any, fixed: Sequence[np.ndarray | None], shapes: list[Shape], results: list[Shape]):
        self.op, self.get, self.outputs = node.op, node.get, node.outputs
        self.fixed, self.shapes, self.results = [*fixed, *[None] * 5], shapes, results

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute, in old operator sets, or an input."""
        value = self.fixed[place]
        return [int(n) for n in value.ravel()] if value is not None else self.get(name, []) or None


def function_of(node: Node) -> Function | None:
    """A function of the inputs that depend on data; None for what is not taken."""
    op = node.op
    if op in _OF_ONE:
        function, defaults = _OF_ONE[op]
        options = {name: node.get(name, value) for name, value in defaults.items()}
        return lambda x: function(x, **options)
    if op in _REDUCED:
        return _reduction(node)
    if op in ("Reshape", "Flatten"):
        return _reshape(node)
    if op == "Concat":
        axis = node.get("axis", 0)
        return lambda *values: torch.cat(values, axis)
    made = {"Slice": _slice, "Split": _split, "Pad": _pad, "MaxPool": _pool, "AveragePool": _pool}
    return made[op](node) if op in made else None


def _reduction(node: Node) -> Function | None:
    axes, keep, reduce = node.numbers("axes", 1), bool(node.get("keepdims", 1)), _REDUCED[node.op]
    if not axes and node.get("noop_with_empty_axes", 0):
        return None
    chosen = axes or list(range(node.rank))
    return lambda x: reduce(x, chosen, keepdim=keep)


def _reshape(node: Node) -> Function | None:
    """Sizes that change with those of the input are said by these."""
    given = node.fixed[0 if node.op == "Flatten" else 1]
    wanted = node.results[0] if given is None else tuple(int(n) for n in given.ravel())
    entries: list[int | tuple[int, int, int]] = []
    for place, size in enumerate(wanted):
        sizes = [result[place] for result in node.results]
        if size == 0 and not node.get("allowzero", 0):
            entries.append((place, 1, 1))
        elif size == -1 or len(set(sizes)) == 1:
            entries.append(size)
        else:
            factors = [{Fraction(n, shape[d]) for n, shape in zip(sizes, node.shapes)} for d in range(node.rank)]  # noqa: B905
            found = next((d for d, f in enumerate(factors) if len(f) == 1), None)
            factor = None if found is None else factors[found].pop()
            entries.append(-1 if found is None or factor is None else (found, factor.numerator, factor.denominator))
    if entries.count(-1) > 1:  # what the file leaves open may be known
        known = [sizes[0] if len({*sizes}) == 1 else e for e, sizes in zip(entries, zip(*node.results), strict=True)]  # noqa: B905
        entries = known
    if entries.count(-1) > 1:
        return None

    def run(x: Tensor) -> Tensor:
        return x.reshape([e if isinstance(e, int) else x.shape[e[0]] * e[1] // e[2] for e in entries])

    return run


def _slice(node: Node) -> Function | None:
    starts, ends = node.numbers("starts", 1), node.numbers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = [1] * len(starts) if node.fixed[4] is None else [int(n) for n in node.fixed[4].ravel()]
    places, turned = [slice(None)] * node.rank, []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step > 0:
            places[axis] = slice(start, None if end > _LARGE else end, step)
        elif step == -1 and start in (-1, *(n for n in (start,) if n > _LARGE)) and end < -_LARGE:
            turned.append(axis)
        else:
            return None
    return lambda x: x[tuple(places)].flip(turned) if turned else x[tuple(places)]


def _split(node: Node) -> Function | None:
    axis, sizes = node.get("axis", 0), node.numbers("split", 1)
    whole = {shape[axis] for shape in node.shapes}
    if len(whole) > 1:
        return None
    parts = sizes or [-(-whole.pop() // len(node.outputs))]
    return lambda x: x.split(parts if len(parts) > 1 else parts[0], axis)


def _pad(node: Node) -> Function | None:
    pads, mode, value = node.numbers("pads", 1), node.get("mode", "constant"), node.fixed[2]
    if pads is None or node.fixed[3] is not None or mode != "constant":
        return None
    number = node.get("value", 0.0) if value is None else float(value.reshape(-1)[0])
    flat = [n for pair in reversed(list(zip(pads[: node.rank], pads[node.rank :], strict=True))) for n in pair]
    return lambda x: nn.functional.pad(x, flat, value=number)


def _pool(node: Node) -> Function | None:
    """With as many entries padded before as after."""
    kernel, rank = node.get("kernel_shape", [1]), node.rank - 2
    strides, pads = node.get("strides", []) or [1] * rank, node.get("pads", []) or [0] * 2 * rank
    whole, dilations = bool(node.get("ceil_mode", 0)), node.get("dilations", []) or [1] * rank
    plain = node.get("auto_pad", "NOTSET") == "NOTSET" and not any(node.outputs[1:]) and 0 < rank <= 3
    if not plain or pads[:rank] != pads[rank:] or (whole and node.op == "AveragePool"):
        return None
    if node.op == "MaxPool":
        pool = [nn.functional.max_pool1d, nn.functional.max_pool2d, nn.functional.max_pool3d][rank - 1]
        return lambda x: pool(x, kernel, strides, pads[:rank], dilations, ceil_mode=whole)
    pool = [nn.functional.avg_pool1d, nn.functional.avg_pool2d, nn.functional.avg_pool3d][rank - 1]
    counted = bool(node.get("count_include_pad", 0))
    if dilations != [1] * rank:
        return None
    return lambda x: pool(x, kernel, strides, pads[:rank], count_include_pad=counted)
