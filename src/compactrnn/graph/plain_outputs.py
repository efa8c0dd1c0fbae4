"""What a model returns, with dicts in the place of dataclasses and of mappings that torch does not know."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)


def returning_plain_(model: M) -> M:
    """Let `model` return `plain` of what it returned, in place; returns the model."""
    kind = type(model)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return plain(kind.forward(self, *args, **kwargs))

    forward.__signature__ = inspect.signature(kind.forward)  # pyright: ignore
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})  # pyright: ignore
    return model


def is_plain(result: Any) -> bool:
    """Whether torch knows all containers in it."""
    return not any(_fields(leaf) is not None for leaf in pytree.tree_leaves(result))


def plain(result: Any) -> Any:
    """`result` with dicts in the place of dataclasses and mappings of other classes.

    >>> @dataclasses.dataclass
    ... class Answer:
    ...     logits: list
    >>> plain((Answer([1, 2]), 3))
    ({'logits': [1, 2]}, 3)
    """
    fields = _fields(result)
    if fields is not None:
        return {name: plain(value) for name, value in fields.items()}
    return pytree.tree_map(lambda leaf: leaf if _fields(leaf) is None else plain(leaf), result)


def _fields(leaf: Any) -> dict[str, Any] | None:
    """Named fields of an object that is not a pytree node of torch."""
    if type(leaf) in pytree.SUPPORTED_NODES or isinstance(leaf, type | nn.Module):
        return None
    if dataclasses.is_dataclass(leaf):
        return {f.name: getattr(leaf, f.name) for f in dataclasses.fields(leaf)}
    return dict(leaf) if isinstance(leaf, Mapping) else None
