"""A sequence classifier or regressor: recurrent layers and a linear output layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import cells, layers
from .._bounds import STRICT, Flag, Layers, Option, Projections, ShareBelow1, Word
from .._errors import invalid
from ..cells.base import AbstractCell
from .base import AbstractModel, weight_specs
from .named_weights import give_weights_, weight_tables
from .step_norm import StepNorm
from .steps import FullSteps, PackedSteps


@dataclass(frozen=True)
class SequenceModelOptions:
    """Sizes and kinds; `input_weight` and `hidden_weight` are tables such as `{kind = "LowRank", rank = 16}`.

    `weights` has such tables by name, for single matrices: `"layers.1.weight_ih_l0"`, `"output"`, or a pattern.

    `cell` is the name of a cell of compactrnn; `cell_options` are given to it in every layer, `last_cell_options` to
    that of the last layer too; "none" in them is None, for which TOML has no word. `dropout` follows each layer and
    drops the same units at every step of a sequence. With `bidirectional` each layer reads in both directions, with so
    many units in each: for models that answer at every step. `projection` has the sizes of the layers' projections,
    which their recurrence and the next layer read (`proj_size`), 0 for a layer without; an empty one has none.
    """

    adjustable: ClassVar = ("dropout",)
    hidden: Layers = (128, 128)
    projection: Projections = ()
    cell: Word = "LSTM"
    norm: Literal["batch", "none"] = "none"
    residual: Flag = False
    bidirectional: Flag = False
    dropout: ShareBelow1 = 0.0
    cell_options: Mapping[str, Option] = field(default_factory=dict)
    last_cell_options: Mapping[str, Option] = field(default_factory=dict)
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    __pydantic_config__ = STRICT


class SequenceModel(AbstractModel):
    """A stack of recurrent layers, and a linear map of what the last one gives at the last step, or at every step.

        x_{l+1} = dropout(norm(layer_l(x_l)) [+ x_l, if `residual` and as wide]),   output = V x_L(T) + b

    (batch, time, inputs) -> (batch, outputs), or with `every_step` (batch, time, outputs). With `lengths`, int64
    (batch,), sequence i ends after `lengths[i]` steps; the padding after it is not read and is in no statistics of a
    norm. Inside, time comes first: sequences whose memory has it first, such as
    `torch.randn(time, batch, inputs).transpose(0, 1)`, are not copied.

    >>> model = SequenceModel(2, 10, SequenceModelOptions(hidden=(16, 12), cell="GRU")).eval()
    >>> x = torch.randn(4, 30, 2)
    >>> model(x).shape
    torch.Size([4, 10])
    >>> torch.allclose(model(x, torch.tensor([30, 7, 1, 30]))[1], model(x[1:2, :7])[0], atol=1e-6)
    True
    """

    def __init__(self, inputs: int, outputs: int, options: SequenceModelOptions, every_step: bool = False):
        super().__init__()
        sizes = list(options.hidden)
        if not sizes:
            raise invalid("model.hidden", got="no layer", expected="a size per layer")
        projections = list(options.projection) or [0] * len(sizes)
        if len(projections) != len(sizes):
            raise invalid("model.projection", got=projections, expected=f"none, or {len(sizes)} sizes as in hidden")
        outputs_of = [p or n for p, n in zip(projections, sizes, strict=True)]
        if options.residual and len(set(outputs_of)) > 1:
            raise invalid("model.residual", got=f"layers of {outputs_of} units", expected="equal sizes")
        if options.bidirectional and not every_step:
            raise invalid("model.bidirectional", got="true", expected="false for a model that answers at the last step")
        last, directions = len(sizes) - 1, 2 if options.bidirectional else 1
        widths = [size * directions for size in outputs_of]
        self.layers = nn.ModuleList()
        for n, (width, size, projection) in enumerate(zip([inputs, *widths], sizes, projections, strict=False)):
            own = {**options.cell_options, **(options.last_cell_options if n == last else {})}
            self.layers.append(_layer(options, width, size, projection, own))
        self.norms = nn.ModuleList(StepNorm(n) if options.norm == "batch" else nn.Identity() for n in widths)
        self.residual, self.dropout, self.every_step = options.residual, options.dropout, every_step
        self.output = nn.Linear(widths[-1], outputs)
        self.options = options
        give_weights_(self, options.weights)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs for a batch of sequences."""
        steps = FullSteps(x) if lengths is None else PackedSteps(x, lengths)
        count, x = len(x), steps.data
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = steps.run(layer, x)
            at_last = number == len(self.layers) - 1 and not self.every_step
            if at_last:
                x, y = steps.last(x), steps.last(y)
            y = norm(y)
            x = x + y if self.residual and number else y
            if self.training and self.dropout:
                kept = nn.functional.dropout(x.new_ones(count, x.shape[-1]), self.dropout)  # Gal, Ghahramani, 2016
                x = x * (kept if at_last else steps.at_every_step(kept))
        outputs = self.output(x)
        return steps.padded(outputs) if self.every_step else outputs

    @torch.no_grad()
    def update_statistics(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Batch-norm statistics for evaluation: their means over `batches`, arguments of `forward`, for these weights.

        Running averages are of weights that have changed since, and a long recurrence magnifies the difference (Wu and
        Johnson, "Rethinking Batch in BatchNorm", 2021, section 3).
        """
        norms = [norm for norm in self.norms if isinstance(norm, StepNorm)]
        if not norms:
            return
        before = self.training, self.dropout, [norm.momentum for norm in norms]
        self.train()
        self.dropout = 0.0
        for number, arguments in enumerate(batches):
            for norm in norms:
                norm.momentum = 1 / (number + 1)
            self(*arguments)
        training, self.dropout, momenta = before
        self.train(training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def adjust(self, options: SequenceModelOptions) -> None:
        """Use the dropout probability of `options` from now on."""
        self.dropout = options.dropout

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        return tuple(_only(layer.hidden_size) for layer in self.layers)

    def size_options(self) -> dict[str, Any]:
        projections = tuple(_only(layer.proj_size) for layer in self.layers)
        sizes = {"hidden": self.layer_sizes(), "projection": projections if any(projections) else ()}
        return {**sizes, "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return sum(p.numel() for p in self.layers.parameters())


def _layer(
    options: SequenceModelOptions, inputs: int, size: int, projection: int, cell_options: Mapping[str, Any]
) -> nn.Module:
    specs: dict[str, Any] = {**weight_specs(options), **({"bidirectional": True} if options.bidirectional else {})}
    cell_options = {name: None if value == "none" else value for name, value in cell_options.items()}
    if projection:
        specs["proj_size"] = projection
    fused = {"LSTM": layers.LSTM, **({} if projection else {"GRU": layers.GRU, "RNN": layers.RNN})}.get(options.cell)
    try:
        if fused is not None:
            if projection >= size:  # which torch refuses, but for sizes per layer; pruning may leave such a layer
                return fused(inputs, [size], **{**specs, "proj_size": [projection]}, **cell_options)
            return fused(inputs, size, **specs, **cell_options)
        return layers.Recurrent(_cell(options.cell), inputs, size, **specs, **cell_options)
    except (TypeError, AttributeError, KeyError, RuntimeError, OverflowError) as error:
        raise invalid(
            "model.cell_options", got=dict(cell_options), expected=f"options of {options.cell} ({error})"
        ) from error


def _cell(name: str) -> type[AbstractCell]:
    found = getattr(cells, name, None)
    if not (isinstance(found, type) and issubclass(found, AbstractCell)):
        raise invalid("model.cell", got=repr(name), expected="the name of a cell of compactrnn, such as LSTM or MGU")
    return found


def _only(sizes: Any) -> int:
    """The size of a module with one layer, which may stand in a list."""
    return sizes[0] if isinstance(sizes, list) else sizes
