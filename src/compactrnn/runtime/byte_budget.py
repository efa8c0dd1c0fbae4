"""Mixed precision for a file of a given size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .measure import Measure
from .program import GATES, Program
from .storage import store


def within(
    program: Program,
    types: Mapping[int, str],
    most: int,
    size: Callable[[Mapping[int, str]], int],
    measure: Measure | None = None,
) -> dict[int, str]:
    """The `types` of a float32 program's tensors with int8 or int4 in the place of each "auto", in `most` bytes.

    `size` gives the bytes of the file for types. Int8 is the base. Matrices become int4 one after the other until the
    file is small enough, those first that cost the least squared error at the outputs for a saved byte, each measured
    alone; without `measure` those first that save the most. What turns out not to be needed stays int8. Where no types
    are enough, those of the smallest file.
    """
    used = {op.tensor for op in program.ops if op.code in GATES and op.tensor is not None}
    matrices = sorted(i for i in used if types.get(i) == "auto")
    base = {i: "int8" if kind == "auto" else kind for i, kind in types.items()}
    whole = size(base)
    if whole <= most:
        return base
    saved = {i: whole - size({**base, i: "int4"}) for i in matrices}
    saved = {i: bytes for i, bytes in saved.items() if bytes > 0}
    smallest = {**base, **dict.fromkeys(saved, "int4")}
    if size(smallest) > most:
        return smallest
    error = {i: measure.difference(store(program, {i: "int4"})).error if measure else 1.0 for i in saved}
    chosen: list[int] = []
    for i in sorted(saved, key=lambda i: error[i] ** 2 / saved[i]):
        chosen.append(i)
        if size({**base, **dict.fromkeys(chosen, "int4")}) <= most:
            break
    for i in sorted(chosen, key=lambda i: -error[i]):
        fewer = [j for j in chosen if j != i]
        if size({**base, **dict.fromkeys(fewer, "int4")}) <= most:
            chosen = fewer
    return {**base, **dict.fromkeys(chosen, "int4")}
