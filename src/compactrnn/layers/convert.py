"""Conversion of torch's recurrent layers to those of this package."""

from __future__ import annotations

import copy
import functools
from typing import TypeVar

from torch import nn

from .._errors import UnsupportedModelError, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .bind import GATES
from .fused import AbstractFused
from .inspect import cells_of
from .torch_layers import GRU, LSTM, RNN

Module = TypeVar("Module", bound=nn.Module)

_HEIRS: dict[type, type[AbstractFused]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
# what torch's own forward calls, and ours would not
_FORWARD = {
    "__call__",
    "forward",
    "check_input",
    "check_hidden_size",
    "check_forward_args",
    "get_expected_hidden_size",
    "get_expected_cell_size",
    "permute_hidden",
}
_IGNORED = {*vars(type("Empty", (), {})), "__constants__", "__jit_unused_properties__", "__parameters__"}
_IGNORED |= {"__firstlineno__", "__static_attributes__", "__qualname__"}
_UNCHANGED = {"reset_parameters", "extra_repr", "__init__", "__annotations__"}


def convert_(model: Module) -> Module:
    """Replace the class of every `torch.nn.LSTM`, `GRU` and `RNN` in `model` by this package's subclass, in place.

    A module stays the same object with the same parameters, hooks, mode and device, only its class changes: what shares
    or holds it (optimizers too) is unaffected, and a subclass keeps its methods and attributes. `nn.LSTMCell` and
    similar are left as they are: they hold one step. If one module cannot be converted, none is.

    >>> from torch import nn
    >>> model = convert_(nn.Sequential(nn.LSTM(4, 8)))
    >>> type(model[0]).__module__
    'compactrnn.layers.torch_layers'

    Raises:
        UnsupportedModelError: a subclass with a `forward` of its own, a parametrized or a quantized layer.
    """
    found = [
        (name, module, subclass) for name, module in model.named_modules() if (subclass := _subclass_of(name, module))
    ]
    for _, module, subclass in found:
        module.__class__ = subclass  # pyright: ignore
    return model


def from_torch(
    module: nn.LSTM | nn.GRU | nn.RNN,
    *,
    input_weight: WeightSpec = DENSE,
    hidden_weight: WeightSpec = DENSE,
    projection_weight: WeightSpec = DENSE,
) -> AbstractFused:
    """A copy of a `torch.nn.LSTM`, `GRU` or `RNN` as this package's subclass; `to_torch` is the inverse.

    Matrices get the weights that are named, set from what they are by `from_dense_`: low rank by a singular value
    decomposition. `cr.factorize_` does it for the layers of a whole model, and chooses ranks.

    >>> import torch
    >>> from torch import nn
    >>> theirs = nn.GRU(4, 8, num_layers=2).eval()
    >>> ours = from_torch(theirs)
    >>> x = torch.randn(5, 3, 4)
    >>> torch.equal(ours(x)[0], theirs(x)[0])
    True
    >>> import compactrnn as cr
    >>> from_torch(theirs, hidden_weight=cr.LowRank(rank=2)).weight_hh_l1
    LowRankWeight(24x8, LowRank(rank=2))

    Raises:
        UnsupportedModelError: what cannot be carried over; see `convert_`.
        ValueError: a weight that does not fit the sizes.
    """
    _subclass_of("", module)
    if not isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        raise TypeError(f"from_torch: expected an nn.LSTM, nn.GRU or nn.RNN, got a {type(module).__name__}")
    layer: AbstractFused = convert_(copy.deepcopy(module))  # pyright: ignore
    specs = {"weight_ih": input_weight, "weight_hh": hidden_weight, "weight_hr": projection_weight}
    for name, matrix in list(layer.named_parameters(recurse=False)):
        spec = specs.get(name.partition("_l")[0], DENSE)
        if not isinstance(spec, WeightSpec):
            raise invalid("weight", got=repr(spec), expected="a weight, such as LowRank(rank=8)")
        if spec != DENSE:
            gates = 1 if name.startswith("weight_hr") else GATES[layer.mode]
            rows, columns = matrix.shape
            weight = spec.build(rows, columns, gates).to(matrix).from_dense_(matrix.detach())
            layer.put(name, weight.requires_grad_(matrix.requires_grad))
    layer.refresh()
    layer.input_weight, layer.hidden_weight, layer.projection_weight = input_weight, hidden_weight, projection_weight
    return layer


def _subclass_of(name: str, module: nn.Module) -> type[AbstractFused] | None:
    kind = type(module)
    where = f"{name or 'the module'} ({kind.__name__})"
    if isinstance(module, AbstractFused):
        return None
    base = next((b for b in _HEIRS if isinstance(module, b)), None)
    if base is None:
        if kind.__module__.startswith("torch.ao.nn") and kind.__name__ in ("LSTM", "GRU", "RNN"):
            raise UnsupportedModelError(
                f"{where} is quantized; convert the float model and pack it with weights='int8'"
            )
        return None
    own = {n for c in kind.__mro__[: kind.__mro__.index(base)] for n in vars(c)}
    if changed := own & _FORWARD:
        raise UnsupportedModelError(
            f"{where} is a subclass of nn.{base.__name__} with its own {', '.join(sorted(changed))};"
            f" use a plain nn.{base.__name__} inside it"
        )
    cells_of(module)  # refuses what is computed from other parameters
    ours = _HEIRS[base]
    return _joined(kind, ours) if own - _IGNORED - _UNCHANGED else ours


@functools.cache
def _joined(kind: type, ours: type[AbstractFused]) -> type[AbstractFused]:
    """A subclass that combines a user's methods with this package's layer."""
    return type(kind.__name__, (kind, ours), {"__module__": kind.__module__, "__doc__": kind.__doc__})
