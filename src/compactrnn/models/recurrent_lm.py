"""The recurrent language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .. import layers
from .._bounds import STRICT, Bound, Flag, Layers, Option, ShareBelow1, Size, Word
from .._errors import invalid
from ..layers.dropout import LockedDropout, hidden_matrices, with_weight_dropout
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from .base import AbstractModel
from .candidates import candidate_logits
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import (
    check_layers,
    delta_option,
    give_thresholds_,
    layer_options,
    output_size,
    recurrent_layers,
)


@dataclass(frozen=True)
class LanguageModelOptions:
    """Sizes and kinds; `input_weight` and `hidden_weight` are tables such as `{kind = "LowRank", rank = 16}`.

    `weights` has such tables by name, for single matrices: `"recurrent.weight_ih_l0"`, `"output"`, or a pattern.

    `cell` is LSTM, GRU, RNN or the name of another cell of compactrnn; `cell_options` are given to it in every layer,
    `layer_options`, one table for each layer, in that layer; "none" in them is None, for which TOML has no word.

    `dropout` acts between the layers, and after the last one unless `output_dropout` is given. `init` is the bound of
    a uniform distribution for all parameters, or "orthogonal": orthogonal hidden matrices in each gate, Glorot
    initialization of the input matrices, zero biases; None keeps torch's default. Of other cells than LSTM, GRU and RNN
    only matrices are drawn so: biases and vectors start as the cell says, such as the transform bias of an RHN.

    With `delta` the recurrent layers have thresholds (`DeltaCell`), zeros at first, as phases with `Delta` leave them.

    With `locked_dropout` a sequence loses the same units at all steps of an update (Gal and Ghahramani, 2016), without
    it other ones at every step (Zaremba et al., 2014). `weight_dropout` is the share of the entries of the hidden
    matrices, which must be dense, that an update goes without (Merity et al., 2018).
    """

    adjustable: ClassVar = ("dropout", "embedding_dropout", "output_dropout", "weight_dropout")
    embedding: Size = 64
    hidden: Layers = (256, 256)
    cell: Word = "LSTM"
    dropout: ShareBelow1 = 0.0
    embedding_dropout: ShareBelow1 = 0.0
    output_dropout: ShareBelow1 | None = None
    weight_dropout: ShareBelow1 = 0.0
    locked_dropout: Flag = False
    tie: Flag = False
    init: Bound | Literal["orthogonal"] | None = None
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    cell_options: Mapping[str, Option] = field(default_factory=dict)
    layer_options: tuple[Mapping[str, Option], ...] = ()
    delta: Flag = False
    __pydantic_config__ = STRICT


class LanguageModel(AbstractModel):
    """Embedding, recurrent layers and a linear layer: the logits of the next symbol after each symbol.

    Tokens (batch, time) -> logits (batch, time, vocabulary). All dropout but `weight_dropout` touches the non-recurrent
    connections only.

    >>> import torch
    >>> model = LanguageModel(50, LanguageModelOptions(embedding=8, hidden=(16, 12)))
    >>> model(torch.zeros(2, 7, dtype=torch.long)).shape
    torch.Size([2, 7, 50])
    """

    def __init__(self, vocabulary_size: int, options: LanguageModelOptions):
        super().__init__()
        check_layers(options)
        self.embedding = nn.Embedding(vocabulary_size, options.embedding)
        dropout = LockedDropout if options.locked_dropout else nn.Dropout
        self.embedding_dropout = dropout(options.embedding_dropout)
        self.recurrent: Any = _recurrent(options)
        self.recurrent.locked_dropout = options.locked_dropout
        self.dropout = dropout(options.dropout)
        width = output_size(self.recurrent)
        self.output = nn.Linear(width, vocabulary_size)
        if options.tie:
            if width != options.embedding:
                got = f"embedding {options.embedding}, last layer {width}"
                raise invalid("model.tie", got=got, expected="equal sizes")
            self.output.weight = self.embedding.weight
        self.options = options
        self.adjust(options)
        if options.init == "orthogonal":
            _orthogonal(self.recurrent)
        elif options.init is not None:
            kept = {p for p in _cell_parameters(self.recurrent) if p.dim() < 2}
            for parameter in self.parameters():
                if parameter not in kept:
                    nn.init.uniform_(parameter, -options.init, options.init)
        give_weights_(self, options.weights)
        give_thresholds_([self.recurrent], options)

    def advance(
        self, tokens: Tensor, states: Any = None, targets: Tensor | None = None, negatives: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Logits, and the states after the last token; `states` None starts from zeros.

        With `targets` (batch, time) and `negatives` (count,) the logits of these alone, (batch, time, 1 + count).
        """
        x = self.embedding_dropout(self.embedding(tokens))
        y, states = self._run(x, states)
        y = self.dropout(y)
        if targets is None or negatives is None:
            return self.output(y), states
        return candidate_logits(self.output, y, targets, negatives), states

    def _run(self, x: Tensor, states: Any) -> tuple[Tensor, Any]:
        if self.training and self.weight_dropout:
            return with_weight_dropout(self.recurrent, self.weight_dropout, x, states)
        return self.recurrent(x, states)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of sequences that start from zero states."""
        return self.advance(tokens)[0]

    def adjust(self, options: LanguageModelOptions) -> None:
        """Use the dropout probabilities of `options` from now on; `ValueError` for one that does not fit the cell."""
        self.embedding_dropout.p = options.embedding_dropout
        self.recurrent.dropout = options.dropout if self.recurrent.num_layers > 1 else 0.0
        self.dropout.p = options.dropout if options.output_dropout is None else options.output_dropout
        self.weight_dropout = options.weight_dropout
        if self.weight_dropout:
            hidden_matrices(self.recurrent)

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each recurrent layer."""
        size = self.recurrent.hidden_size
        return tuple(size) if isinstance(size, (list, tuple)) else (size,) * self.recurrent.num_layers

    def size_options(self) -> dict[str, Any]:
        sizes = {"embedding": self.embedding.embedding_dim, "hidden": self.layer_sizes()}
        tables = {"weights": weight_tables(self, self.options)}
        return {**sizes, **layer_options(self.options, [self.recurrent]), **delta_option([self.recurrent]), **tables}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return sum(p.numel() for p in self.recurrent.parameters())


