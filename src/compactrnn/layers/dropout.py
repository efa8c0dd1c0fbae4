"""Dropout of whole sequences, and of the recurrent weights."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from .._errors import invalid
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from .inspect import cells_of


class LockedDropout(nn.Dropout):
    """`torch.nn.Dropout` that drops the same units at all steps of a sequence: (batch, time, n) -> the same shape.

    >>> import torch
    >>> y = LockedDropout(0.5)(torch.ones(2, 3, 8))
    >>> bool((y == y[:, :1]).all())
    True

    Gal, Ghahramani: A theoretically grounded application of dropout in recurrent neural networks, 2016.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p):
            return input
        return input * nn.functional.dropout(input.new_ones(len(input), 1, input.shape[-1]), self.p, self.training)


def with_weight_dropout(recurrent: nn.Module, p: float, *inputs: Any) -> Any:
    """`recurrent(*inputs)`, of whose hidden matrices a share `p` of the entries is zero, the same ones at all steps.

    Each W_hh is M * W_hh / (1 - p), where an entry of M is 0 with probability p and else 1; M is drawn once for all
    sequences of the call. Input matrices, projections and biases stay whole. Raises `ValueError` if a hidden matrix is
    not dense, or the cell has none.

    >>> import torch
    >>> x, layer = torch.ones(5, 2, 3), nn.GRU(3, 4, bias=False)
    >>> output, h_n = with_weight_dropout(layer, 0.5, x)
    >>> torch.equal(output[0], layer(x)[0][0]), torch.equal(h_n, layer(x)[1])  # the first step reads zeros
    (True, False)

    Merity, Keskar, Socher: Regularizing and optimizing LSTM language models, 2018, after Wan et al.: Regularization of
    neural networks using DropConnect, 2013.
    """
    names = {id(parameter): name for name, parameter in recurrent.named_parameters()}
    dropped = {names[id(weight)]: nn.functional.dropout(weight, p) for weight in hidden_matrices(recurrent)}
    return functional_call(recurrent, dropped, inputs)


def hidden_matrices(recurrent: nn.Module) -> list[nn.Parameter]:
    """The matrices that weight dropout acts on; raises `ValueError` where there is none, or one that is not dense."""
    found = []
    if any(parametrize.is_parametrized(module) for module in recurrent.modules()):
        hint = "set it to 0.0 where a pruner's gates are at work"
        raise invalid("weight dropout", got="parametrized weights", expected="parameters", hint=hint)
    for cell in (cell for row in cells_of(recurrent) for cell in row):
        for name in cell.weight_names():
            part = getattr(cell, name)
            if not isinstance(part, AbstractWeight) or name in (*cell.reads_input, "projection"):
                continue
            if not isinstance(part, DenseWeight):
                raise invalid("weight dropout", got=f"{name} = {part.spec}", expected="dense hidden matrices")
            found.append(part.weight)
    if not found:
        kind = cells_of(recurrent)[0][0].title
        raise invalid("weight dropout", got=f"{kind}, which has no hidden matrix", expected="none of it, 0.0")
    return found
