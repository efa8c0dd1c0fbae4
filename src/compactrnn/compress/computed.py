"""Parametrized tensors (`torch.nn.utils.parametrize`), with factors that a pruner sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._errors import UnsupportedModelError
from ..graph.plain import computed_by_hook
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from ..weights.masked import MaskedWeight
from .gates import in_eval_mode, without_gates


class Factors(nn.Module):
    """`W = factors * V`: the last of the parametrizations of a tensor; one factor for each entry along each axis.

    `axes` are those that have been scaled: before that their factors are ones, and not worth a product in each step.
    """

    def __init__(self, like: Tensor):
        super().__init__()
        for axis, size in enumerate(like.shape):
            shape = [size if d == axis else 1 for d in range(like.dim())]
            self.register_buffer(f"factors_{axis}", like.new_ones(shape))
        self.axes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = x * getattr(self, f"factors_{axis}")
        return x

    def scale_(self, axis: int, factors: Tensor) -> None:
        """Multiply those along an axis."""
        own = getattr(self, f"factors_{axis}")
        own.mul_(factors.view_as(own))
        self.axes = sorted({*self.axes, axis})

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.axes = [axis for axis, factors in enumerate(self.buffers()) if bool((factors != 1).any())]


class Computed:
    """The parametrized tensor `name` of `module`: the model reads its value and trains the originals."""

    def __init__(self, module: nn.Module, name: str):
        self.module, self.name = module, name
        self.chain: Any = module.parametrizations[name]  # pyright: ignore
        if not isinstance(self.chain[-1], Factors):
            parametrize.register_parametrization(module, name, Factors(self.value().detach()), unsafe=True)

    def parameters(self) -> list[nn.Parameter]:
        """The originals, without those of gates."""
        return without_gates(self.chain)

    def value(self) -> Tensor:
        """What the module reads; spectral norm's estimate stays as it is."""
        with in_eval_mode(self.chain):
            return self.chain()

    def scale_(self, axis: int, factors: Tensor) -> None:
        """Multiply the slices along `axis`."""
        self.chain[-1].scale_(axis, factors)


Stored = AbstractWeight | nn.Parameter | Computed


def stored(module: nn.Module, path: str) -> Stored:
    """The weight, parameter or parametrized tensor that `module` has at `path`.

    Raises:
        UnsupportedModelError: they are computed in a way that cannot be scaled.
    """
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    if parametrize.is_parametrized(owner, name):
        return Computed(owner, name)
    value = getattr(owner, name)
    if isinstance(value, DenseWeight):
        return stored(value, "weight")
    plain = value.inner if isinstance(value, MaskedWeight) else value  # its masks may be gated
    structured = isinstance(plain, AbstractWeight) and any(map(parametrize.is_parametrized, plain.modules()))
    if isinstance(value, AbstractWeight | nn.Parameter) and not structured:
        return value
    what = "a part of it is parametrized" if structured else "it is not a parameter but computed from others"
    if computed_by_hook(owner, name):
        what = "a hook computes it before each call (torch.nn.utils.weight_norm, spectral_norm or prune)"
    raise UnsupportedModelError(
        f"{type(owner).__name__}.{path}: {what}; make it a parameter first (remove_weight_norm, remove_spectral_norm,"
        " prune.remove or parametrize.remove_parametrizations of torch.nn.utils), or use weight_norm, spectral_norm or"
        " orthogonal of torch.nn.utils.parametrizations, which are followed"
    )


def shape_of(held: Stored) -> tuple[int, ...]:
    """The shape of the matrix or tensor."""
    if isinstance(held, AbstractWeight):
        return held.out_features, held.in_features
    return tuple((held.value() if isinstance(held, Computed) else held).shape)
