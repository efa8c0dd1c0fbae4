"""One exported graph of any module, in which every recurrent layer is a single node."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.nn.utils.rnn import PackedSequence

from .._errors import UnsupportedModelError, invalid
from ..cells.base import AbstractCell
from ..layers import cells_of, is_recurrent, part_name
from .aten import operation as operation
from .copy import copy_module
from .example import Example
from .packing import followed_batch_sizes
from .refusals import no_recurrent_layer, not_exported

_LEAVES: weakref.WeakValueDictionary[int, Leaf] = weakref.WeakValueDictionary()
_keys = itertools.count()
_LEFT_OUT: Any = object()


class Leaf:
    """A recurrent layer seen as one operation: `(T, B, input), states -> [(T, B, output), states after]`.

    States come flat, (batch, size) each, ordered by layer, then direction, then the cell's own order.
    """

    def __init__(self, name: str, module: nn.Module, alone: bool = False):
        self.key = next(_keys)
        self.name = "" if alone else name
        self.alone = alone
        self.module = module
        self.cells: list[list[AbstractCell]] = cells_of(module)
        self.takes_state = False  # whether it is called with a state that was None, and may be another time
        _LEAVES[self.key] = self

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional layer."""
        return len(self.cells[0])

    def slots(self) -> list[tuple[int, int, int]]:
        """(layer, direction, state) of each flat state."""
        return [
            (i, d, s) for i, row in enumerate(self.cells) for d, cell in enumerate(row) for s in range(len(cell.states))
        ]

    def part_name(self, layer: int, direction: int, part: str) -> str:
        """What the model calls a part of a cell: "encoder.lstm.weight_ih_l0", "rnn.cells.0.0.hidden"."""
        own = part_name(self.module, layer, direction, part)
        return f"{self.name}.{own}" if self.name else own

    def widths(self) -> list[int]:
        """Width of the output, then of each flat state."""
        output = sum(cell.output_size for cell in self.cells[-1])
        return [output, *(self.cells[i][d].state_sizes()[s] for i, d, s in self.slots())]

    def run(self, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
        """The layer by its cells, step by step: x is (sum of batch_sizes, input), batch_sizes[t] rows in step t."""
        flat, after = iter(states), []
        batch = batch_sizes[0]
        for row in self.cells:
            outputs = []
            for d, cell in enumerate(row):
                state = tuple(next(flat) for _ in cell.states) if states else cell.initial_states(batch, x)
                steps = list(zip(cell.project(x).split(batch_sizes), batch_sizes, strict=True))
                ys = []
                for projected, n in reversed(steps) if d else steps:
                    y, new = cell.step(projected, tuple(s[:n] for s in state))
                    state = tuple(torch.cat([a, s[n:]]) for a, s in zip(new, state, strict=True))
                    ys.append(y)
                outputs.append(torch.cat(ys[::-1] if d else ys))
                after += state
            x = torch.cat(outputs, -1)
        return [x, *(s.clone() for s in after)]


@torch.library.custom_op("compactrnn::recurrent", mutates_args=())
def _recurrent(key: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    y, *after = _LEAVES[key].run(x.flatten(0, 1), states, [x.shape[1]] * x.shape[0])
    return [y.unflatten(0, x.shape[:2]), *after]


@_recurrent.register_fake
def _(key: int, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    output, *sizes = _LEAVES[key].widths()
    return [x.new_empty(x.shape[0], x.shape[1], output), *(x.new_empty(x.shape[1], n) for n in sizes)]


@torch.library.custom_op("compactrnn::recurrent_packed", mutates_args=())
def _recurrent_packed(key: int, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
    return _LEAVES[key].run(x, states, batch_sizes)


@_recurrent_packed.register_fake
def _(key: int, x: Tensor, states: list[Tensor], batch_sizes: list[int]) -> list[Tensor]:
    output, *sizes = _LEAVES[key].widths()
    return [x.new_empty(x.shape[0], output), *(x.new_empty(batch_sizes[0], n) for n in sizes)]


RECURRENT = frozenset([torch.ops.compactrnn.recurrent.default, torch.ops.compactrnn.recurrent_packed.default])


def _leaf_forward(module: nn.Module, input: Any, hx: Any = _LEFT_OUT) -> tuple[Any, Any]:
    """Stands for the layer's own `forward`: its calling convention around the one operation."""
    leaf: Leaf = module._leaf  # pyright: ignore
    leaf.takes_state |= hx is None
    hx = None if hx is _LEFT_OUT else hx
    if isinstance(input, PackedSequence) and (batch_sizes := followed_batch_sizes(input)):
        return _packed_forward(leaf, input, hx, batch_sizes)
    if not isinstance(input, Tensor):
        raise UnsupportedModelError(
            f"{leaf.name or 'the model'}: called with a {type(input).__name__}, wanted a padded tensor;"
            " pass the plain tensor (batch 1 needs no packing)"
        )
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(1)
    if batched and module.batch_first:
        x = x.transpose(0, 1)
    y, *after = torch.ops.compactrnn.recurrent(leaf.key, x, _split_states(leaf, hx, batched))
    if batched and module.batch_first:
        y = y.transpose(0, 1)
    return (y if batched else y.squeeze(1)), _join_states(leaf, after, batched)


def _packed_forward(leaf: Leaf, input: PackedSequence, hx: Any, batch_sizes: list[int]) -> tuple[PackedSequence, Any]:
    data, sizes, order, back = input
    states = _split_states(leaf, hx, True)
    if order is not None:
        states = [s.index_select(0, order) for s in states]
    y, *after = torch.ops.compactrnn.recurrent_packed(leaf.key, data, states, batch_sizes)
    if back is not None:
        after = [s.index_select(0, back) for s in after]
    return PackedSequence(y, sizes, order, back), _join_states(leaf, after, True)  # pyright: ignore


def _split_states(leaf: Leaf, hx: Any, batched: bool) -> list[Tensor]:
    """Flat states; torch's stacked tensor and a tuple of states list the same entries in the same order."""
    if hx is None:
        return []
    kinds = [hx] if len(leaf.cells[0][0].states) == 1 else list(hx)
    flat = [kinds[s][layer * leaf.directions + direction] for layer, direction, s in leaf.slots()]
    return flat if batched else [part.unsqueeze(0) for part in flat]


def _join_states(leaf: Leaf, flat: list[Tensor], batched: bool) -> Any:
    flat = flat if batched else [s.squeeze(0) for s in flat]
    kinds = len(leaf.cells[0][0].states)
    per_layer = isinstance(leaf.module.hidden_size, list | tuple)
    joined = [tuple(flat[s::kinds]) if per_layer else torch.stack(flat[s::kinds]) for s in range(kinds)]
    return joined[0] if kinds == 1 else tuple(joined)


@dataclass
class Trace:
    """A model's graph: nodes in order, what feeds them, and the recurrent layers by key."""

    nodes: list[torch.fx.Node]
    constants: dict[str, Tensor]
    parameters: dict[str, str]
    buffers: dict[str, str]
    inputs: list[str]
    outputs: list[Any]
    leaves: dict[int, Leaf]
    model: nn.Module
    training: Trace | None = None  # the graph in train mode, on the same leaves
    example: Example = field(default_factory=lambda: Example((), {}))  # of which the inputs are the tensors
    trains_alike: bool = False  # whether train mode does nothing else
    unseen: dict[int, str] = field(default_factory=dict)  # leaves that are used outside the graphs, with the place
    whole_states: bool = False  # whether states that are handed back beside another output must keep their size too

    def interpret(self, visit: Callable[[torch.fx.Node, tuple, dict], Any], initial: dict[str, Any]) -> dict[str, Any]:
        """Run the nodes in order: `visit(node, args, kwargs)` with node arguments replaced by earlier results."""
        values = dict(initial)
        for node in self.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n.name])
            values[node.name] = visit(node, args, kwargs)
        return values

    @torch.no_grad()
    def run(self, example_inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        """The concrete value of every node."""
        initial = {**self.constants, **dict(zip(self.inputs, example_inputs, strict=True))}
        return self.interpret(lambda node, args, kwargs: node.target(*args, **kwargs), initial)  # pyright: ignore

    def state_outputs(self) -> list[bool]:
        """For each tensor that the model returns: is it a layer's whole state, returned beside something else?"""
        outputs = [o for o in self.outputs if isinstance(o, torch.fx.Node)]
        entries = [_state_entries(o) for o in outputs]
        returned = {e for found in entries for e in found}
        flags = [bool(found) and self._kind(found[0]) <= returned for found in entries]
        return flags if not all(flags) and not self.whole_states else [False] * len(flags)

    def _kind(self, entry: tuple[str, int, int]) -> set[tuple[str, int, int]]:
        """All flat states of the same kind (h, or c) of the same call of a layer."""
        name, key, index = entry
        kinds = len(self.leaves[key].cells[0][0].states)
        count = len(self.leaves[key].slots())
        return {(name, key, i) for i in range(1 + (index - 1) % kinds, count + 1, kinds)}

    def state_names(self) -> list[str]:
        """For all that the model returns: `h_n`, `c_n`, ... where it is the states of a layer, "" where it is not."""
        entries = [_state_entries(o) if isinstance(o, torch.fx.Node) else [] for o in self.outputs]
        return [self._state_name(found) if found else "" for found in entries]

    def _state_name(self, entries: list[tuple[str, int, int]]) -> str:
        """The name of a layer's states of one kind, "" where `entries` are not all of them, in order."""
        name, key, index = entries[0]
        leaf = self.leaves[key]
        kinds = [s.name for s in leaf.cells[0][0].states]
        kind, count = (index - 1) % len(kinds), len(leaf.slots())
        if entries != [(name, key, i) for i in range(1 + kind, count + 1, len(kinds))]:
            return ""
        called = {str(n.args[0]) for n in self.nodes if n.target is torch.ops.compactrnn.recurrent.default}
        before = f"{leaf.name}." if len(called) > 1 else ""
        return f"{before}{kinds[kind]}_n"

    @property
    def alone(self) -> bool:
        """Whether the model is a recurrent layer and nothing else."""
        return any(leaf.alone for leaf in self.leaves.values())

    def module_of(self, node: torch.fx.Node) -> str:
        """Where in the model a node comes from, for messages."""
        stack = node.meta.get("nn_module_stack") or {}
        path = [p for p, _ in stack.values() if p]
        return path[-1] if path else "the model"


def _state_entries(node: torch.fx.Node) -> list[tuple[str, int, int]]:
    """The flat states that an output consists of, as (name of the call, leaf key, index); none for any other output."""
    if operation(node) == "stack":
        parts = [_state_entries(part) for part in node.args[0]]  # pyright: ignore
        return [entry for part in parts for entry in part] if all(len(part) == 1 for part in parts) else []
    if operation(node) == "squeeze" or (operation(node) == "index_select" and node.args[1] == 0):
        return _state_entries(node.args[0])  # pyright: ignore
    if operation(node) != "getitem" or node.args[0].target not in RECURRENT:  # pyright: ignore
        return []
    call, index = node.args
    return [(call.name, call.args[0], index)] if index > 0 else []  # pyright: ignore


def as_inputs(example_inputs: Any) -> tuple[Tensor, ...]:
    """`example_inputs` as a flat tuple of tensors."""
    values = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    for value in values:
        if not isinstance(value, Tensor):
            raise invalid(
                "example_inputs",
                got=f"a {type(value).__name__}",
                wanted="a tensor or a tuple of tensors, as the model takes them",
                hint="leave initial states out: the model then starts from its own",
            )
    return tuple(values)


def beside(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`inputs` on the device of `model`; as they are if it is spread over several."""
    devices = list({tensor.device for tensor in (*model.parameters(), *model.buffers())})
    return tuple(x.to(device=devices[0]) for x in inputs) if len(devices) == 1 else inputs


def trace(
    model: nn.Module,
    example_inputs: Any,
    times: Sequence[int | None] | None = None,
    table: dict[Any, Callable] | None = None,
) -> Trace:
    """Export a copy of `model` (in eval mode) on `example_inputs`; the model itself is not touched.

    With `times`, the time axis of each input, the graph holds for any number of steps from 2 on.
    Operations that are keys of `table` are replaced by what its functions do.

    Raises:
        UnsupportedModelError: the model cannot be followed; the message says where.
    """
    inputs = beside(model, as_inputs(example_inputs))
    model, leaves = find_leaves(model)
    return trace_leaves(model.eval(), leaves, Example(inputs, {}), times, table)


def find_leaves(model: nn.Module) -> tuple[nn.Module, list[Leaf]]:
    """A copy of `model`, in which a bare layer has a parent, and its recurrent layers, which are marked."""
    if not any(is_recurrent(module) for module in model.modules()):
        raise no_recurrent_layer(model)
    model = copy_module(model)
    alone = is_recurrent(model)
    if alone:
        model = _Alone(model)
    leaves = []
    for name, module in model.named_modules():
        if is_recurrent(module):
            leaf = Leaf(name, module, alone)
            module._leaf = leaf  # pyright: ignore
            leaves.append(leaf)
    return model, leaves


def trace_leaves(
    model: nn.Module,
    leaves: list[Leaf],
    example: Example,
    times: Sequence[int | None] | None = None,
    table: dict[Any, Callable] | None = None,
) -> Trace:
    """Export `model` as it is, in its mode; see `trace`."""
    classes = {leaf.key: type(leaf.module) for leaf in leaves}
    for leaf in leaves:
        leaf.module.__class__ = type(classes[leaf.key].__name__, (classes[leaf.key],), {"forward": _leaf_forward})
    try:
        program = export(model, example.args, times, table, example.kwargs)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise not_exported(type(model).__name__, error) from error
    finally:
        for leaf in leaves:
            leaf.module.__class__ = classes[leaf.key]
    return replace(read_export(program, {leaf.key: leaf for leaf in leaves}, model), example=example)


@torch.no_grad()
def export(
    module: nn.Module,
    inputs: tuple[Any, ...],
    axes: Sequence[int | None] | None = None,
    table: dict[Any, Callable] | None = None,
    keywords: dict[str, Any] | None = None,
) -> torch.export.ExportedProgram:
    """What `module` does with `inputs`, in basic ATen operations; for any size of `axes`, an axis of each input.

    Operations that are keys of `table` are replaced by what its functions do.
    """
    shapes, free = torch.export.ShapesCollection(), torch.export.Dim.AUTO
    for x, axis in zip(inputs, axes or [], strict=False):
        if axis is not None:
            shapes[x] = {axis: free}
    # where it fails it prints the whole graph; the error says enough
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # torch.export warns about torch, and of what is no harm here
        dynamic: Any = shapes if axes else None
        program = torch.export.export(module, inputs, keywords, dynamic_shapes=dynamic, strict=False)
        if axes and not _any_size(program, axes):
            raise UnsupportedModelError(
                f"{type(module).__name__}: its Python code loops over time or depends on the number of steps"
            )
        return program.run_decompositions(table or {})


def _any_size(program: torch.export.ExportedProgram, axes: Sequence[int | None]) -> bool:
    """Whether the graph was not fixed to the sizes that it was exported with."""
    values = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    given = zip(program.graph_signature.user_inputs, axes, strict=True)
    sizes = [values[name].shape[axis] for name, axis in given if axis is not None]
    return all(isinstance(n, torch.SymInt) and n.node.maybe_as_int() is None for n in sizes)


def read_export(program: torch.export.ExportedProgram, leaves: dict[int, Leaf], model: nn.Module) -> Trace:
    """An exported program as a `Trace`."""
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    placed = {n.name for n in program.graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)}
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    return Trace(
        nodes=[n for n in program.graph.nodes if n.op == "call_function"],
        constants={node: stored[name].detach() for node, name in named.items()},
        parameters=dict(signature.inputs_to_parameters),
        buffers=dict(signature.inputs_to_buffers),
        inputs=[str(name) for name in signature.user_inputs if name in placed],
        outputs=list(results[len(results) - len(signature.user_outputs) :]),
        leaves=leaves,
        model=model,
    )


class _Alone(nn.Module):
    """Gives a bare recurrent layer a parent, so that it has a name."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)
