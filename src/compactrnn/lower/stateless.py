"""Check that repeated calls of a model give the same result."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module

_CALLS = 3


def check_stateless(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise an error if the model keeps state between calls or is random in eval mode.

    What it keeps without reading it, such as features for a loss, does no harm.

    Raises:
        UnsupportedModelError: names the attributes that have changed.
    """
    model = copy_module(model)
    before = dict(_attributes(model))
    with torch.random.fork_rng(devices=[]):
        try:
            first = _answers(model, inputs)
        except Exception:  # another says it better
            return
        try:
            same = all(_same(first, _answers(model, inputs)) for _ in range(_CALLS - 1))
        except Exception:
            same = False
    if same:
        return
    changed = [name for name, value in _attributes(model) if not _same(before.get(name, []), value)]
    if changed:
        raise UnsupportedModelError(
            f"{', '.join(changed)}: kept from one call of the model to the next, and changes what it returns; an engine"
            " keeps the states of recurrent layers and of nothing else: let the model start each sequence without it"
        )
    raise UnsupportedModelError(
        f"{type(model).__name__}: returns something else when it is called again with the same input, in eval mode;"
        " an engine has no random numbers"
    )


@torch.no_grad()
def _answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list:
    return _copied(model(*inputs))


def _attributes(model: nn.Module) -> Iterator[tuple[str, list]]:
    """Snapshot of buffers and plain attributes by name."""
    for path, module in model.named_modules():
        for name, value in [*vars(module).items(), *module._buffers.items()]:
            if name not in _OWN:
                yield f"{path or 'self'}.{name}", _copied(value)


_OWN = frozenset(vars(nn.Module()))


def _copied(tree: object) -> list:
    return [t.detach().clone() if isinstance(t, Tensor) else t for t in pytree.tree_leaves(tree)]


def _same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        close = a.shape == b.shape and a.dtype == b.dtype
        return close and torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-9, equal_nan=True)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    if isinstance(a, bool | int | float | str) and isinstance(b, bool | int | float | str):
        return a == b or (a != a and b != b)
    return type(a) is type(b)  # objects of which nothing is known
