"""States that are paired by their order, compared with what the recurrent layers make of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._errors import invalid
from ..graph.aten import MOVES
from ..graph.leaf import RECURRENT
from ..graph.trace import Trace, operation, state_entries
from .step_states import Pair


def check_slots(trace: Trace, pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """Refuse pairs in which a state goes into one state of a layer and comes back from another.

    Only of what is a layer's state as it stands is that known.

    Raises:
        ValueError: they are in another order, as in `return y, c, h` for `forward(x, h, c)`.
    """
    slots = _slots(trace)
    for pair in pairs:
        goes = slots.get(trace.inputs[pair.argument], set())
        result = trace.outputs[pair.output]
        comes = set(state_entries(result)) if isinstance(result, torch.fx.Node) else set()
        if goes and comes and not goes & comes:
            raise invalid(
                "states",
                got=f"{pair.name!r}, whose place among what the model returns is that of another state of a layer",
                expected="new values in the order of the states",
                hint=f"a dict gives the output of each: states={{{pair.name!r}: ...}}",
            )


def _slots(trace: Trace) -> dict[str, set[tuple[str, int, int]]]:
    """By the name of an input: the states of layers that it is, as (name of the call, leaf key, index)."""
    found: dict[str, set[tuple[str, int, int]]] = {}
    for node in trace.nodes:
        if node.target not in RECURRENT:
            continue
        for index, source in enumerate(node.args[2]):  # pyright: ignore
            while isinstance(source, torch.fx.Node) and source.op == "call_function" and operation(source) in MOVES:
                source = source.args[0]
            if isinstance(source, torch.fx.Node):
                found.setdefault(source.name, set()).add((node.name, node.args[0], index + 1))  # pyright: ignore
    return found
