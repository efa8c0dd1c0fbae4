"""The recurrent language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .. import layers
from .._bounds import STRICT, Bound, Flag, Layers, Option, ShareBelow1, Size, Word
from .._errors import invalid
from ..layers.dropout import LockedDropout
from .base import AbstractModel, weight_specs
from .candidates import candidate_logits
from .named_weights import give_weights_, weight_tables


@dataclass(frozen=True)
class LanguageModelOptions:
    """Sizes and kinds; `input_weight` and `hidden_weight` are tables such as `{kind = "LowRank", rank = 16}`.

    `weights` has such tables by name, for single matrices: `"recurrent.weight_ih_l0"`, `"output"`, or a pattern.

    `dropout` acts between the layers, and after the last one unless `output_dropout` is given. `init` is the bound of
    a uniform distribution for all parameters, or "orthogonal": orthogonal hidden matrices in each gate, Glorot
    initialization of the input matrices, zero biases; None keeps torch's default.

    With `locked_dropout` a sequence loses the same units at all steps of an update (Gal and Ghahramani, 2016), without
    it other ones at every step (Zaremba et al., 2014).
    """

    adjustable: ClassVar = ("dropout", "embedding_dropout", "output_dropout")
    embedding: Size = 64
    hidden: Layers = (256, 256)
    cell: Word = "LSTM"
    dropout: ShareBelow1 = 0.0
    embedding_dropout: ShareBelow1 = 0.0
    output_dropout: ShareBelow1 | None = None
    locked_dropout: Flag = False
    tie: Flag = False
    init: Bound | Literal["orthogonal"] | None = None
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    __pydantic_config__ = STRICT


class LanguageModel(AbstractModel):
    """Embedding, recurrent layers and a linear layer: the logits of the next symbol after each symbol.

    Tokens (batch, time) -> logits (batch, time, vocabulary). Dropout touches the non-recurrent connections only.

    >>> import torch
    >>> model = LanguageModel(50, LanguageModelOptions(embedding=8, hidden=(16, 12)))
    >>> model(torch.zeros(2, 7, dtype=torch.long)).shape
    torch.Size([2, 7, 50])
    """

    def __init__(self, vocabulary_size: int, options: LanguageModelOptions):
        super().__init__()
        sizes = list(options.hidden)
        if not sizes:
            raise invalid("model.hidden", got="no layer", expected="a size per layer")
        self.embedding = nn.Embedding(vocabulary_size, options.embedding)
        dropout = LockedDropout if options.locked_dropout else nn.Dropout
        self.embedding_dropout = dropout(options.embedding_dropout)
        self.recurrent = _recurrent(options, sizes)
        self.recurrent.locked_dropout = options.locked_dropout
        self.dropout = dropout(options.dropout)
        self.output = nn.Linear(sizes[-1], vocabulary_size)
        if options.tie:
            if sizes[-1] != options.embedding:
                raise invalid(
                    "model.tie", got=f"embedding {options.embedding}, last layer {sizes[-1]}", expected="equal sizes"
                )
            self.output.weight = self.embedding.weight
        self.options = options
        self.adjust(options)
        if options.init == "orthogonal":
            _orthogonal(self.recurrent)
        elif options.init is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -options.init, options.init)
        give_weights_(self, options.weights)

    def advance(
        self, tokens: Tensor, states: Any = None, targets: Tensor | None = None, negatives: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Logits, and the states after the last token; `states` None starts from zeros.

        With `targets` (batch, time) and `negatives` (count,) the logits of these alone, (batch, time, 1 + count).
        """
        x = self.embedding_dropout(self.embedding(tokens))
        y, states = self.recurrent(x, states)
        y = self.dropout(y)
        if targets is None or negatives is None:
            return self.output(y), states
        return candidate_logits(self.output, y, targets, negatives), states

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of sequences that start from zero states."""
        return self.advance(tokens)[0]

    def adjust(self, options: LanguageModelOptions) -> None:
        """Use the dropout probabilities of `options` from now on."""
        self.embedding_dropout.p = options.embedding_dropout
        self.recurrent.dropout = options.dropout if self.recurrent.num_layers > 1 else 0.0
        self.dropout.p = options.dropout if options.output_dropout is None else options.output_dropout

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each recurrent layer."""
        size = self.recurrent.hidden_size
        return tuple(size) if isinstance(size, (list, tuple)) else (size,) * self.recurrent.num_layers

    def size_options(self) -> dict[str, Any]:
        sizes = {"embedding": self.embedding.embedding_dim, "hidden": self.layer_sizes()}
        return {**sizes, "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return sum(p.numel() for p in self.recurrent.parameters())


def _recurrent(options: LanguageModelOptions, sizes: Sequence[int]) -> Any:
    if options.cell not in ("LSTM", "GRU", "RNN"):
        raise invalid("model.cell", got=repr(options.cell), expected="LSTM, GRU or RNN")
    between = options.dropout if len(sizes) > 1 else 0.0
    specs = weight_specs(options)
    same = len(set(sizes)) == 1
    kind = getattr(layers, options.cell)
    hidden = sizes[0] if same else list(sizes)
    return kind(options.embedding, hidden, num_layers=len(sizes), batch_first=True, dropout=between, **specs)


def _orthogonal(recurrent: nn.Module) -> None:
    parameters = dict(recurrent.named_parameters())
    if any("." in name for name in parameters):
        raise invalid("model.init", got="orthogonal with a structured weight", expected="dense weights for it")
    for name, parameter in parameters.items():
        if "bias" in name:
            nn.init.zeros_(parameter)
            continue
        size = parameters[name.replace("_ih_", "_hh_")].shape[1]
        for gate in parameter.data.split(size):
            (nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_)(gate)
