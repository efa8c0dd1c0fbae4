"""Cell steps that use every supported operation."""

import torch
from torch import nn
from torch.nn import functional as F

from compactrnn.cells import AbstractCell, StateSpec, UnitSet
from compactrnn.cells.base import new_bias
from compactrnn.weights import DENSE


class Wide(AbstractCell):
    """A state and an output, computed with every operation that a step may use."""

    def __init__(self, input_size, hidden_size, *, function, input_weight=DENSE, hidden_weight=DENSE):
        super().__init__(input_size, hidden_size)
        self.function = function
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)
        self.hidden = hidden_weight.build(hidden_size, hidden_size)
        self.scale = new_bias(hidden_size, True)
        self.alpha = nn.Parameter(torch.tensor(0.3))
        self.states = (StateSpec("h"),)
        self.units = (UnitSet("h", written_by=("input", "hidden", "scale"), read_by=("hidden",), output=True),)
        self.reset_parameters()

    def step(self, projected, states):
        h = self.function(self, projected, states[0])
        return h, (h,)


STEPS = {
    "relu": lambda c, p, h: torch.relu(p[:, : len(h[0])] + c.hidden(h)),
    "narrow": lambda c, p, h: p.narrow(1, 2, h.shape[1]) * h,
    "split": lambda c, p, h: p.split(h.shape[1], dim=-1)[1] - h * c.scale,
    "cat": lambda c, p, h: torch.cat([h[:, 1:], p[:, :1]], dim=1) * 0.5,
    "several": lambda c, p, h: torch.cat([h, p], 1)[:, 2 : 2 + h.shape[1]].tanh(),
    "rsub": lambda c, p, h: 1 - 0.5 * h + p[:, : h.shape[1]] / 3,
    "alpha": lambda c, p, h: torch.add(p.chunk(2, 1)[0], h, alpha=0.25).sub(c.alpha),
    "division": lambda c, p, h: p.chunk(2, 1)[0] / (1 + h.square()),
    "by a vector": lambda c, p, h: c.scale.exp() * h + p.chunk(2, 1)[1],
    "sum": lambda c, p, h: h.tanh() - p.chunk(2, 1)[0] * h.sum(-1, keepdim=True).tanh(),
    "mean": lambda c, p, h: h - p.chunk(2, 1)[0] * h.mean(1, keepdim=True),
    "layer_norm": lambda c, p, h: F.layer_norm(h + p.chunk(2, 1)[0], h.shape[1:], c.scale, c.scale.exp()),
    "layer_norm without weights": lambda c, p, h: F.layer_norm(h * p.chunk(2, 1)[0], (h.shape[1],), eps=0.1).tanh(),
    "lerp": lambda c, p, h: torch.lerp(h, p.chunk(2, 1)[0], torch.sigmoid(p.chunk(2, 1)[1])),
    "lerp by a number": lambda c, p, h: torch.lerp(h, p.chunk(2, 1)[0], 0.25),
    "clamp": lambda c, p, h: torch.clamp(h + p.chunk(2, 1)[0], -0.5, 0.7),
    "hardtanh": lambda c, p, h: F.hardtanh(h + p.chunk(2, 1)[0]),
    "hardsigmoid": lambda c, p, h: F.hardsigmoid(h + p.chunk(2, 1)[0]),
    "elu": lambda c, p, h: F.elu(h + p.chunk(2, 1)[0], 0.7),
    "leaky": lambda c, p, h: F.leaky_relu(h + p.chunk(2, 1)[0], 0.2),
    "silu": lambda c, p, h: F.silu(h + p.chunk(2, 1)[0]),
    "celu": lambda c, p, h: F.celu(h + p.chunk(2, 1)[0], 0.7),
    "selu": lambda c, p, h: F.selu(h + p.chunk(2, 1)[0]),
    "gelu": lambda c, p, h: F.gelu(h + p.chunk(2, 1)[0]),
    "gelu by tanh": lambda c, p, h: F.gelu(h + p.chunk(2, 1)[0], approximate="tanh"),
    "mish": lambda c, p, h: F.mish(h + p.chunk(2, 1)[0]),
    "hardswish": lambda c, p, h: F.hardswish(h + p.chunk(2, 1)[0]),
    "logsigmoid": lambda c, p, h: F.logsigmoid(h + p.chunk(2, 1)[0]),
    "erf": lambda c, p, h: torch.erf(h + p.chunk(2, 1)[0]),
    "softplus": lambda c, p, h: F.softplus(h + p.chunk(2, 1)[0]) - 0.5,
    "relu6": lambda c, p, h: F.relu6(h + p.chunk(2, 1)[0]),
    "abs": lambda c, p, h: (h + p.chunk(2, 1)[0]).abs() - 0.2,
    "norms": lambda c, p, h: h * torch.rsqrt(1 + h * h) + p.chunk(2, 1)[0].pow(3) * 0.1,
    "powers": lambda c, p, h: (1 + h.pow(4)).pow(-0.5) * p.chunk(2, 1)[0],
    "exp": lambda c, p, h: torch.exp(-(h + p.chunk(2, 1)[0]).square()),
    "log": lambda c, p, h: torch.log(1.5 + torch.sqrt(0.1 + h.square())) * p.chunk(2, 1)[0],
    "reciprocal": lambda c, p, h: torch.reciprocal(2 + h.sigmoid()) * p.chunk(2, 1)[0],
    "maximum": lambda c, p, h: torch.maximum(h * c.alpha, p.chunk(2, 1)[0]),
    "minimum": lambda c, p, h: torch.minimum(h, p.chunk(2, 1)[0]) * 0.9,
    "where": lambda c, p, h: torch.where(h > p.chunk(2, 1)[0], h * 0.5, p.chunk(2, 1)[1]),
    "where not": lambda c, p, h: torch.where(h <= 0.1, h - 0.5, 0.3) + p.chunk(2, 1)[1],
    "addcmul": lambda c, p, h: torch.addcmul(p.chunk(2, 1)[0], h, c.hidden(h), value=0.3),
    "matmul": lambda c, p, h: torch.tanh(p.chunk(2, 1)[0] + h @ c.hidden.dense() * 0.5),
    "addmm": lambda c, p, h: torch.tanh(torch.addmm(c.scale, h, c.hidden.dense().t()) + p.chunk(2, 1)[0]),
    "twice": lambda c, p, h: torch.tanh(c.hidden(torch.tanh(c.hidden(h))) + p.chunk(2, 1)[0]),
    "of the input": lambda c, p, h: c.hidden(p.chunk(2, 1)[0]) + 0.5 * h,
    "constant": lambda c, p, h: torch.zeros_like(h) + p.chunk(2, 1)[0],
    "not of the state": lambda c, p, h: p.chunk(2, 1)[0],
    "the state": lambda c, p, h: h,
}
