"""Rows of linear layers, and learned vectors, that give cells their first states: they go with the units that start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType

from torch import nn
from torch.fx import Node

from .aten import ENTRYWISE, MOVES, operation
from .leaf import RECURRENT, keys
from .matrix import may_recur
from .trace import Trace
from .unseen import uncalled

ROWS = "rows"  # the name of their unit set
CONVOLUTIONS = frozenset(["convolution", "conv1d", "conv2d"])
_SIZES = ("in_features", "out_features", "in_channels", "out_channels")
_KEEPS_UNITS = MOVES | ENTRYWISE | {"native_dropout", "getitem", "masked_fill", "where"}


@dataclass(frozen=True)
class Rows:
    """The rows of an `nn.Linear`, the channels of a convolution, or the entries along the last axis of a parameter.

    `weight` is the name of the matrix, and "" for such a vector; `vector` that of the bias, or of the vector.
    `recurs` says that the matrix multiplies what it gave itself, steps before: its rows are units in their own right.
    """

    key: int
    name: str
    weight: str
    vector: str
    count: int
    recurs: bool = False
    alone = False


def find_rows(traced: Trace, ran: Iterable[CodeType]) -> dict[int, Rows]:
    """What the cells of a loop start from, where every use of it is known; by key.

    In a model without recurrent layers and cells the matrices of which a recurrence may be written out instead.

    What is frozen, shared, hooked, or used by methods that `forward` does not call is left out.
    """
    graphs = [graph for graph in (traced, traced.training) if graph is not None]
    weights, vectors = set[str](), set[str]()
    for graph in graphs:
        for node in graph.nodes:
            if node.target in RECURRENT and graph.leaves[node.args[0]].is_step:  # pyright: ignore
                for state in node.args[2]:  # pyright: ignore
                    _origins(graph, state, weights, vectors)
    recurring = set[str]() if traced.leaves else set[str]().union(*map(_recurring, graphs))
    modules = {f"{path}.weight": (path, m) for path, m in traced.model.named_modules() if path and may_recur(m)}
    if recurring & modules.keys():
        weights |= modules.keys()
    found = [_matrix(*modules[name], name in recurring) for name in sorted(weights & modules.keys())]
    for name in sorted(vectors):
        parameter = traced.model.get_parameter(name)
        if _is_vector(traced.model.get_submodule(name.rpartition(".")[0]), parameter):
            found.append(Rows(next(keys), name, "", name, parameter.shape[-1]))
    beside = uncalled(traced.model, found, set(ran), _SIZES)
    return {rows.key: rows for rows in found if rows.key not in beside and _is_known(rows, traced, graphs)}


def _recurring(graph: Trace) -> set[str]:
    """The matrices that multiply what depends on what they gave themselves."""
    found, below = set[str](), dict[Node, frozenset[str]]()
    for node in graph.nodes:
        reached = frozenset[str]().union(*(below.get(n, ()) for n in node.all_input_nodes))
        if operation(node) in CONVOLUTIONS or operation(node) == "linear":
            name = graph.parameters.get(getattr(node.args[1], "name", ""), "")
            found |= {name} & reached
            reached |= {name} - {""}
        below[node] = reached
    return found


def _origins(graph: Trace, state: Node, weights: set[str], vectors: set[str]) -> None:
    """Add the parameters that give a state by products, and those that are moved into it."""
    seen, waiting = set[Node](), [(state, True)]
    while waiting:
        node, moved = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (name := graph.parameters.get(node.name)) and moved:
            vectors.add(name)
        elif node.op == "call_function" and operation(node) == "linear":
            if name := graph.parameters.get(getattr(node.args[1], "name", "")):
                weights.add(name)
        elif node.op == "call_function" and operation(node) in _KEEPS_UNITS:
            below = node.all_input_nodes
            waiting += [(n, moved and len(below) == 1) for n in below]


def _is_vector(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether it is one, for code of the user's, with no meaning for a layer of torch."""
    plain = not type(owner).__module__.startswith("torch.") or isinstance(owner, nn.ParameterList | nn.ParameterDict)
    return plain and parameter.dim() > 0 and parameter.numel() == parameter.shape[-1]


def _matrix(path: str, module: nn.Module, recurs: bool) -> Rows:
    bias = "" if module.bias is None else f"{path}.bias"
    return Rows(next(keys), path, f"{path}.weight", bias, len(module.weight), recurs)  # pyright: ignore


def _is_known(rows: Rows, traced: Trace, graphs: Collection[Trace]) -> bool:
    names = [name for name in (rows.weight, rows.vector) if name]
    own = {id(traced.model.get_parameter(name)) for name in names}
    shared = [n for n, p in traced.model.named_parameters(remove_duplicate=False) if id(p) in own]
    frozen = not all(traced.model.get_parameter(name).requires_grad for name in names)
    module = traced.model.get_submodule(rows.name) if rows.weight else None
    hooked = module is not None and bool(module._forward_hooks or module._forward_pre_hooks)
    return len(shared) == len(names) and not frozen and not hooked and all(_uses_fit(rows, g) for g in graphs)


def _uses_fit(rows: Rows, graph: Trace) -> bool:
    """Whether a matrix is only that of linear layers, and its bias only theirs."""
    if not rows.weight:
        return True  # an entry is an entry, whatever is done with it
    place = {rows.weight: 1} | ({rows.vector: 2} if rows.vector else {})
    for node, argument in _arguments(graph):
        name = graph.parameters.get(argument.name, "")
        if name in place:
            matrix = graph.parameters.get(getattr(node.args[1], "name", "")) if len(node.args) > 1 else None
            mine = operation(node) in CONVOLUTIONS | {"linear"} and matrix == rows.weight
            if not mine or node.args[place[name]] is not argument or list(node.args).count(argument) > 1:
                return False
    return True


def _arguments(graph: Trace) -> Iterator[tuple[Node, Node]]:
    for node in graph.nodes:
        for argument in node.all_input_nodes:
            yield node, argument
