"""Tied parameters, which stay tied through surgery."""

from __future__ import annotations

import torch
from torch import nn

from ..graph.carriers import identity
from ..weights.base import AbstractWeight


class CannotCut(ValueError):
    """Different columns of one tensor would have to be cut."""


class Sharing:
    """Which names of `model` are one parameter: single parameters, factors of weights, and whole weights.

    A weight that cannot be cut in its structure becomes one matrix: its parameters are gone then, and what was a whole
    weight in several places is one matrix in all of them.
    """

    def __init__(self, model: nn.Module):
        parameters: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameters.setdefault(id(parameter), []).append(name)
        weights: dict[tuple[int, ...], list[str]] = {}
        inner: tuple[str, ...] = ()
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, AbstractWeight) and not name.startswith(inner):
                weights.setdefault(identity(module), []).append(name)
                inner = (*inner, f"{name}.")
        self.names = [names for names in (*parameters.values(), *weights.values()) if len(names) > 1]

    def restore_(self, model: nn.Module) -> None:
        """Make the names of each parameter one parameter again, after each has been cut.

        Raises:
            CannotCut: they have been cut differently.
        """
        for names in self.names:
            have = dict(model.named_parameters(remove_duplicate=False))
            # a dense weight of a cell has its matrix under a name of its own
            now = (name if name in have else f"{name}.weight" for name in names)
            first, *others = [name for name in now if name in have] or [""]
            for name in others:
                one, other = have[first], have[name]
                if other.shape != one.shape or not torch.equal(other.nan_to_num(), one.nan_to_num()):
                    raise CannotCut(f"{first} and {name} are one parameter, of which different columns would be cut")
                path, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(path), attribute, one)
