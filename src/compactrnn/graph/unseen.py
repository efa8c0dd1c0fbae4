"""Uses of a recurrent layer outside of the exported graphs."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from .leaf import Leaf
from .trace import Trace


def unread(traced: Trace, leaves: list[Leaf]) -> dict[int, str]:
    """Layers whose output may be read by a parameter that no graph reads: one with an axis that fits its width."""
    read = set()
    for graph in (traced, traced.training):
        if graph is not None:
            names = {a.name for node in graph.nodes for a in node.all_input_nodes}
            read |= {id(traced.model.get_parameter(p)) for name, p in graph.parameters.items() if name in names}
    own = {id(p) for leaf in leaves for p in leaf.module.parameters()}
    unread = {n: p for n, p in traced.model.named_parameters() if id(p) not in read | own}
    found = {}
    for leaf in leaves:
        width = leaf.cells[-1][0].output_size
        name = next((n for n, p in unread.items() if any(size % width == 0 for size in p.shape)), None)
        if name is not None:
            found[leaf.key] = f"{name}, which forward does not use, may read it"
    return found


def stored(leaves: list[Leaf], kept: dict[str, torch.Size]) -> dict[int, str]:
    """Layers whose output `forward` may keep on a module, where others find it."""
    found = {}
    for leaf in leaves:
        width = leaf.cells[-1][0].output_size
        name = next((n for n, shape in kept.items() if any(size % width == 0 for size in shape)), None)
        if name is not None:
            found[leaf.key] = f"forward keeps {name} on the module, which others may read"
        elif leaf.module._forward_hooks:
            found[leaf.key] = "a hook sees it"
    return found


def uncalled(
    model: nn.Module, leaves: Sequence[Any], ran: set[CodeType], sizes: Collection[str] | None = None
) -> dict[int, str]:
    """Layers, or embedding tables, that a method uses which `forward` does not call.

    To read one of the attributes `sizes` is no use; without them any plain attribute.
    """
    found = {}
    for leaf in leaves:
        parts = leaf.name.split(".") if leaf.name else []
        for i, part in enumerate(parts):
            parent = model.get_submodule(".".join(parts[:i]))
            for function in _methods(type(parent)):
                if function.__code__ not in ran and _uses(function.__code__, part, parent, sizes):
                    found[leaf.key] = (
                        f"{type(parent).__name__}.{function.__name__}, which forward does not call, uses it"
                    )
    return found


def _methods(kind: type) -> Iterator[FunctionType]:
    seen = set()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "compactrnn") or base is object:
            continue  # their methods read sizes
        own = {name: value for name, value in vars(base).items() if name not in seen}
        seen |= own.keys()  # what is overridden can be called by what overrides it only
        for value in own.values():
            function = getattr(value, "fget", getattr(value, "__func__", value))
            if isinstance(function, FunctionType) and not function.__name__.startswith("__"):
                yield function


def _uses(code: CodeType, name: str, owner: nn.Module, sizes: Collection[str] | None) -> bool:
    """Whether `code` does more with the attribute `name` than to look at a plain attribute of it, such as a size."""
    module = getattr(owner, name)
    steps = [s for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval == name:
            attribute = after.argval if after and after.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") else None
            if attribute is None or not (_is_plain(module, attribute) if sizes is None else attribute in sizes):
                return True
    return any(_uses(inner, name, owner, sizes) for inner in code.co_consts if isinstance(inner, CodeType))


def _is_plain(module: nn.Module, attribute: str) -> bool:
    if attribute == "forward" or isinstance(getattr(module, attribute, None), nn.Module):
        return False
    own = getattr(type(module), attribute, None)
    return own is None or getattr(own, "__module__", "torch").partition(".")[0] in ("torch", "compactrnn", "builtins")
