"""One parameter or weight in several places of a model."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .._errors import invalid
from ..weights.base import AbstractWeight
from .inspect import is_recurrent
from .recurrent import Recurrent

M = TypeVar("M", bound=nn.Module)


def tie_(model: M, first: str, *others: str) -> M:
    """Put the part called `first` in the place of `others`: a parameter, a factor of a weight, or a whole weight.

    It is then one for training, optimizers, conversion, pruning and the file: counted once, stored once, with the sum
    of the gradients of all places. Tie before an optimizer is made. To load parameters into a model, tie it first.

    >>> import compactrnn as cr
    >>> low = cr.LowRank(rank=4)
    >>> lstm = cr.LSTM(8, 16, 2, input_weight=low, hidden_weight=low)
    >>> before = sum(p.numel() for p in lstm.parameters())
    >>> _ = tie_(lstm, "weight_hh_l0.right", "weight_ih_l1.right")  # both read what layer 0 gives
    >>> before - sum(p.numel() for p in lstm.parameters())
    64

    Raises:
        ValueError: no part of that name, a parametrized one, or parts of different shapes or kinds; nothing is changed.
    """
    part = _part(model, first)
    for name in others:
        other = _part(model, name)
        if _kind(other) != _kind(part):
            raise invalid(name, got=_kind(other), expected=f"as {first}: {_kind(part)}")
    for name in others:
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, part)
    return model


def tie_directions_(layer: M) -> M:
    """Let both directions of recurrent layers have the parameters and weights of the one that reads forwards.

    A layer then reads a sequence and its reverse as one network, with half the parameters; what reads its outputs tells
    the directions apart. Returns `layer`. Schiff et al. (2024) tie the projections of a bidirectional Mamba so.

    >>> import compactrnn as cr
    >>> gru = tie_directions_(cr.GRU(8, 16, bidirectional=True))
    >>> gru.weight_hh_l0_reverse is gru.weight_hh_l0
    True

    Raises:
        ValueError: no recurrent layers of two directions, or what `tie_` raises.
    """
    if not is_recurrent(layer) or not layer.bidirectional:
        got = f"a {type(layer).__name__}" + (" of one direction" if is_recurrent(layer) else "")
        raise invalid("tie_directions_", got=got, expected="recurrent layers with bidirectional=True")
    if isinstance(layer, Recurrent):
        cells = [(f"cells.{number}", row[0]) for number, row in enumerate(layer.rows())]
        pairs = [(f"{name}.0.{part}", f"{name}.1.{part}") for name, cell in cells for part in _parts(cell)]
    else:
        pairs = [(name, f"{name}_reverse") for name in _parts(layer) if not name.endswith("_reverse")]
    for forwards, backwards in pairs:
        tie_(layer, forwards, backwards)
    return layer


def _parts(module: nn.Module) -> list[str]:
    """The names of whole weights, and of the parameters in none of them."""
    weights: list[str] = []
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, AbstractWeight) and not any(name.startswith(f"{weight}.") for weight in weights):
            weights.append(name)
    inner = tuple(f"{weight}." for weight in weights)
    own = [name for name, _ in module.named_parameters(remove_duplicate=False) if not name.startswith(inner)]
    return [*weights, *own]


def _part(model: nn.Module, name: str) -> nn.Parameter | AbstractWeight:
    path, _, attribute = name.rpartition(".")
    owner = dict(model.named_modules(remove_duplicate=False)).get(path)
    found = getattr(owner, attribute, None)
    if parametrize.is_parametrized(owner, attribute) if owner is not None else False:
        raise invalid(name, got="a parametrized tensor", expected="a parameter", hint="remove_parametrizations first")
    if not isinstance(found, nn.Parameter | AbstractWeight):
        got = f"{type(model).__name__} has no such part" if found is None else type(found).__name__
        raise invalid(name, got=got, expected="a parameter or a weight, by its name in named_parameters()")
    return found


def _kind(part: nn.Parameter | AbstractWeight) -> str:
    if isinstance(part, nn.Parameter):
        return f"{part.dtype} of shape {tuple(part.shape)}"
    return f"{type(part).__name__} of {part.out_features}x{part.in_features}, {part.gates} gates, {part.spec}"
