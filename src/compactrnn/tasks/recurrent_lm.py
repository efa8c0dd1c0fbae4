"""The recurrent language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isabstract
from typing import Any, Literal

from torch import Tensor, nn

from .. import layers, weights
from .._errors import invalid
from .base import AbstractModel
from .bounds import STRICT, Bound, Flag, Layers, Option, ShareBelow1, Size, Word


@dataclass(frozen=True)
class LanguageModelOptions:
    """Sizes and kinds; `input_weight` and `hidden_weight` are tables such as `{kind = "LowRank", rank = 16}`.

    `dropout` acts between the layers, and after the last one unless `output_dropout` says otherwise. `init` is the
    bound of a uniform distribution for all parameters, or "orthogonal": hidden matrices orthogonal in each gate, input
    matrices as Glorot and Bengio have it, biases zero; None leaves torch's own.
    """

    embedding: Size = 64
    hidden: Layers = (256, 256)
    cell: Word = "LSTM"
    dropout: ShareBelow1 = 0.0
    embedding_dropout: ShareBelow1 = 0.0
    output_dropout: ShareBelow1 | None = None
    tie: Flag = False
    init: Bound | Literal["orthogonal"] | None = None
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    __pydantic_config__ = STRICT


class LanguageModel(AbstractModel):
    """Embedding, recurrent layers, linear: the scores of the next symbol after each symbol.

    Tokens (batch, time) -> logits (batch, time, vocabulary). Dropout touches the non-recurrent connections only
    (Zaremba et al., 2014).

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
        self.embedding_dropout = nn.Dropout(options.embedding_dropout)
        self.recurrent = _recurrent(options, sizes)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(sizes[-1], vocabulary_size)
        if options.tie:
            if sizes[-1] != options.embedding:
                raise invalid(
                    "model.tie", got=f"embedding {options.embedding}, last layer {sizes[-1]}", expected="equal sizes"
                )
            self.output.weight = self.embedding.weight
        if options.output_dropout is not None:
            self.dropout.p = options.output_dropout
        if options.init == "orthogonal":
            _orthogonal(self.recurrent)
        elif options.init is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -options.init, options.init)

    def advance(self, tokens: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """Logits, and the states after the last token; `states` None starts from zeros."""
        x = self.embedding_dropout(self.embedding(tokens))
        y, states = self.recurrent(x, states)
        return self.output(self.dropout(y)), states

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of sequences that start from zero states."""
        return self.advance(tokens)[0]

    def set_dropout(self, *, dropout: float, embedding_dropout: float, output_dropout: float | None) -> None:
        """Use these probabilities from now on; `output_dropout` None is `dropout`."""
        self.embedding_dropout.p = embedding_dropout
        self.recurrent.dropout = dropout if self.recurrent.num_layers > 1 else 0.0
        self.dropout.p = dropout if output_dropout is None else output_dropout

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each recurrent layer."""
        size = self.recurrent.hidden_size
        return tuple(size) if isinstance(size, (list, tuple)) else (size,) * self.recurrent.num_layers

    def recurrent_parameters(self) -> int:
        """How many numbers the recurrent layers hold: input, hidden and bias."""
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


def weight_specs(options: Any) -> dict[str, weights.WeightSpec]:
    """Those that a section `[model]` names, as arguments of a layer."""
    specs = {}
    for name in ("input_weight", "hidden_weight"):
        if table := getattr(options, name):
            try:
                specs[name] = weight_spec(table)
            except ValueError as error:
                raise ValueError(f"model.{name}: {error}") from None
    return specs


def weight_spec(table: Mapping[str, Any]) -> weights.WeightSpec:
    """The weight specification that a recipe's table names.

    >>> weight_spec({"kind": "Dense"})
    Dense()
    """
    arguments = dict(table)
    kind = arguments.pop("kind", None)
    found = getattr(weights, str(kind), None)
    if not (isinstance(found, type) and issubclass(found, weights.WeightSpec)) or isabstract(found):
        raise invalid("weight kind", got=repr(kind), expected="the name of a weight of compactrnn, such as LowRank")
    try:
        return found(**arguments)
    except TypeError as error:
        raise invalid(f"weight {kind}", got=str(arguments), expected=f"its own options ({error})") from error
