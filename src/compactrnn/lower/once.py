"""Which inputs a sequence may have once, instead of at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.aten import MOVES
from ..graph.trace import Trace, operation, state_entries
from .probe import Axes
from .refusals import no_time_axis

_LOOKS_UP = ("embedding", "index", "one_hot")


def check_once(model: nn.Module, graph: Trace, inputs: tuple[Tensor, ...], names: list[str], axes: Axes) -> None:
    """Raise an error for an input without a time axis that is no vector, token or initial state of the sequence.

    Whole numbers that are not looked up in a table may be a length. An initial state whose layer's last state the model
    returns is one that the stream keeps.

    Raises:
        UnsupportedModelError: such an input; says what it is given as instead.
    """
    for name, x, given, time, batch in zip(names, inputs, graph.inputs, axes.times, axes.batches, strict=True):
        if time is None and not _is_once(graph, given, x, batch):
            raise UnsupportedModelError(no_time_axis(model, inputs, names, name))


def _is_once(graph: Trace, given: str, x: Tensor, batch: int | None) -> bool:
    readers, vector = _readers(graph, given), sum(n != 1 for d, n in enumerate(x.shape) if d != batch) <= 1
    if not x.is_floating_point():
        return vector and all(operation(node) in _LOOKS_UP for node in readers)
    if not readers or not all(_starts_from(node, given) for node in readers):
        return vector
    nodes = [o for o in graph.outputs if isinstance(o, torch.fx.Node)]
    returned = {key for node in nodes for _, key, _ in state_entries(node)}
    return not any(node.args[0] in returned for node in readers)


def _starts_from(node: torch.fx.Node, given: str) -> bool:
    """Whether a node is a recurrent layer that has an input, moved or not, among its initial states alone."""
    if node.target is not torch.ops.compactrnn.recurrent.default:
        return False
    x: object = node.args[1]
    while isinstance(x, torch.fx.Node) and x.op == "call_function" and operation(x) in MOVES | {"getitem"}:
        x = x.args[0]
    return getattr(x, "name", "") != given


def _readers(graph: Trace, given: str) -> list[torch.fx.Node]:
    """The operations that read an input, but for those that only move its entries."""
    moved, readers = {given}, []
    for node in graph.nodes:
        if all(source.name not in moved for source in node.all_input_nodes):
            continue
        if operation(node) in MOVES | {"getitem", "_to_copy"} and operation(node) not in _LOOKS_UP:
            moved.add(node.name)
        else:
            readers.append(node)
    return readers
