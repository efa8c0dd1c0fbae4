"""Parameters that several modules hold: one before a cut, one after it."""

from __future__ import annotations

import torch
from torch import nn


class CannotCut(ValueError):
    """Different columns of one tensor would have to be cut."""


def shared_parameters(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has more than one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def share_(model: nn.Module, shared: list[list[str]]) -> None:
    """Make each group of names one parameter again; its copies have been cut one by one.

    Raises:
        CannotCut: they have been cut differently.
    """
    for names in shared:
        first, *others = dict.fromkeys(found for name in names if (found := _stored(model, name)) is not None)
        one = model.get_parameter(first)
        for name in others:
            other = model.get_parameter(name)
            if other.shape != one.shape or not torch.equal(other.nan_to_num(), one.nan_to_num()):
                raise CannotCut(f"{first} and {name} are one parameter, of which different columns would be cut")
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, one)


def _stored(model: nn.Module, name: str) -> str | None:
    """Where the parameter is now: a weight of some structure, which cannot be cut, has become one matrix."""
    known = dict(model.named_parameters(remove_duplicate=False))
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None
