"""One exported graph of any module, in which every recurrent layer is a single node."""

from __future__ import annotations

import contextlib
import io
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode

from .._errors import UnsupportedModelError, invalid
from ..layers import has_cells, is_cell, is_recurrent
from .aten import operation as operation
from .cell_leaf import CellLeaf
from .copy import copy_module
from .example import Example
from .leaf import RECURRENT, Leaf
from .matrix import may_recur
from .refusals import check_model, no_recurrent_layer, not_exported

_FAR = 4096  # steps of the longest sequences that are tried
FOURIER = "a Fourier transform, as in torch.stft and torch.istft, is not followed: let the model take and give spectra"


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
    tables: dict[int, Any] = field(default_factory=dict)  # embedding tables of which every use is known, by key
    rows: dict[int, Any] = field(default_factory=dict)  # what layers start from, where every use is known, by key
    unseen: dict[int, str] = field(default_factory=dict)  # leaves that are used outside the graphs, with the place
    ran: set[CodeType] = field(default_factory=set)  # code of the model that runs on the example
    whole_states: bool = False  # whether states that are handed back beside another output must keep their size too
    guards: list[Any] = field(default_factory=list)  # what was true of the sizes when Python code asked, as of sympy

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

    @torch.no_grad()
    def value(self, node: Any, example_inputs: tuple[Tensor, ...]) -> Any:
        """As `run`, of one node alone, and of what it depends on; `node` may be a constant."""
        if not isinstance(node, torch.fx.Node):
            return node
        needed, left = set[torch.fx.Node](), [node]
        while left:
            if (reached := left.pop()) not in needed:
                needed.add(reached)
                left += reached.all_input_nodes
        initial = {**self.constants, **dict(zip(self.inputs, example_inputs, strict=True))}
        part = replace(self, nodes=[n for n in self.nodes if n in needed])
        visit = lambda n, args, kwargs: n.target(*args, **kwargs)  # noqa: E731  # pyright: ignore
        return part.interpret(visit, initial)[node.name]

    def unguarded(self, frames: int) -> dict[int, str]:
        """A few numbers of steps, each of so many frames, for which Python code may do something else, and why.

        The graph is what the code does where its questions about sizes have the answers that they had.
        """
        found: dict[int, str] = {}
        for guard in self.guards:
            edges = {abs(int(n)) // frames + m for n in guard.atoms() if n.is_Integer for m in (-1, 0, 1)}
            near = sorted(n for n in {*range(1, 13), *edges} if 0 < n <= _FAR)
            other = [n for n in near if not _holds(guard, n * frames)]
            text = reduce(lambda text, size: text.replace(str(size), "n"), guard.free_symbols, str(guard))
            found |= dict.fromkeys({*other[:1], *other[-1:]} - found.keys(), text)
        return found

    def source(self, key: int) -> Any:
        """The recurrent layer, the embedding table, or the rows, that give the units of this key."""
        return next(sources[key] for sources in (self.leaves, self.tables, self.rows) if key in sources)

    def is_parameter(self, node: torch.fx.Node, name: str) -> bool:
        """Whether a node stands for the parameter that the model calls `name`, or has under that name, too."""
        own = self.parameters.get(node.name)
        return own is not None and self.model.get_parameter(own) is self.model.get_parameter(name)

    def state_outputs(self) -> list[bool]:
        """For each tensor that the model returns: is it a layer's whole state, returned beside something else?

        What a cell gives is its output, too, and counts as that.
        """
        outputs = [o for o in self.outputs if isinstance(o, torch.fx.Node)]
        entries = [[e for e in state_entries(o) if not self.leaves[e[1]].is_step] for o in outputs]
        returned = {e for found in entries for e in found}
        flags = [bool(found) and self._kind(found[0]) <= returned for found in entries]
        return flags if not all(flags) and not self.whole_states else [False] * len(flags)

    def _kind(self, entry: tuple[str, int, int]) -> set[tuple[str, int, int]]:
        """All flat states of the same kind (h, or c) of the same call of a layer."""
        name, key, index = entry
        kinds = len(self.leaves[key].cells[0][0].outer_states())
        count = len(self.leaves[key].slots())
        return {(name, key, i) for i in range(1 + (index - 1) % kinds, count + 1, kinds)}

    def state_names(self) -> list[str]:
        """For all that the model returns: `h_n`, `c_n`, ... where it is the states of a layer, "" where it is not."""
        entries = [state_entries(o) if isinstance(o, torch.fx.Node) else [] for o in self.outputs]
        return [self._state_name(found) if found else "" for found in entries]

    def _state_name(self, entries: list[tuple[str, int, int]]) -> str:
        """The name of a layer's states of one kind, "" where `entries` are not all of them, in order."""
        name, key, index = entries[0]
        leaf = self.leaves[key]
        kinds = [s.name for s in leaf.cells[0][0].outer_states()]
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


def state_entries(node: torch.fx.Node) -> list[tuple[str, int, int]]:
    """The flat states that an output consists of, as (name of the call, leaf key, index); none for any other output."""
    if operation(node) == "stack":
        parts = [state_entries(part) for part in node.args[0]]  # pyright: ignore
        return [entry for part in parts for entry in part] if all(len(part) == 1 for part in parts) else []
    if operation(node) == "squeeze" or (operation(node) == "index_select" and node.args[1] == 0):
        return state_entries(node.args[0])  # pyright: ignore
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
                expected="a tensor or a tuple of tensors, as the model takes them",
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


def find_leaves(model: nn.Module, loops: bool = False) -> tuple[nn.Module, list[Leaf]]:
    """A copy of `model`, in which a bare layer has a parent, and its recurrent layers, which are marked.

    With `loops` the cells of torch, too; and there may be none, where code around matrices may be a recurrence.
    """
    check_model(model)
    wanted = has_cells if loops else is_recurrent
    if not any(wanted(module) or (loops and may_recur(module)) for module in model.modules()):
        raise no_recurrent_layer(model)
    model = copy_module(model)
    alone = wanted(model)
    if alone:
        model = _Alone(model)
    leaves = []
    for name, module in model.named_modules():
        if wanted(module):
            leaf = (CellLeaf if is_cell(module) else Leaf)(name, module, alone)
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
        leaf.module.__class__ = type(classes[leaf.key].__name__, (classes[leaf.key],), {"forward": leaf.forward})
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
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), _Followed(), _unchecked():
        warnings.simplefilter("ignore")  # torch.export warns about torch, and of what is no harm here
        dynamic: Any = shapes if axes else None
        program = torch.export.export(module, inputs, keywords, dynamic_shapes=dynamic, strict=False)
        if axes and not _any_size(program, axes):
            fourier = any(
                operation(node).startswith(("stft", "istft", "fft_", "_fft_"))
                for node in program.graph.nodes
                if node.op == "call_function"
            )
            raise UnsupportedModelError(
                f"{type(module).__name__}: "
                + (FOURIER if fourier else "its Python code loops over time or depends on the number of steps")
            )
        return program.run_decompositions(table or {})


