"""Deep copies of modules, also of modules that keep results of a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from .plain import plain_

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def copy_module(module: M) -> M:
    """A deep copy of `module`, with parameters and buffers of its own.

    What is computed from other parameters (weight norm and the like) is a plain parameter of the copy. Tensors that a
    forward pass left as attributes, which torch refuses to copy, are copied without their graph.
    An attribute that Python cannot copy, such as a lock or an open file, is shared with the copy.

    Raises:
        UnsupportedModelError: the module cannot be copied.

    >>> layer = nn.Linear(2, 2)
    >>> layer.last = layer(torch.ones(1, 2))
    >>> copy_module(layer).last.requires_grad
    False
    """
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _tensors(module) if t.grad_fn is not None}
    try:
        return plain_(copy.deepcopy(module, dict(memo)))
    except Exception:
        shared = {id(value): value for value in _attributes(module) if not _copies(value, memo)}
    try:
        return plain_(copy.deepcopy(module, {**memo, **shared}))
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"{type(module).__name__}: cannot be copied ({type(error).__name__}: {reason});"
            " it is packed and pruned on a copy: copy.deepcopy(model) must work"
        ) from error


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """All tensors that `module` holds, in containers and in attributes of objects."""
    seen: set[int] = set()
    found: list[Any] = [module]
    while found:
        value = found.pop()
        if id(value) in seen or isinstance(value, type | ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            found += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            found += value
        else:
            found += getattr(value, "__dict__", {}).values()


def _attributes(module: nn.Module) -> Iterator[Any]:
    """What the modules of `module` hold beside parameters, buffers and children."""
    for child in module.modules():
        for name, value in vars(child).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield value


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True
