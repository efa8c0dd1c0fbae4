"""A model's exported graphs in eval and in train mode, and the code that neither covers."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import UnsupportedModelError
from ..layers import is_recurrent
from .copy import copy_module
from .example import Example
from .leaf import Leaf
from .packing import FollowPacking, RecordPacking
from .plain_outputs import is_plain, returning_plain_
from .refusals import no_recurrent_layer
from .rows import find_rows
from .seeded import seeded
from .table import find_tables
from .trace import Trace, beside, find_leaves, trace_leaves
from .unseen import stored, uncalled, unread


def follow(model: nn.Module, example_inputs: Any) -> Trace:
    """Export a copy of `model` on `example_inputs` in eval mode, and in train mode too where it does something else.

    Where the model does not run in train mode on these inputs, or that graph cannot be exported, and for methods that
    `forward` does not call, the trace says which recurrent layers may be used beside the graphs, and how
    (`Trace.unseen`).

    Raises:
        UnsupportedModelError: the model cannot be followed; the message says where.
    """
    example = Example.of(model, example_inputs)
    example = example.with_tensors(beside(model, example.tensors))
    model, leaves = find_leaves(model, loops=True)
    try:
        seen = Watched(model.eval(), example)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on example_inputs: {type(error).__name__}: {error}"
        ) from error
    if not seen.plain:
        returning_plain_(model)
    try:
        traced = _export(model, leaves, example, seen)
    except UnsupportedModelError as error:
        raise error if leaves else no_recurrent_layer(model) from error
    ran, kept = seen.code, dict(seen.kept)
    try:
        training = Watched(model.train(), example)
        ran |= training.code
        kept |= training.kept
        traced.trains_alike = training.operations == seen.operations
        traced.training = None if traced.trains_alike else _export(model, leaves, example, training)
    except Exception:  # it may want more arguments, or branch on data: what it reads is not known then
        traced.training = None
    model.eval()
    traced.ran = ran
    traced.tables, traced.rows = find_tables(traced, ran), find_rows(traced, ran)
    if not leaves and not any(rows.recurs for rows in traced.rows.values()):
        raise no_recurrent_layer(model)
    traced.unseen = {**unread(traced, leaves), **uncalled(model, leaves, ran), **stored(leaves, kept)}
    return traced


def _export(model: nn.Module, leaves: list[Leaf], example: Example, seen: Watched) -> Trace:
    with seeded(), FollowPacking(seen.packing.lengths):
        return trace_leaves(model, leaves, example)


class Watched(TorchDispatchMode):
    """One run of a copy of a model: its `operations`, with the parameters that they read, its `code`, its `packing`.

    `plain` is whether torch knows the containers in what it returns.
    """

    def __init__(self, model: nn.Module, example: Example):
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self.code: set[CodeType] = set()
        self.plain = True
        self.packing = RecordPacking()
        model = copy_module(model)
        for module in model.modules():
            if is_recurrent(module):
                module.dropout = 0.0  # pyright: ignore
        self._names = {id(p): name for name, p in model.named_parameters()}
        before = _tensor_attributes(model)
        if sys.getprofile() is None:
            self._run(model, example)
        else:  # somebody profiles this thread
            with ThreadPoolExecutor(1) as threads:
                threads.submit(self._run, model, example).result()
        self.kept = {name: x.shape for name, x in _tensor_attributes(model).items() if x is not before.get(name)}

    def _run(self, model: nn.Module, example: Example) -> None:
        with torch.no_grad(), seeded(), self.packing, self:
            sys.setprofile(self._note)
            try:
                self.plain = is_plain(example.call(model))
            finally:
                sys.setprofile(None)

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


def _tensor_attributes(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold beside parameters and buffers, by name."""
    return {
        f"{path}.{name}" if path else name: x
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        for x in tree_leaves(value)
        if isinstance(x, Tensor)
    }
