"""A TorchScript module as a module with recurrent layers: its graph, of what runs for an example."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from .._errors import UnsupportedModelError, invalid
from .layer_calls import module_of
from .script_numbers import NUMBER_OPERATIONS, TENSOR_FACTS

_SAME = frozenset(
    """prim::unchecked_cast prim::unchecked_unwrap_optional aten::_unwrap_optional prim::ListConstruct
    prim::TupleConstruct""".split()
)
_OF_CONTAINERS = frozenset(["aten::__getitem__", "aten::slice", "aten::append", "aten::list", "aten::len"])
_IGNORED = frozenset(["aten::warn", "prim::Print", "prim::profile"])
_MOST_TURNS = 256  # of a loop that is written out
_DTYPES = dict(enumerate((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16)))
_DTYPES |= {6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16}


def scripted_module(
    script: torch.jit.ScriptModule, example_inputs: Any, fixed: bool = False
) -> tuple[nn.Module, tuple[Any, ...]]:
    """What `script` does in eval mode, as a module with `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells.

    Conditions that hold for all inputs are followed: those on attributes, on arguments that are no tensors, on the
    number of axes. Of a check that raises an error, the other branch is taken.

    Args:
        script: the module, on whose parameters the new one is.
        example_inputs: what it is called with; arguments that are no tensors become part of the module.
        fixed: whether tensors have the sizes of the example at all times, so that conditions on these are followed too.

    Returns:
        The module, and the tensors that it is called with.

    Raises:
        UnsupportedModelError: what runs depends on values or sizes of tensors, or state is kept; names the line.
    """
    given = arguments_of(script, example_inputs)
    walk = _Walk(script, fixed)
    values = [walk.placeholder(name, value) for name, value in given.items()]
    results = walk.run(_method(script), values)
    walk.graph.output(results)
    name = getattr(script, "original_name", type(script).__name__)
    return module_of(walk.root, walk.graph, name), tuple(v for v in given.values() if holds_tensor(v))


def arguments_of(script: torch.jit.ScriptModule, example_inputs: Any) -> dict[str, Any]:
    """The argument of `forward` by name: those of the example, and defaults."""
    known = _method(script).schema.arguments[1:]
    names = [a.name for a in known]
    if isinstance(example_inputs, dict) and example_inputs and set(example_inputs) <= set(names):
        given = dict(example_inputs)
    else:
        values = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
        if len(values) > len(names):
            raise invalid("example_inputs", got=f"{len(values)} arguments", expected=f"at most {len(names)}: {names}")
        given = dict(zip(names, values, strict=False))
    for argument in known:
        if argument.name not in given:
            if not argument.has_default_value():
                raise invalid("example_inputs", got="none", expected=f"a value for {argument.name} of forward{names}")
            given[argument.name] = argument.default_value
    return {name: given[name] for name in names}


def _method(script: torch.jit.ScriptModule) -> Any:
    if "forward" not in script._c._method_names():
        raise UnsupportedModelError(
            f"{getattr(script, 'original_name', 'the model')}: a torch.jit.ScriptModule without a forward, as"
            " torch.jit.script makes of a layer alone; script a module that calls it, or pack the Python module"
        )
    return script._c._get_method("forward")


def holds_tensor(value: Any) -> bool:
    """Whether there is a tensor in `value`."""
    return tree_any(lambda x: isinstance(x, Tensor), value)


@dataclass(frozen=True)
class _Object:
    """A module within the script, by its path."""

    held: Any
    path: str


class _Walk:
    """Runs a TorchScript graph on an example, and writes down what it does with tensors and sizes.

    A tensor, and a number that comes from a size, is a node, with its value for the example in `meta`; all else is what
    it is in Python.
    """

    def __init__(self, script: torch.jit.ScriptModule, fixed: bool):
        self.graph, self.root, self.fixed = Graph(), nn.Module(), fixed
        self.script = script
        self.where = ""
        named = [*script.named_parameters(), *script.named_buffers()]
        self.parameters = dict(script.named_parameters())
        self.paths = {_key(t): name for name, t in reversed(named)}
        self.attributes: dict[str, Node] = {}
        self.assigned: set[str] = set()  # attributes that the code assigns to somewhere
        self.kept: list[str] = []  # those of them that were read or assigned
        self.held: list[Tensor] = []  # so that no other tensor gets the address of one that is gone

    def placeholder(self, name: str, value: Any) -> Any:
        """An argument: a node if there are tensors in it."""
        if not holds_tensor(value):
            return value
        return self._parts(self._known(self.graph.placeholder(name), value), value)

    def _parts(self, node: Node, value: Any) -> Any:
        if isinstance(value, Tensor):
            return node
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        parts = {
            k: self._parts(self._emit(operator.getitem, (node, k), {}), v) if holds_tensor(v) else v for k, v in items
        }
        return parts if isinstance(value, Mapping) else tuple(parts.values())

    def run(self, method: Any, arguments: Sequence[Any]) -> Any:
        graph = method.graph.copy()
        torch._C._jit_pass_inline(graph)
        self.assigned = {n.s("name") for n in graph.findAllNodes("prim::SetAttr", True)}
        first, *rest = graph.inputs()
        values = {first.unique(): _Object(self.script, "")}
        values |= {v.unique(): a for v, a in zip(rest, arguments, strict=True)}
        self._block(graph, values)
        (result,) = [values[v.unique()] for v in graph.outputs()]
        return result

    def _block(self, block: Any, values: dict[int, Any]) -> list[Any]:
        """Run the nodes of a block; returns what it gives."""
        for node in block.nodes():
            self.where = _place(node)
            if node.kind() == "prim::If":
                results = self._if(node, values)
            elif node.kind() == "prim::Loop":
                results = self._loop(node, values)
            else:
                results = self._node(node, [values.get(v.unique()) for v in node.inputs()])
            for output, result in zip(node.outputs(), results, strict=True):
                values[output.unique()] = result
        return [values[v.unique()] for v in block.outputs()] if hasattr(block, "outputs") else []

    def _if(self, node: Any, values: dict[int, Any]) -> list[Any]:
        condition = values[next(node.inputs()).unique()]
        first, second = node.blocks()
        if isinstance(condition, Node):
            if _raises(first) or _raises(second):
                condition = _raises(second)
            elif self.fixed:
                condition = condition.meta["value"]
            else:
                self._refuse("what runs depends on the size of a tensor here, and must be the same for all lengths")
        return self._block(first if condition else second, values)

    def _loop(self, node: Any, values: dict[int, Any]) -> list[Any]:
        most, going, *carried = [values[v.unique()] for v in node.inputs()]
        (body,) = node.blocks()
        inputs = list(body.inputs())
        turn = 0
        while True:
            if self.fixed:
                most, going = (v.meta["value"] if isinstance(v, Node) else v for v in (most, going))
            if isinstance(most, Node) or isinstance(going, Node):
                self._refuse(
                    "a loop whose number of turns depends on the size of a tensor, such as one over time steps"
                )
            if not going or turn >= most:  # pyright: ignore
                return carried
            if turn == _MOST_TURNS:
                self._refuse(f"a loop of more than {_MOST_TURNS} turns")
            values |= {v.unique(): x for v, x in zip(inputs, [turn, *carried], strict=True)}
            going, *carried = self._block(body, values)
            turn += 1

    def _node(self, node: Any, inputs: list[Any]) -> Sequence[Any]:
        """The results of a node without blocks."""
        kind = node.kind()
        if kind == "prim::Constant":
            return [self._constant(node)]
        if kind == "prim::GetAttr":
            return [self._attribute(inputs[0], node.s("name"))]
        if kind == "prim::SetAttr":
            self.kept.append(node.s("name"))
            self._refuse("")
        if kind == "prim::RaiseException":
            self._refuse("it raises an error for the example")
        if kind in _IGNORED:
            return [None] * len(list(node.outputs()))
        if kind in _SAME:
            made = {"prim::ListConstruct": list, "prim::TupleConstruct": tuple}.get(kind)
            return [made(inputs) if made else inputs[0]]
        if kind == "prim::DictConstruct":
            return [dict(zip(inputs[::2], inputs[1::2], strict=True))]
        if kind in ("prim::TupleUnpack", "prim::ListUnpack"):
            return inputs[0] if not isinstance(inputs[0], Node) else self._items(inputs[0])
        if kind == "prim::TupleIndex":
            return [inputs[0][inputs[1]]]
        if kind == "prim::Uninitialized":
            return [None]
        if kind in ("aten::__is__", "aten::__isnot__"):
            return [(inputs[0] is inputs[1]) == (kind == "aten::__is__")]
        if kind in TENSOR_FACTS and isinstance(inputs[0], Node):
            return [TENSOR_FACTS[kind](inputs[0].meta["value"])]
        if kind == "aten::size":
            axes = range(inputs[0].meta["value"].dim()) if len(inputs) == 1 else inputs[1:]
            sizes = [self._emit(torch.ops.aten.sym_size.int, (inputs[0], axis), {}) for axis in axes]
            return [sizes if len(inputs) == 1 else sizes[0]]
        if kind == "aten::len" and isinstance(inputs[0], Node):
            return [self._emit(torch.ops.aten.sym_size.int, (inputs[0], 0), {})]
        if kind == "prim::data":
            return [self._emit(torch.ops.aten.detach.default, (inputs[0],), {})]
        if kind in _OF_CONTAINERS and isinstance(inputs[0], list | tuple | dict):
            return [NUMBER_OPERATIONS[kind](*inputs)]
        if kind in NUMBER_OPERATIONS and not any(isinstance(_value(x), Tensor) for x in tree_leaves(inputs)):
            return [self._emit(NUMBER_OPERATIONS[kind], tuple(inputs), {})]
        return self._operation(node, kind, inputs)

    def _operation(self, node: Any, kind: str, inputs: list[Any]) -> Sequence[Any]:
        """An operation of ATen."""
        space, _, name = kind.partition("::")
        if (kind in NUMBER_OPERATIONS and name[0].isupper()) or kind in ("aten::item", "prim::tolist"):
            self._refuse(
                "takes a number out of a tensor, so that what runs depends on its values; it must be the same for all"
                " inputs: use torch.where, and keep such numbers as tensors"
            )
        if "quantized" in kind:
            self._refuse(f"{kind}: the model is quantized; pack the float model: pack quantizes it (weights='int8')")
        if space != "aten" or node.schema() == "(no schema)":
            self._refuse(f"{kind} is not taken from TorchScript")
        if name == "_convolution":  # what jit.trace makes of a convolution, with settings of cuDNN behind
            return [self._emit(torch.ops.aten.convolution.default, tuple(inputs[:9]), {})]
        schema = torch._C.parse_schema(node.schema())
        target = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        args, kwargs = [], {}
        for argument, given in zip(schema.arguments, inputs, strict=True):
            if argument.name == "dtype" and type(given) is int:
                given = _DTYPES.get(given)
            if argument.name == "device" and given is not None:
                given = torch.device("cpu")
            if argument.kwarg_only:
                if argument.name not in ("layout", "pin_memory", "memory_format"):
                    kwargs[argument.name] = given
            else:
                args.append(given)
        if argument_names := [a.name for a in schema.arguments if a.name == "memory_format" and not a.kwarg_only]:
            args[[a.name for a in schema.arguments].index(argument_names[0])] = None
        made = self._emit(target, tuple(args), {k: v for k, v in kwargs.items() if v is not None})
        outputs = list(node.outputs())
        return [made] if len(outputs) == 1 else self._items(made)

    def _emit(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation gives: a node, or, where no tensor and no size is in it, the result itself."""
        symbolic = any(isinstance(x, Node) for x in tree_leaves((args, kwargs)))
        concrete, options = map_arg((args, kwargs), _value)
        try:
            with torch.no_grad():
                result = target(*_fresh(concrete), **options)
        except Exception as error:
            self._refuse(
                f"fails on example_inputs ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
            )
        if not symbolic and not any(isinstance(x, Tensor) for x in tree_leaves(result)):
            return result
        return self._known(self.graph.call_function(target, args, kwargs), result)

    def _items(self, node: Any) -> list[Any]:
        """The parts of a list or tuple."""
        if not isinstance(node, Node):
            return list(node)
        return [self._emit(operator.getitem, (node, i), {}) for i in range(len(node.meta["value"]))]

    def _known(self, node: Node, value: Any) -> Node:
        node.meta["value"] = value
        return node

    def _constant(self, node: Any) -> Any:
        output = node.output()
        if isinstance(output.type(), torch._C.NoneType) or not node.attributeNames():
            return None
        if output.type().kind() == "FunctionType":
            return None
        value = output.toIValue()
        return self._tensor(value, f"constant_{len(self.attributes)}") if isinstance(value, Tensor) else value

    def _attribute(self, owner: _Object, name: str) -> Any:
        if name == "training":
            return False
        if name in self.assigned:
            self.kept.append(name)
        path = ".".join(filter(None, (owner.path, name)))
        held = getattr(owner.held, name)
        if isinstance(held, torch.jit.ScriptModule | torch._C.ScriptModule):  # pyright: ignore
            return _Object(held, path)
        return tree_map(lambda x: self._tensor(x, path) if isinstance(x, Tensor) else x, held)

    def _tensor(self, tensor: Tensor, path: str) -> Node:
        """A tensor of the module, under the first of its names; another becomes a buffer."""
        self.held.append(tensor)
        path = self.paths.setdefault(_key(tensor), path)
        if path not in self.attributes:
            parent, _, own = path.rpartition(".")
            owner = self.root
            for part in parent.split(".") if parent else ():
                if part not in owner._modules:
                    owner.register_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if path in self.parameters:
                owner.register_parameter(own, nn.Parameter(tensor.detach(), tensor.requires_grad))
            else:
                owner.register_buffer(own, tensor.detach())
            self.attributes[path] = self._known(self.graph.get_attr(path), tensor.detach())
        return self.attributes[path]

    def _refuse(self, why: str) -> Any:
        name = getattr(self.script, "original_name", type(self.script).__name__)
        if self.kept:
            why = (
                f"{', '.join(dict.fromkeys(self.kept))}: kept from one call of the model to the next; an engine keeps"
                " the states of recurrent layers, and those that forward takes and returns (states=[...]): pack the"
                " module within that has them so"
            )
        raise UnsupportedModelError(f"{name}, {self.where}: {why}")


def _key(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _value(x: Any) -> Any:
    return x.meta["value"] if isinstance(x, Node) else x


def _fresh(tree: Any) -> Any:
    """Copies of the tensors, which an operation in place may change."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, tree)


def _raises(block: Any) -> bool:
    return any(node.kind() == "prim::RaiseException" for node in block.nodes())


def _place(node: Any) -> str:
    """Operation and line of a node, for messages."""
    line = next((text.strip() for text in node.sourceRange().splitlines() if "File " in text), "")
    return f"{node.kind()}" + (f" ({line.removeprefix('File ').rstrip(':')})" if line else "")
