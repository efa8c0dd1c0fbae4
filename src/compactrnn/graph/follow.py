"""A model's graphs in eval mode and in training, and the code that is in neither."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import UnsupportedModelError
from ..layers import is_recurrent
from .copy import copy_module
from .packing import FollowPacking, RecordPacking
from .trace import Leaf, Trace, as_inputs, beside, find_leaves, trace_leaves


def follow(model: nn.Module, example_inputs: Any) -> Trace:
    """Export a copy of `model` on `example_inputs` in eval mode, and in train mode too where it does something else.

    Where the model does not run in train mode on these inputs, or that graph cannot be exported, and for methods that
    `forward` does not call, the trace says which recurrent layers may be used beside the graphs, and how
    (`Trace.unseen`).

    Raises:
        UnsupportedModelError: the model cannot be followed; the message says where.
    """
    inputs = beside(model, as_inputs(example_inputs))
    model, leaves = find_leaves(copy_module(model))
    try:
        seen = Watched(model.eval(), inputs)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on example_inputs: {type(error).__name__}: {error}"
        ) from error
    traced = _export(model, leaves, inputs, seen)
    ran = seen.code
    try:
        training = Watched(model.train(), inputs)
        ran |= training.code
        traced.training = None if training.operations == seen.operations else _export(model, leaves, inputs, training)
    except Exception:  # it may want more arguments, or branch on data: then nobody knows what it reads
        traced.training = None
    model.eval()
    traced.unseen = {**_unread(traced, leaves), **_uncalled(model, leaves, ran)}
    return traced


def _export(model: nn.Module, leaves: list[Leaf], inputs: tuple[Tensor, ...], seen: Watched) -> Trace:
    with torch.random.fork_rng(), FollowPacking(seen.packing.lengths):
        return trace_leaves(model, leaves, inputs)


class Watched(TorchDispatchMode):
    """One run of a copy of a model: the `operations`, with the parameters they read, the `code` and the `packing`."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]):
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self.code: set[CodeType] = set()
        self.packing = RecordPacking()
        model, before = copy_module(model), sys.getprofile()
        for module in model.modules():
            if is_recurrent(module):
                module.dropout = 0.0  # pyright: ignore
        self._names = {id(p): name for name, p in model.named_parameters()}
        with torch.no_grad(), torch.random.fork_rng(), self.packing, self:
            sys.setprofile(self._note)
            try:
                model(*inputs)
            finally:
                sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self.code.add(frame.f_code)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs or {}))
        if "rnn" in func.__name__:  # a fused layer, told whether it trains
            leaves = [x for x in leaves if not isinstance(x, bool)]
        operands = [(tuple(x.shape), self._names.get(id(x))) if isinstance(x, Tensor) else repr(x) for x in leaves]
        self.operations.append((func, *operands))
        return result


def _unread(traced: Trace, leaves: list[Leaf]) -> dict[int, str]:
    """Layers whose output may be read by a parameter that no graph reads: one with an axis that fits its width."""
    read = set()
    for graph in (traced, traced.training):
        for node in graph.nodes if graph else ():
            read |= {
                id(traced.model.get_parameter(n)) for a in node.all_input_nodes if (n := graph.parameters.get(a.name))
            }  # pyright: ignore
    own = {id(p) for leaf in leaves for p in leaf.module.parameters()}
    unread = {n: p for n, p in traced.model.named_parameters() if id(p) not in read | own}
    found = {}
    for leaf in leaves:
        width = sum(cell.output_size for cell in leaf.cells[-1][:1])
        name = next((n for n, p in unread.items() if any(size % width == 0 for size in p.shape)), None)
        if name is not None:
            found[leaf.key] = f"{name}, which forward does not use, may read it"
    return found


def _uncalled(model: nn.Module, leaves: list[Leaf], ran: set[CodeType]) -> dict[int, str]:
    """Layers that a method uses which `forward` does not call."""
    found = {}
    for leaf in leaves:
        parts = leaf.name.split(".") if leaf.name else []
        for i, part in enumerate(parts):
            parent = model.get_submodule(".".join(parts[:i]))
            for function in _methods(type(parent)):
                if function.__code__ not in ran and _uses(function.__code__, part, parent):
                    found[leaf.key] = (
                        f"{type(parent).__name__}.{function.__name__}, which forward does not call, uses it"
                    )
    return found


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] == "torch" or base is object:
            continue
        for value in vars(base).values():
            function = getattr(value, "fget", getattr(value, "__func__", value))
            if isinstance(function, FunctionType) and not function.__name__.startswith("__"):
                yield function


def _uses(code: CodeType, name: str, owner: nn.Module) -> bool:
    """Whether `code` does more with the attribute `name` than to look at a plain attribute of it, such as a size."""
    module = getattr(owner, name)
    steps = [s for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval == name:
            attribute = after.argval if after and after.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") else None
            if attribute is None or not _is_plain(module, attribute):
                return True
    return any(_uses(inner, name, owner) for inner in code.co_consts if isinstance(inner, CodeType))


def _is_plain(module: nn.Module, attribute: str) -> bool:
    if attribute == "forward" or isinstance(getattr(module, attribute, None), nn.Module):
        return False
    own = getattr(type(module), attribute, None)
    return own is None or getattr(own, "__module__", "torch").partition(".")[0] in ("torch", "compactrnn", "builtins")