class _Followed(TorchFunctionMode):
    """Makes `x.data` an operation of the graph, `x.detach()`, which it would not be."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        is_data = func == torch.Tensor.data.__get__  # pyright: ignore
        return args[0].detach() if is_data else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Distributions look at no values of their parameters, on which a graph cannot depend."""
    usual = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(usual)


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
        nodes=_without_effects([n for n in program.graph.nodes if n.op == "call_function"]),
        constants={node: stored[name].detach() for node, name in named.items()},
        parameters=dict(signature.inputs_to_parameters),
        buffers=dict(signature.inputs_to_buffers),
        inputs=[str(name) for name in signature.user_inputs if name in placed],
        outputs=list(results[len(results) - len(signature.user_outputs) :]),
        leaves=leaves,
        model=model,
        guards=_guards(program),
    )


def _guards(program: torch.export.ExportedProgram) -> list[Any]:
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    sizes = [n for value in values if isinstance(value, Tensor) for n in value.shape if isinstance(n, torch.SymInt)]
    found = [guard.expr for n in sizes[:1] if (known := n.node.shape_env) is not None for guard in known.guards]
    return list(dict.fromkeys(found))


def _without_effects(nodes: list[torch.fx.Node]) -> list[torch.fx.Node]:
    """The nodes but for checks of values, which give nothing but the token that keeps them in order."""
    dropped = set[torch.fx.Node]()
    for node in nodes:
        token = node.target is operator.getitem and node.args[0] in dropped and node.args[1] == 0
        if token or node.target is torch.ops.higher_order.with_effects:
            dropped.add(node)
    kept = [node for node in nodes if node not in dropped]
    for node in kept:
        if used := [n for n in node.all_input_nodes if n in dropped]:
            raise UnsupportedModelError(
                f"{used[0].args[1]}: the model uses the result of an operation with side effects"
            )
    return kept


class _Alone(nn.Module):
    """Gives a bare recurrent layer a parent, so that it has a name."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)


def _holds(guard: Any, size: int) -> bool:
    """Whether a condition is met with all of its sizes this one; not where it has no answer.

    That is where a divisor is 0, or the dividend of a remainder negative.
    """
    try:
        return bool(guard.subs(dict.fromkeys(guard.free_symbols, size)))
    except (ZeroDivisionError, AssertionError):
        return False
