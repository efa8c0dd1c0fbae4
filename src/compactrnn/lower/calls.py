"""Calls of a model's recurrent layers: which inputs they get."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._errors import UnsupportedModelError
from ..layers import is_recurrent

Reading = tuple[int | None, ...]  # an axis of each input, or None


class Call(NamedTuple):
    """Sizes in one call of a recurrent layer; `batch` is None without a batch axis. `both`: it is bidirectional."""

    layer: str
    steps: int
    batch: int | None
    both: bool = False


@torch.no_grad()
def calls(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Call]:
    """Run the model and record the calls of its recurrent layers."""
    seen: list[Call] = []

    def note(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["input"]
        if isinstance(x, PackedSequence):
            raise UnsupportedModelError(
                f"{name}: gets a PackedSequence, made from lengths inside forward. An engine runs one sequence of its"
                " own length, without padding: name the argument that has them, pack(..., lengths=['lengths'])"
            )
        axis = 1 if module.batch_first and x.dim() == 3 else 0
        both = bool(getattr(module, "bidirectional", False))
        seen.append(Call(name, x.shape[axis], x.shape[1 - axis] if x.dim() == 3 else None, both))

    hooks = [
        m.register_forward_pre_hook(lambda m, a, k, n=n: note(called(n, m), m, a, k), with_kwargs=True)
        for n, m in model.named_modules()
        if is_recurrent(m)
    ]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def resized(inputs: tuple[Tensor, ...], axes: Reading, size: int) -> tuple[Tensor, ...]:
    """`inputs`, each cut or repeated to `size` along its axis of `axes`."""

    def fit(x: Tensor, axis: int | None) -> Tensor:
        return x if axis is None else x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])

    return tuple(fit(x, axis) for x, axis in zip(inputs, axes, strict=True))


def input_names(model: nn.Module, count: int) -> list[str]:
    """The names of the first `count` arguments of the model's `forward`."""
    names = []
    for p in inspect.signature(model.forward).parameters.values():
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}_{i}" for i in range(count - len(names))]
    return names[:count]


def axes_text(reading: Iterable[int | None], names: list[str]) -> str:
    """The axes as text, for messages."""
    found = [f"axis {a} of {n}" for a, n in zip(reading, names, strict=True) if a is not None]
    return ", ".join(found) or "missing"


def called(name: str, module: nn.Module) -> str:
    """The name of a layer; of a model that is one, its class."""
    return name or type(module).__name__


def reason(error: BaseException) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def fails(kind: str, error: BaseException) -> UnsupportedModelError:
    """The error for a model of class `kind` that cannot be called with its example."""
    converts = (
        ". It is packed in float32: let its code convert to the type of a weight, x.to(self.fc.weight.dtype), and not"
        " to a certain one"
    )
    return UnsupportedModelError(
        f"{kind}: fails on example_inputs ({reason(error)}){converts if 'dtype' in str(error) else ''}"
    )
