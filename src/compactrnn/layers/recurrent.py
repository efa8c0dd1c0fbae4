"""Recurrent layers of any cell."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._errors import check_positive, invalid
from ..cells.base import AbstractCell
from ..cells.declaration import check_declaration
from ..cells.projected import Projected
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .autocast import casts_in_vain, without_casts
from .run_layer import scan_layer
from .sequence import StateForm, check_dropout, projection_per_layer, run_stack, sizes_per_layer


class Recurrent(nn.Module):
    """Layers of any cell, called like `torch.nn.LSTM`: `output, states = layer(input, states)`.

    Layer l reads what layer l - 1 gives, of both directions where there are two. Shapes, with N sequences of T steps:
    input (T, N, input_size), or (N, T, input_size) with `batch_first`, or (T, input_size) without a batch, or a
    `PackedSequence`; output the same with the last layer's size times directions. States are one tensor (num_layers *
    directions, N, hidden_size) for each state of the cell (a tuple, if it has several); with a list of hidden sizes
    they are a tuple of (N, size of the layer) in the same order instead. A state that has a shape of its own, or is a
    delay line, stands flat in the last axis (`StateSpec`).

    With `proj_size`, a number or one for each layer, a layer gives a projection of its output, of that many numbers,
    which its own recurrence reads, too; `projection_weight` says how the matrix is stored. The first state is then this
    output, and others are the cell's own, of `hidden_size` numbers: see `compactrnn.cells.Projected`.

    Further keywords go to the cell; `layer_options`, one mapping for each layer, have more of them for the cells of
    that layer, such as a size that is not the same in all layers. `cells[layer][direction]` are the cells. With
    `layer.locked_dropout = True` dropout takes the same units at all steps of a sequence.

    >>> import torch
    >>> from compactrnn.cells import MGU
    >>> layer = Recurrent(MGU, 8, 16, num_layers=2, batch_first=True)
    >>> output, h_n = layer(torch.randn(4, 10, 8))
    >>> output.shape, h_n.shape
    (torch.Size([4, 10, 16]), torch.Size([2, 4, 16]))
    >>> output, (h_n, c_n) = Recurrent(MGU, 8, 16, proj_size=6)(torch.randn(10, 4, 8))
    >>> output.shape, h_n.shape, c_n.shape
    (torch.Size([10, 4, 6]), torch.Size([1, 4, 6]), torch.Size([1, 4, 16]))
    """

    def __init__(
        self,
        cell_class: type[AbstractCell],
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        projection_weight: WeightSpec = DENSE,
        proj_size: int | Sequence[int] = 0,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        layer_options: Sequence[Mapping[str, Any]] = (),
        **cell_options: Any,
    ):
        super().__init__()
        if not (isinstance(cell_class, type) and issubclass(cell_class, AbstractCell)):
            raise invalid("cell_class", got=repr(cell_class), expected="a cell class, as in compactrnn.cells")
        if isinstance(proj_size, list | tuple) and not isinstance(hidden_size, list | tuple):
            hidden_size = [hidden_size] * len(proj_size)  # pyright: ignore
        sizes, self.num_layers = sizes_per_layer(hidden_size, num_layers)
        projections = projection_per_layer(proj_size, sizes, projection_weight)
        per_layer = isinstance(hidden_size, list | tuple)
        self.cell_class = cell_class
        self.input_size = check_positive(input_size, "input_size")
        self.hidden_size: int | list[int] = sizes if per_layer else sizes[0]
        self.proj_size: int | list[int] = projections if per_layer and projections[0] else projections[0]
        self.batch_first = batch_first
        self.dropout = check_dropout(dropout, self.num_layers)
        self.locked_dropout = False
        self.bidirectional = bidirectional
        weights = {"input_weight": input_weight, "hidden_weight": hidden_weight}
        options = {name: spec for name, spec in weights.items() if spec != DENSE} | cell_options
        if layer_options and len(layer_options) != self.num_layers:
            expected = f"none, or {self.num_layers}, one for each layer"
            raise invalid("layer_options", got=f"{len(layer_options)} of them", expected=expected)
        each = [{**options, **own} for own in layer_options] or [options] * self.num_layers
        for options in each:
            _check_options(cell_class, options)
        self.cells = nn.ModuleList()
        width = input_size
        for size, projection, options in zip(sizes, projections, each, strict=True):
            row = [cell_class(width, size, **options) for _ in range(2 if bidirectional else 1)]
            if projection:
                row = [Projected(cell, projection, projection_weight) for cell in row]
            for cell in row:
                check_declaration(cell)
            self.cells.append(nn.ModuleList(row))
            width = sum(cell.output_size for cell in row)
        if len({row[0].outer_sizes() for row in self.rows()}) > 1:  # by options of layers of one hidden size
            self.hidden_size = sizes
            self.proj_size = projections if projections[0] else 0
        self.to(device=device, dtype=dtype)

    def rows(self) -> list[list[AbstractCell]]:
        return [list(row) for row in self.cells]  # pyright: ignore

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Outputs of the last layer at every step, and the last states of all layers."""
        if casts_in_vain(self):
            return without_casts(self, input, hx)
        return self._run(input, hx)

    def last(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Output of the last layer at the last step, (N, its size), and the last states of all layers.

        It is that of `forward`, to rounding. Where the last layer is of a cell that reaches the end of a sequence at
        once, such as `ParallelLMU`, its outputs at the other steps are not computed, which saves most of the work.

        >>> import torch
        >>> from compactrnn.cells import ParallelLMU
        >>> layer, x = Recurrent(ParallelLMU, 8, 16), torch.randn(10, 4, 8)
        >>> output, m_n = layer.last(x)
        >>> torch.allclose(output, layer(x)[0][-1], atol=1e-5)
        True

        Raises:
            ValueError: a `PackedSequence`; what `forward` raises.
        """
        if isinstance(input, PackedSequence):
            hint = "take the last steps of what the layer gives instead"
            raise invalid("Recurrent.last input", got="a PackedSequence", expected="a tensor", hint=hint)
        output, after = self(input, hx) if torch.is_autocast_enabled("cpu") else self._run(input, hx, last_only=True)
        return output.select(1 if self.batch_first and input.dim() == 3 else 0, -1), after

    def _run(self, input: Tensor | PackedSequence, hx: Any, last_only: bool = False) -> tuple[Any, Any]:
        rows = self.rows()
        form = StateForm(
            sizes=tuple(zip(*(row[0].outer_sizes() for row in rows), strict=True)),
            directions=len(rows[0]),
            per_layer=isinstance(self.hidden_size, list),
            initial=self._initial,
        )
        end = len(rows) - 1 if last_only else None
        return run_stack(
            self, form, input, hx, lambda number, *given: scan_layer(rows[number], *given, last_only=number == end)
        )

    def _initial(self, number: int, batch: int, like: Tensor) -> list[Tensor]:
        row = [cell.initial_states(batch, like)[: len(cell.outer_states())] for cell in self.rows()[number]]
        return [torch.stack(kind) for kind in zip(*row, strict=True)]

    def reset_parameters(self) -> None:
        for row in self.rows():
            for cell in row:
                cell.reset_parameters()

    def extra_repr(self) -> str:
        parts = [self.cell_class.__name__, str(self.input_size), str(self.hidden_size)]
        plain = {"num_layers": 1, "proj_size": 0, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        return ", ".join(parts + [f"{k}={getattr(self, k)}" for k, v in plain.items() if getattr(self, k) != v])


def _check_options(cell_class: type[AbstractCell], options: dict[str, Any]) -> None:
    """Raise `ValueError` for options that the cell does not take."""
    parameters = inspect.signature(cell_class).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters][2:]  # after the two sizes
    for name, value in options.items():
        if name not in known:
            raise invalid(f"options of {cell_class.__name__}", got=f"{name}={value!r}", expected=", ".join(known))
