"""`torch.nn.LSTM`, `GRU` and `RNN` with a size per layer and any weight structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .fused import AbstractFused


class LSTM(AbstractFused, nn.LSTM):
    """A `torch.nn.LSTM` with a hidden size per layer and any weight structure.

    Arguments, call, results, parameter names and initial numbers are torch's; the equations stand at
    `compactrnn.cells.LSTM`. Beyond torch: `hidden_size` (and `proj_size`) may be a list, one size per layer; each state
    is then a tuple of tensors (N, size of the layer), one per layer and direction, instead of one tensor
    (num_layers * directions, N, hidden_size), so that `h_n[-1]` means the same. `input_weight`, `hidden_weight` and
    `projection_weight` say how the matrices that are applied to the input and to the last output, and the projection of
    `proj_size`, are stored.

    >>> import torch
    >>> from compactrnn.weights import LowRank
    >>> lstm = LSTM(8, [16, 12], batch_first=True, hidden_weight=LowRank(rank=4))
    >>> output, (h_n, c_n) = lstm(torch.randn(2, 5, 8))
    >>> output.shape, [tuple(h.shape) for h in h_n]
    (torch.Size([2, 5, 12]), [(2, 16), (2, 12)])
    >>> sorted(name for name, _ in lstm.named_parameters())[-2:]
    ['weight_ih_l0', 'weight_ih_l1']
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int | Sequence[int] = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        projection_weight: WeightSpec = DENSE,
    ):
        rest = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        self._start("LSTM", input_size, hidden_size, *rest, input_weight, hidden_weight, projection_weight)


class GRU(AbstractFused, nn.GRU):
    """A `torch.nn.GRU` with a hidden size per layer and any weight structure; see `LSTM`.

    The equations stand at `compactrnn.cells.GRU`.

    On the CPU it is trained in the native loop, faster than torch's; results differ from torch's by rounding.

    >>> import torch
    >>> output, h_n = GRU(8, 16, num_layers=2)(torch.randn(5, 2, 8))
    >>> output.shape, h_n.shape
    (torch.Size([5, 2, 16]), torch.Size([2, 2, 16]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
    ):
        rest = (num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)
        self._start("GRU", input_size, hidden_size, *rest, input_weight, hidden_weight)


class RNN(AbstractFused, nn.RNN):
    """A `torch.nn.RNN` with a hidden size per layer and any weight structure; see `LSTM`.

    The equation stands at `compactrnn.cells.Elman`; `nonlinearity` is "tanh" or "relu".

    On the CPU it is trained in the native loop, faster than torch's; results differ from torch's by rounding.

    >>> import torch
    >>> output, h_n = RNN(8, [16, 4], nonlinearity="relu")(torch.randn(5, 2, 8))
    >>> output.shape, h_n[-1].shape
    (torch.Size([5, 2, 4]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
    ):
        modes = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}
        if nonlinearity not in modes:
            raise invalid("nonlinearity", got=repr(nonlinearity), expected="'tanh' or 'relu'")
        rest = (num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)
        self._start(modes[nonlinearity], input_size, hidden_size, *rest, input_weight, hidden_weight)
        self.nonlinearity = nonlinearity
