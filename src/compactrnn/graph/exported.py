"""A `torch.export.ExportedProgram` as a module with recurrent layers."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from .._errors import UnsupportedModelError
from .aten import operation
from .layer_calls import module_of

_SHAPED = frozenset(["view", "reshape", "_unsafe_view"])
_CALLS = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
# numbers in these change what is computed, other than by shapes, which are seen to fit or not
_ARITHMETIC = frozenset(
    """add add_ sub sub_ rsub mul mul_ div div_ pow pow_ remainder fmod floor_divide eq ne lt le gt ge clamp clamp_
    clamp_min clamp_max full full_like fill fill_ masked_fill arange linspace where""".split()
)
# numbers in these say how many entries are meant
_SIZED = frozenset(
    """slice narrow select pad constant_pad_nd roll topk split split_with_sizes unfold expand repeat tile ones new_ones
    new_full avg_pool1d avg_pool2d max_pool1d max_pool2d""".split()
)


def exported_module(program: torch.export.ExportedProgram) -> nn.Module:
    """What `program` does, as a module with `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells, on its parameters.

    torch.export fixes the number of steps of every recurrent layer; here shapes that follow from it are free.

    Raises:
        UnsupportedModelError: it was exported in train mode.
    """
    root = program.module(check_guards=False)
    graph: Graph = root.graph  # pyright: ignore
    steps = _lengths(program)
    for node in list(graph.nodes):
        if node.op == "call_function" and operation(node) in _SHAPED:
            _free(graph, node, steps)
    return module_of(root, graph, _name(program))


def check_numbers(program: torch.export.ExportedProgram, times: Sequence[int | None]) -> None:
    """Raise an error where a number in the program may have been computed from the number of steps; else warn of it.

    As torch.export fixes that, `x.sum(1) / x.shape[1]` is a division by a constant, and would be wrong for any other
    length. `times` are the time axes of the inputs.
    """
    placed = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    inputs = [placed[n] for n in program.graph_signature.user_inputs if isinstance(placed.get(str(n)), Tensor)]
    lengths = _lengths(program) | {
        int(x.shape[axis]) for x, axis in zip(inputs, times, strict=False) if axis is not None
    }
    if 1 in lengths:
        raise UnsupportedModelError(
            f"{_name(program)}: exported with one time step, so that what depends on their number is not seen; export"
            " it with more, or, if it is one step, pack it with states=[...], the arguments that it returns changed"
        )
    for node, number, is_size in _numbers(program):
        found = next((n for n in sorted(lengths) if _made_of(number, n, is_size)), None)
        if found is not None:
            raise UnsupportedModelError(
                f"{_name(program)}: {node}: the number {number:g} may come from the {found} steps that the program was"
                " exported with, as in x.sum(1) / x.shape[1], and would be wrong for any other number of steps. If it"
                " does not, export with another number, such as a large prime; if it does, pack the Python module, a"
                " TorchScript module or an ONNX file"
            )
    warnings.warn(
        f"{_name(program)}: exported with {' and '.join(map(str, sorted(lengths)))} steps, and packed for any number of"
        " steps. A number that the code computed from that one is a constant now, and no such constant was recognized;"
        " to be sure, pack the Python module or a TorchScript module",
        stacklevel=4,
    )


def _made_of(number: float, n: int, is_size: bool) -> bool:
    """Whether a number may be computed from `n`: that or the next, its root or logarithm, a multiple, or 1 / such."""
    if is_size:
        return abs(number - n) <= 1
    made = [n - 1, n + 1, math.sqrt(n), math.log(n), math.log2(n), math.log10(n)]
    for x in (number, 1 / number if number else 0.0):
        multiple = round(x / n) * n
        if any(math.isclose(x, s, rel_tol=1e-6) for s in ([*made, multiple] if multiple else made)):
            return True
    return False


def _numbers(program: torch.export.ExportedProgram) -> Iterator[tuple[str, float, bool]]:
    """Numbers that the program computes with, where, and whether they are sizes: arguments and constant tensors."""
    for node in program.graph.nodes:
        name = operation(node) if node.op == "call_function" else ""
        if name in _ARITHMETIC or name in _SIZED:
            named = [v for k, v in node.kwargs.items() if k in ("alpha", "value", "other", "size", "fill_value")]
            for number in tree_leaves((node.args, named)):
                if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
                    yield f"{node.name} ({name})", abs(number), name in _SIZED
    for name, key in program.graph_signature.inputs_to_lifted_tensor_constants.items():
        tensor = program.constants[key]
        if isinstance(tensor, Tensor):
            for number in tensor.flatten().double().tolist():
                yield f"{name} (a tensor of the program)", abs(number), False


def _free(graph: Graph, node: Node, steps: set[int]) -> None:
    """Let a shape follow its tensor: leading axes that stay, and the one other that counts steps."""
    x, sizes = node.args[0], list(node.args[1])  # pyright: ignore
    if "val" not in x.meta or -1 in sizes:  # pyright: ignore
        return
    before = [int(n) for n in x.meta["val"].shape]  # pyright: ignore
    if any(not isinstance(n, int) for n in sizes):
        return
    kept = 0
    while kept < min(len(before), len(sizes)) and before[kept] == sizes[kept]:
        kept += 1
    rest = [i for i in range(kept, len(sizes)) if any(n > 1 and sizes[i] % n == 0 for n in steps)]
    with graph.inserting_before(node):
        for i in range(kept):
            sizes[i] = graph.call_function(torch.ops.aten.sym_size.int, (x, i))
    if len(rest) == 1:
        sizes[rest[0]] = -1
    node.args = (x, sizes)


def _lengths(program: torch.export.ExportedProgram) -> set[int]:
    """The numbers of steps that recurrent layers were exported with."""
    shapes = [(node.args[0].meta["val"].shape, bool(node.args[-1])) for node in _calls(program)]  # pyright: ignore
    return {int(shape[1 if batch_first else 0]) for shape, batch_first in shapes}


def _calls(program: torch.export.ExportedProgram) -> list[Node]:
    found = [n for n in program.graph.nodes if n.op == "call_function" and operation(n) in _CALLS]
    return [n for n in found if getattr(n.target, "_overloadname", "") == "input"]


def _name(program: torch.export.ExportedProgram) -> str:
    """The class of the module that was exported."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if not path:
                text = kind if isinstance(kind, str) else kind.__name__
                return text.rpartition(".")[2]
    return "ExportedProgram"


def example_of(program: torch.export.ExportedProgram, module: nn.Module) -> Any:
    """The inputs that the program was exported with: a tuple, or a dict where they have names."""
    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    names = inspect.signature(module.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args
