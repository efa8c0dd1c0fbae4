"""Deep feedforward sequential memory network (DFSMN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import AbstractCell, StateSpec, UnitSet, new_bias, push
from .memory_block import FUNCTIONS, check_block, remembered, reset_affine_, reset_taps_


class DFSMN(AbstractCell):
    """Compact FSMN layers one after the other, with a sum past them from each memory block to the next.

        p_l = V_l h_(l-1) + b_l                                                  l = 1 ... depth, h_0 = x
        m_l,t = m_(l-1),t + p_l,t + sum of a_l,i * p_l,(t - i stride)            i = 1 ... look_back, m_0 = 0
        h_l = f(U_l m_l + b'_l)                                                  the output is h_depth

    Nothing is recurrent: the states are delay lines of the last `look_back * stride` projections, one of each layer.
    The sums make all p and m as wide, `projection_size`, a quarter of hidden_size (rounded up) unless given; the h
    before the last have the `inner_sizes`, hidden_size unless given. f is relu, tanh or sigmoid.

    The paper's filters look ahead, too. Within one step they cannot, as p_l of later steps follows from m_(l-1) of
    still later ones; layers of `FSMN` with `look_ahead` can, without the sums.

    >>> import torch
    >>> cell = DFSMN(8, 16, depth=2, projection_size=4, look_back=10)
    >>> y, (line_1, line_2) = cell(torch.randn(2, 8))
    >>> y.shape, line_2.shape
    (torch.Size([2, 16]), torch.Size([2, 40]))

    Raises:
        ValueError: inner_sizes that are not one for each layer but the last.

    Source: Zhang, Lei, Yan, Dai, "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", 2018, in the form of
    its summary in later work: the paper itself was not at hand.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        output_weight: WeightSpec = DENSE,
        depth: int = 2,
        projection_size: int | None = None,
        inner_sizes: Sequence[int] | None = None,
        look_back: int = 20,
        stride: int = 1,
        nonlinearity: str = "relu",
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        size = check_block(hidden_size, projection_size, nonlinearity)
        self.nonlinearity, self.depth = nonlinearity, check_positive(depth, "depth")
        self.look_back, self.stride = check_positive(look_back, "look_back"), check_positive(stride, "stride")
        inner = (hidden_size,) * (depth - 1) if inner_sizes is None else tuple(inner_sizes)
        if len(inner) != depth - 1:
            raise invalid("inner_sizes", got=list(inner), expected=f"{depth - 1}, one for each layer but the last")
        widths = [input_size, *(check_positive(n, "inner_sizes") for n in inner), hidden_size]
        layers = range(1, depth + 1)
        for layer, before, after in zip(layers, widths, widths[1:], strict=False):
            name = _projection(layer)
            setattr(self, name, input_weight.build(size, before))
            setattr(self, f"{name}_bias", new_bias(size, bias))
            setattr(self, f"past_{layer}", nn.Parameter(torch.empty(look_back * size)))
            setattr(self, f"output_{layer}", output_weight.build(after, size))
            setattr(self, f"output_{layer}_bias", new_bias(after, bias))
        names = [_projection(layer) for layer in layers]
        written = (*names, *(f"{n}_bias" for n in names), *(f"past_{layer}" for layer in layers))
        outputs = [f"output_{layer}" for layer in layers]
        self.units = (
            UnitSet("p", written_by=written, read_by=tuple(outputs)),
            *(
                UnitSet(f"h_{layer}", written_by=(f"output_{layer}", f"output_{layer}_bias"), read_by=(names[layer],))
                for layer in layers[:-1]
            ),
            UnitSet("h", written_by=(outputs[-1], f"{outputs[-1]}_bias"), read_by=(), output=True),
        )
        self.states = tuple(StateSpec(f"line_{layer}", units="p", delay=look_back * stride) for layer in layers)
        self.reset_parameters()

    def size_options(self) -> dict[str, Any]:
        inner = tuple(getattr(self, f"output_{layer}").out_features for layer in range(1, self.depth))
        return {"projection_size": self.input.out_features, "inner_sizes": inner}

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        p, memory, after = projected, None, []
        for layer, line in enumerate(states, 1):
            own = remembered(p, line, getattr(self, f"past_{layer}"), self.stride)
            memory = own if memory is None else memory + own
            after.append(push(line, p))
            h = FUNCTIONS[self.nonlinearity](_affine(self, f"output_{layer}", memory))
            if layer < self.depth:
                p = _affine(self, _projection(layer + 1), h)
        return h, tuple(after)

    def reset_parameters(self) -> None:
        """Matrices and biases as torch draws those of a linear layer, filters as it draws those of a convolution."""
        for layer in range(1, self.depth + 1):
            for name in (_projection(layer), f"output_{layer}"):
                reset_affine_(getattr(self, name), getattr(self, f"{name}_bias"))
            reset_taps_(getattr(self, f"past_{layer}"), 1 + self.look_back)


def _projection(layer: int) -> str:
    return "input" if layer == 1 else f"projection_{layer}"


def _affine(cell: AbstractCell, name: str, x: Tensor) -> Tensor:
    bias = getattr(cell, f"{name}_bias")
    return getattr(cell, name)(x) if bias is None else getattr(cell, name)(x) + bias
