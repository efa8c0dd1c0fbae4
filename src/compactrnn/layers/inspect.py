"""The cells of any recurrent layer."""

from __future__ import annotations

from torch import nn

from ..cells.base import AbstractCell
from .bind import PARTS, bind
from .fused import AbstractFused
from .recurrent import Recurrent

_FORWARDS = {nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward, AbstractFused.forward}
_CELL_FORWARDS = {nn.LSTMCell.forward, nn.GRUCell.forward, nn.RNNCell.forward}


def is_recurrent(module: nn.Module) -> bool:
    """Whether `module` is a recurrent layer: `torch.nn.LSTM`, `GRU`, `RNN`, a subclass that runs as they do, or ours.

    A subclass with a `forward` of its own is not: nobody knows what it does.
    """
    if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        return type(module).forward in _FORWARDS
    return isinstance(module, Recurrent)


def is_cell(module: nn.Module) -> bool:
    """Whether `module` is one of torch's cells, or a subclass that runs as they do.

    >>> is_cell(nn.LSTMCell(2, 3)), is_cell(nn.LSTM(2, 3))
    (True, False)
    """
    return isinstance(module, nn.RNNCellBase) and type(module).forward in _CELL_FORWARDS


def has_cells(module: nn.Module) -> bool:
    """Whether `module` is a recurrent layer, or one of torch's cells."""
    return is_recurrent(module) or is_cell(module)


def cells_of(module: nn.Module) -> list[list[AbstractCell]]:
    """The cells of a recurrent layer, `[layer][direction]`, on the layer's live parameters; one for a cell of torch.

    Nothing is copied: `cells_of(lstm)[0][0].hidden.weight is lstm.weight_hh_l0`. What is put in the place of a part of
    a cell does not reach the layer.

    >>> from torch import nn
    >>> lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    >>> [[cell.input_size for cell in row] for row in cells_of(lstm)]
    [[8, 8], [32, 32]]
    """
    if isinstance(module, Recurrent):
        return module.rows()
    if is_cell(module):
        return [[bind(module, "")]]
    if not is_recurrent(module):
        raise TypeError(
            f"cells_of: expected an nn.LSTM, nn.GRU or nn.RNN whose forward is torch's, got a {type(module).__name__}"
            " or a compactrnn layer"
        )
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    return [[bind(module, f"_l{i}{suffix}") for suffix in suffixes] for i in range(module.num_layers)]  # pyright: ignore


def part_name(module: nn.Module, layer: int, direction: int, part: str) -> str:
    """The name of a cell's part in its recurrent layer.

    >>> from torch import nn
    >>> part_name(nn.LSTM(8, 16, bidirectional=True), 0, 1, "hidden")
    'weight_hh_l0_reverse'
    """
    if isinstance(module, Recurrent):
        return f"cells.{layer}.{direction}.{part}"
    name = {own: theirs for theirs, own in PARTS.items()}[part]
    if is_cell(module):
        return name
    return f"{name}_l{layer}" + ("_reverse" if direction else "")
