"""A reader of two texts: bidirectional attention flow (BiDAF)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import layers
from .._bounds import STRICT, Flag, Layers, Option, ShareBelow1, Size
from .._errors import invalid
from .base import AbstractModel, weight_specs
from .candidates import NEVER
from .named_weights import give_weights_, weight_tables
from .recurrent_layers import delta_option, give_thresholds_
from .steps import FullSteps, PackedSteps


@dataclass(frozen=True)
class ReaderOptions:
    """Units in each direction: of the layer that reads both texts, of those after the attention, of the last one.

    `dropout` acts on what every recurrent and output layer reads. `input_weight` and `hidden_weight` are tables such as
    `{kind = "LowRank", rank = 16}` for the recurrent layers; `weights` has such tables by name, for single matrices:
    `"modeling.0.weight_ih_l0"`, `"start"`, or a pattern. With `delta` the recurrent layers have
    thresholds (`DeltaCell`).
    """

    adjustable: ClassVar = ("dropout",)
    contextual: Size = 64
    modeling: Layers = (64, 64)
    answer: Size = 64
    highways: Size = 2
    dropout: ShareBelow1 = 0.0
    input_weight: Mapping[str, Option] = field(default_factory=dict)
    hidden_weight: Mapping[str, Option] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    delta: Flag = False
    __pydantic_config__ = STRICT


class Reader(AbstractModel):
    """Where in a context the answer to a question begins and ends, as logits of each of its words.

        H, U = contextual(context), contextual(question)       T and J vectors of 2d numbers
        S_tj = v h_t + w u_j + z (h_t * u_j)
        U~_t = sum_j softmax_j(S_tj) u_j                       the question, as word t sees it
        h~ = sum_t softmax_t(max_j S_tj) h_t                   the words that matter to the question
        G = [H; U~; H * U~; H * h~],   M = modeling(G)
        start = a [G; M],   m~ = sum_t softmax_t(start) m_t
        end = b [G; answer([G; M; m~; M * m~])]

    All layers are bidirectional LSTMs; words pass `highways` highway layers before the first. context (batch, T,
    inputs), question (batch, J, inputs) -> (batch, 2, T). With `context_lengths` and `question_lengths`, int64
    (batch,), what follows after so many words is padding: it changes no other logit, and its own are -10,000.

    >>> reader = Reader(7, ReaderOptions(contextual=4, modeling=(4,), answer=4)).eval()
    >>> context, question = torch.randn(2, 9, 7), torch.randn(2, 5, 7)
    >>> logits = reader(context, question, torch.tensor([9, 6]), torch.tensor([2, 5]))
    >>> logits.shape, torch.allclose(logits[1, :, :6], reader(context[1:, :6], question[1:])[0], atol=1e-5)
    (torch.Size([2, 2, 9]), True)

    Seo, Kembhavi, Farhadi, Hajishirzi: Bidirectional attention flow for machine comprehension, 2017, with the end
    pointer of its code.
    """

    def __init__(self, inputs: int, options: ReaderOptions):
        super().__init__()
        if not options.modeling:
            raise invalid("model.modeling", got="no layer", expected="a size per layer")
        self.highways = nn.ModuleList(Highway(inputs) for _ in range(options.highways))
        lstm = partial(layers.LSTM, bidirectional=True, **weight_specs(options))
        self.contextual = lstm(inputs, options.contextual)
        seen = 2 * options.contextual
        self.of_context, self.of_question, self.of_both = (nn.Linear(seen, 1, bias=n == 0) for n in range(3))
        widths = [4 * seen, *(2 * size for size in options.modeling)]
        self.modeling = nn.ModuleList(lstm(n, size) for n, size in zip(widths, options.modeling, strict=False))
        self.start = nn.Linear(widths[0] + widths[-1], 1)
        self.answer = lstm(widths[0] + 3 * widths[-1], options.answer)
        self.end = nn.Linear(widths[0] + 2 * options.answer, 1)
        self.dropout = nn.Dropout(options.dropout)
        self.options = options
        give_weights_(self, options.weights)
        give_thresholds_(self._layers(), options)

    def forward(
        self,
        context: Tensor,
        question: Tensor,
        context_lengths: Tensor | None = None,
        question_lengths: Tensor | None = None,
    ) -> Tensor:
        """The logits of the first and of the last word of the answer."""
        h, u = self._words(context, context_lengths), self._words(question, question_lengths)
        g = self._attend(h, u, context_lengths, question_lengths)
        m = g
        for layer in self.modeling:
            m = self._read(layer, m, context_lengths)
        start = _within(self.start(self.dropout(torch.cat([g, m], -1))), context_lengths)
        chosen = (start.softmax(1) * m).sum(1, keepdim=True).expand(m.shape)
        m = self._read(self.answer, torch.cat([g, m, chosen, m * chosen], -1), context_lengths)
        end = _within(self.end(self.dropout(torch.cat([g, m], -1))), context_lengths)
        return torch.cat([start, end], -1).transpose(1, 2)

    def _words(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        for highway in self.highways:
            x = highway(x)
        return self._read(self.contextual, x, lengths)

    def _attend(self, h: Tensor, u: Tensor, context_lengths: Tensor | None, question_lengths: Tensor | None) -> Tensor:
        both = self.of_both(h[:, :, None] * u[:, None]).squeeze(-1)
        s = self.of_context(h) + self.of_question(u).transpose(1, 2) + both
        s = _within(s.transpose(1, 2), question_lengths).transpose(1, 2)
        asked = torch.matmul(s.softmax(2), u)
        most = _within(s.amax(2)[..., None], context_lengths)
        matters = (most.softmax(1) * h).sum(1, keepdim=True)
        return torch.cat([h, asked, h * asked, h * matters], -1)

    def _read(self, layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
        steps = FullSteps(self.dropout(x)) if lengths is None else PackedSteps(self.dropout(x), lengths)
        return steps.padded(steps.run(layer, steps.data)[0])

    def adjust(self, options: ReaderOptions) -> None:
        """Use the dropout probability of `options` from now on."""
        self.dropout.p = options.dropout

    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, in each direction."""
        return tuple(_size(layer) for layer in self._layers())

    def size_options(self) -> dict[str, Any]:
        contextual, *modeling, answer = self.layer_sizes()
        sizes = {"contextual": contextual, "modeling": tuple(modeling), "answer": answer}
        return {**sizes, **delta_option(self._layers()), "weights": weight_tables(self, self.options)}

    def recurrent_parameters(self) -> int:
        """Number of parameters of the recurrent layers: input and hidden matrices and biases."""
        return sum(p.numel() for layer in self._layers() for p in layer.parameters())

    def _layers(self) -> list[Any]:
        return [self.contextual, *self.modeling, self.answer]


class Highway(nn.Module):
    """`t * relu(W x + b) + (1 - t) * x` with `t = sigmoid(V x + c)`; c starts at -1.

    Srivastava, Greff, Schmidhuber: Highway networks, 2015.
    """

    def __init__(self, size: int):
        super().__init__()
        self.candidate, self.transform = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.constant_(self.transform.bias, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, torch.relu(self.candidate(x)), torch.sigmoid(self.transform(x)))


def _size(layer: Any) -> int:
    return layer.hidden_size[0] if isinstance(layer.hidden_size, list) else layer.hidden_size


def _within(logits: Tensor, lengths: Tensor | None) -> Tensor:
    """`logits` (batch, time, ...) with those of the padding at -10,000."""
    if lengths is None:
        return logits
    padding = torch.arange(logits.shape[1])[None] >= lengths.cpu()[:, None]
    return logits.masked_fill(padding.to(logits.device)[..., None], NEVER)