def _recurrent(options: LanguageModelOptions) -> nn.Module:
    numbers = range(len(options.hidden))
    between = options.dropout if len(numbers) > 1 else 0.0
    recurrent = recurrent_layers(options, numbers, options.embedding, batch_first=True, dropout=between)
    for (cell,) in layers.cells_of(recurrent):
        if cell.steps_ahead:
            got = f"{cell.title} that reads {cell.steps_ahead} steps ahead"
            hint = "with look_ahead it would read the symbols that it is to predict"
            raise invalid("model.cell_options", got=got, expected="a cell that reads no later steps", hint=hint)
    return recurrent


def _cell_parameters(recurrent: nn.Module) -> list[nn.Parameter]:
    """The parameters of cells that draw them in their own way, which torch's do not."""
    return list(recurrent.parameters()) if isinstance(recurrent, layers.Recurrent) else []


def _orthogonal(recurrent: nn.Module) -> None:
    own = _cell_parameters(recurrent)
    for (cell,) in layers.cells_of(recurrent):
        for name in cell.weight_names():
            part = getattr(cell, name)
            if isinstance(part, DenseWeight):
                draw = nn.init.xavier_uniform_ if name in cell.reads_input else nn.init.orthogonal_
                for gate in part.weight.data.split(part.rows):
                    draw(gate)
            elif isinstance(part, AbstractWeight):
                raise invalid("model.init", got=f"orthogonal with {part.spec}", expected="dense weights for it")
            elif not own:
                nn.init.zeros_(part)
