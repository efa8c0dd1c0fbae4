"""Recurrent layers of graphs that call `aten.lstm` and the like: modules again, on the same parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from .._errors import UnsupportedModelError
from .aten import argument, operation

_LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
_CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "lstm_cell": nn.LSTMCell,
    "gru_cell": nn.GRUCell,
    "rnn_tanh_cell": nn.RNNCell,
    "rnn_relu_cell": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}
_ZEROS = frozenset(["zeros", "zeros_like", "new_zeros"])
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def module_of(root: nn.Module, graph: Graph, name: str) -> nn.Module:
    """A module of class `name` that does what `graph` does with the tensors of `root`, with recurrent layers in it.

    Each layer has the name that its weights tell, and the parameters are those of `root`.

    Raises:
        UnsupportedModelError: the graph is of train mode, or the weights of a layer depend on inputs.
    """
    for node in list(graph.nodes):
        if node.op == "call_function":
            _check_mode(node)
            _restore(root, graph, node)
    held = GraphModule(root, graph)
    held.graph.eliminate_dead_code()
    held = GraphModule(held, held.graph)
    module = type(name, (nn.Module,), {"forward": type(held).forward})()
    for kept in ("_modules", "_parameters", "_buffers", "_in_spec", "_out_spec"):
        if kept in vars(held):
            vars(module)[kept] = vars(held)[kept]
    return module.eval()


def _check_mode(node: Node) -> None:
    """Raise an error for what only train mode does."""
    name = operation(node)
    if name in ("dropout", "dropout_", "feature_dropout", "alpha_dropout"):
        training = bool(node.args[2]) and node.args[1] != 0
    elif name == "batch_norm":
        training = bool(argument(node, "training"))
    else:
        return
    if training:
        raise UnsupportedModelError(
            f"{node.name} ({name}): it was exported or traced in train mode, in which it is random or depends on the"
            " batch; call model.eval() before that"
        )


def _restore(root: nn.Module, graph: Graph, node: Node) -> None:
    """Replace the call of a layer or cell by that of a module."""
    name, overload = operation(node), getattr(node.target, "_overloadname", "")
    if name in _LAYERS and overload == "input":
        x, states, weights, biases, layers, dropout, train, both, batch_first = node.args
        if train and dropout and layers > 1:  # pyright: ignore
            raise UnsupportedModelError(
                f"{node.name} ({name}): it was exported or traced in train mode, with dropout between its layers; call"
                " model.eval() before that"
            )
        tensors = [value(root, w) for w in weights]  # pyright: ignore
        options: dict[str, Any] = dict(num_layers=layers, bias=biases, bidirectional=both, batch_first=batch_first)
        layer = _layer(name, tensors, dropout=dropout, **options)
        names = [n for one in layer._all_weights for n in one]
    elif name in _CELLS:
        x, states, *weights = node.args
        weights = [w for w in weights if w is not None]
        tensors = [value(root, w) for w in weights]
        layer = _CELLS[name](tensors[0].shape[1], tensors[1].shape[1], bias=len(tensors) > 2, device="meta")
        names = list(_CELL_WEIGHTS[: len(tensors)])
    elif name in _LAYERS:
        raise UnsupportedModelError(
            f"{node.name} ({name}.{overload}): runs on a PackedSequence, made from lengths inside forward; export or"
            " script a forward that runs the padded tensor: an engine runs one sequence of its own length"
        )
    else:
        return
    for weight, tensor in zip(names, tensors, strict=True):
        layer.register_parameter(weight, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach()))
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()
    path = _place(root, layer, [str(w.target) if _is_tensor(w) else "" for w in weights], names, name)  # pyright: ignore
    _call(graph, node, path, x, states)


def _layer(name: str, weights: Sequence[Tensor], bias: bool, num_layers: int, bidirectional: bool, **options: Any):
    hidden = weights[1].shape[0] // {"lstm": 4, "gru": 3}.get(name, 1)
    each = len(weights) // (num_layers * (2 if bidirectional else 1))
    projected = {"proj_size": weights[1].shape[1]} if each == 3 + 2 * bias else {}
    return _LAYERS[name](
        weights[0].shape[1],
        hidden,
        num_layers=num_layers,
        bias=bias,
        bidirectional=bidirectional,
        device="meta",
        **projected,
        **options,
    )


def _place(root: nn.Module, layer: nn.Module, paths: list[str], names: list[str], kind: str) -> str:
    """Put the layer where its weights are, under a new name where they are scattered; returns the path."""
    owners = {path.rpartition(".")[0] for path in paths}
    owner = next(iter(owners)) if len(owners) == 1 else ""
    if owner and [path.rpartition(".")[2] for path in paths] == names:
        held = root.get_submodule(owner)
        if type(held) is type(layer):
            return owner  # called before
        if set(held._parameters) | set(held._buffers) == set(names) and not held._modules:
            parent, _, own = owner.rpartition(".")
            root.get_submodule(parent).register_module(own, layer)
            return owner
    count = 0
    while hasattr(root, own := f"{kind}_{count}" if count else kind):
        count += 1
    root.register_module(own, layer)
    return own


def _call(graph: Graph, node: Node, path: str, x: Any, states: Any) -> None:
    """Call the module instead; zeros as the initial state are left out."""
    given = list(states) if isinstance(states, tuple | list) else [states]
    start = () if all(_is_zero(s, node) for s in given) else (tuple(given) if len(given) > 1 else given[0],)
    with graph.inserting_before(node):
        called = graph.call_module(path, (x, *start))
        called.meta = {k: v for k, v in node.meta.items() if k != "val"}
        if operation(node) == "lstm":
            states = graph.call_function(operator.getitem, (called, 1))
            parts = [graph.call_function(operator.getitem, (called, 0))]
            parts += [graph.call_function(operator.getitem, (states, i)) for i in range(2)]
            for user in list(node.users):
                user.replace_all_uses_with(parts[user.args[1]])  # pyright: ignore
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(called)
    graph.erase_node(node)


def _is_zero(state: Any, call: Node) -> bool:
    return isinstance(state, Node) and operation(state) in _ZEROS and all(u is call for u in state.users)


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def value(root: nn.Module, node: Any) -> Tensor:
    """The tensor that a node stands for: an attribute of `root`, or what is computed of such alone.

    Raises:
        UnsupportedModelError: it depends on an input.
    """
    if not isinstance(node, Node):
        return node
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(root)
    if node.op != "call_function":
        raise UnsupportedModelError(
            f"{node.name}: a weight of a recurrent layer is computed from an input of the model"
        )
    with torch.no_grad():
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: value(root, n))
        return node.target(*args, **kwargs)  # pyright: ignore
