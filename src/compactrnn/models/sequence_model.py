"""A sequence classifier or regressor: recurrent layers and a linear output layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .._bounds import STRICT, Flag, Layers, Option, Projections, ShareBelow1, Word
from .._errors import invalid
from ..layers import initial_states, tie_directions_
from .base import AbstractModel
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import (
    check_layers,
    delta_option,
    give_thresholds_,
    layer_options,
    output_size,
    recurrent_layers,
)
from .step_norm import StepNorm
from .steps import FullSteps, PackedSteps


@dataclass(frozen=True)
class SequenceModelOptions:
    """Sizes and kinds; `input_weight` and `hidden_weight` are tables such as `{kind = "LowRank", rank = 16}`.

    `weights` has such tables by name, for single matrices: `"layers.1.weight_ih_l0"`, `"output"`, or a pattern.

    `cell` is the name of a cell of compactrnn; `cell_options` are given to it in every layer, `last_cell_options` to
    that of the last layer too, and `layer_options`, one table for each layer, to those of one layer; "none" in them is
    None, for which TOML has no word. `dropout` follows each layer and
    drops the same units at every step of a sequence. With `bidirectional` each layer reads in both directions, with so
    many units in each, for models that answer at every step or by the mean of all; "tied" is one network that reads in
    both (`tie_directions_`). `projection` has the sizes of the layers' projections,
    which their recurrence and the next layer read (`proj_size`), 0 for a layer without; an empty one has none. With
    `delta` the recurrent layers have thresholds (`DeltaCell`), zeros at first, as phases with `Delta` leave them.
    """

    adjustable: ClassVar = ("dropout",)
    hidden: Layers = (128, 128)
    projection: Projections = ()
    cell: Word = "LSTM"
    norm: Literal["batch", "none"] = "none"
    residual: Flag = False
    bidirectional: Flag | Literal["tied"] = False
    dropout: ShareBelow1 = 0.0
    cell_options: Mapping[str, Option] = field(default_factory=dict)
    last_cell_options: Mapping[str, Option] = field(default_factory=dict)
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    layer_options: tuple[Mapping[str, Option], ...] = ()
    delta: Flag = False
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
        check_layers(options)
        if options.bidirectional and not every_step:
            got, expected = f"{options.bidirectional}".lower(), "false for a model that answers at the last step"
            raise invalid("model.bidirectional", got=got, expected=expected)
        self.layers, widths = nn.ModuleList(), [inputs]
        keywords = {"bidirectional": True} if options.bidirectional else {}
        for number in range(len(options.hidden)):
            self.layers.append(recurrent_layers(options, [number], widths[-1], **keywords))
            widths.append(output_size(self.layers[-1]))
        widths = widths[1:]
        if options.residual and len(set(widths)) > 1:
            raise invalid("model.residual", got=f"layers of {widths} units", expected="equal sizes")
        self.norms = nn.ModuleList(StepNorm(n) if options.norm == "batch" else nn.Identity() for n in widths)
        self.residual, self.dropout, self.every_step = options.residual, options.dropout, every_step
        self.output = nn.Linear(widths[-1], outputs)
        self.options = options
        for layer in self.layers if options.bidirectional == "tied" else ():
            tie_directions_(layer)
        give_weights_(self, options.weights)
        give_thresholds_(self.layers, options)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs for a batch of sequences."""
        return self.advance(x, None, lengths)[0]

    def advance(
        self, x: Tensor, states: Any = None, lengths: Tensor | None = None, begins: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """The outputs, and the last states of each layer in a list.

        `states` are such a list, from which the sequences go on; with None, and in a sequence where `begins`, bool
        (batch,), is true, each layer starts from its own first states.
        """
        steps = FullSteps(x) if lengths is None else PackedSteps(x, lengths)
        count, x = len(x), steps.data
        before = self._first_states(states, begins, count, x)
        after: list[Any] = []
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            at_last = number == len(self.layers) - 1 and not self.every_step
            y, last = (steps.run_to_end if at_last else steps.run)(layer, x, before[number])
            after.append(last)
            if at_last:
                x = steps.last(x)
            y = norm(y)
            x = x + y if self.residual and number else y
            if self.training and self.dropout:
                kept = nn.functional.dropout(x.new_ones(count, x.shape[-1]), self.dropout)  # Gal, Ghahramani, 2016
                x = x * (kept if at_last else steps.at_every_step(kept))
        outputs = self.output(x)
        return (steps.padded(outputs) if self.every_step else outputs), after

    def _first_states(self, states: Any, begins: Tensor | None, count: int, like: Tensor) -> list[Any]:
        """What each layer starts from; None for its own states in all sequences."""
        if states is None or (begins is not None and bool(begins.all())):
            return [None] * len(self.layers)
        if begins is None or not bool(begins.any()):
            return list(states)
        own = [initial_states(layer, count, like) for layer in self.layers]
        wanted, got = ([tuple(leaf.shape) for leaf in tree_leaves(nest)] for nest in (own, list(states)))
        if got != wanted:
            hint = "after the model has changed, as by shrink_, begin without states"
            raise invalid("states", got=f"of shapes {got}", expected=f"{wanted}", hint=hint)
        return tree_map(lambda first, given: torch.where(begins[:, None], first, given), own, list(states))

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
        tables = {"weights": weight_tables(self, self.options)}
        return {**sizes, **layer_options(self.options, list(self.layers)), **delta_option(list(self.layers)), **tables}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return sum(p.numel() for p in self.layers.parameters())


def _only(sizes: Any) -> int:
    """The size of a module with one layer, which may stand in a list."""
    return sizes[0] if isinstance(sizes, list) else sizes
