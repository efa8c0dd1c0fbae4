"""Check of states paired by order against the recurrent layers that update them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .._errors import invalid
from ..graph.aten import MOVES
from ..graph.leaf import RECURRENT
from ..graph.trace import Trace, operation, state_entries
from .step_states import Pair


def check_slots(trace: Trace, pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """Raise an error for a pair whose state enters one state of a layer and returns from another.

    That is known where both are a layer's states as they stand.

    Raises:
        ValueError: they are in another order, as in `return y, c, h` for `forward(x, h, c)`.
    """
    slots = _slots(trace)
    goes = {trace.inputs[pair.argument]: slots.get(trace.inputs[pair.argument], set()) for pair in pairs}
    for pair in pairs:
        own, result = trace.inputs[pair.argument], trace.outputs[pair.output]
        comes = set(state_entries(result)) if isinstance(result, torch.fx.Node) else set()
        if not comes & goes[own] and any(comes & slots for other, slots in goes.items() if other != own):
            name = names[pair.argument]
            raise invalid(
                "states",
                got=f"{name!r}, whose place among what the model returns is that of another state",
                expected="new values in the order of the states",
                hint=f"a dict gives the output of each: states={{{name!r}: ...}}",
            )


def check_names(model: nn.Module, states: Sequence[str]) -> None:
    """Raise an error for a `forward` that returns the states under their names in another order.

    Raises:
        ValueError: as in `return y, h2, h1` for `states=["h1", "h2"]`.
    """
    for names in _returned_names(model):
        last = names[-len(states) :]
        if sorted(last) == sorted(states) and last != list(states):
            found = {name: len(names) - len(last) + last.index(name) for name in states}
            raise invalid(
                "states",
                got=f"{', '.join(states)}, and a forward that returns {', '.join(last)}",
                expected="new values in the order of the states",
                hint=f"a dict gives the output of each: states={found}",
            )


def _returned_names(model: nn.Module) -> Iterator[list[str]]:
    """For each `return a, b, c` of the model's forward: the names, "" where something else stands."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(model).forward)))
    except (OSError, TypeError, SyntaxError):  # made at run time, or in C
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            yield [part.id if isinstance(part, ast.Name) else "" for part in node.value.elts]


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
