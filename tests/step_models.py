"""Models that are one time step with explicit states, for tests."""

from typing import NamedTuple

import torch
from torch import nn

import compactrnn as cr

F = nn.functional
_RANDOM = torch.Generator().manual_seed(0)


class Step(nn.Module):
    """Modules, and a `forward` that is made of them."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call = forward

    def forward(self, *args):
        return self.call(self, *args)


class Policy(nn.Module):
    """An LSTM over a sequence of one step, with its states."""

    def __init__(self, batch_first=False, layers=1, kind=nn.LSTM):
        super().__init__()
        self.rnn, self.actor = kind(12, 16, layers, batch_first=batch_first), nn.Linear(16, 3)

    def forward(self, obs, h, c):
        y, (h, c) = self.rnn(obs, (h, c))
        return self.actor(y), h, c


class Unsqueezed(Policy):
    """The same from (batch, features): time is unsqueezed inside."""

    def forward(self, obs, h, c):
        y, h, c = super().forward(obs.unsqueeze(0), h, c)
        return y.squeeze(0), h, c


class Episodes(Policy):
    """Begins again where `done` is 1."""

    def forward(self, obs, done, h, c):
        on = (1 - done).view(1, -1, 1)
        return super().forward(obs, on * h, on * c)


class GRUStep(nn.Module):
    """A GRU step of linear layers."""

    def __init__(self, n=6, m=16):
        super().__init__()
        self.gates, self.x, self.h, self.out = (
            nn.Linear(n + m, 2 * m),
            nn.Linear(n, m),
            nn.Linear(m, m),
            nn.Linear(m, 3),
        )

    def forward(self, x, h):
        r, z = torch.sigmoid(self.gates(torch.cat([x, h], -1))).chunk(2, -1)
        n = torch.tanh(self.x(x) + r * self.h(h))
        h = (1 - z) * n + z * h
        return self.out(h), h


class Cells(nn.Module):
    """A stack of LSTM cells that keeps its states in two tensors."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(6, 8), nn.LSTMCell(8, 8), nn.LSTMCell(8, 8)])

    def forward(self, x, h, c):
        hs, cs = [], []
        for i, cell in enumerate(self.cells):
            x, new = cell(x, (h[i], c[i]))
            hs.append(x)
            cs.append(new)
        return x, torch.stack(hs), torch.stack(cs)


class Decoder(nn.Module):
    """A token, a state, and a context that is an input at every step."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(20, 8), nn.GRUCell(12, 16), nn.Linear(16, 20)

    def forward(self, token, context, h):
        h = self.cell(torch.cat([self.embed(token), context], -1), h)
        return self.out(h).log_softmax(-1), h


class Attention(nn.Module):
    """A decoder that attends over a memory given as an input, with the state before the step as the query."""

    def __init__(self):
        super().__init__()
        self.cell, self.query, self.out = nn.LSTMCell(11, 8), nn.Linear(8, 5), nn.Linear(16, 4)

    def forward(self, x, memory, h, c):
        weights = torch.softmax((memory * self.query(h)[:, None]).sum(-1), -1)
        read = (weights[..., None] * memory).sum(1)
        before = h
        h, c = self.cell(torch.cat([x, read], -1), (h, c))
        return {"y": self.out(torch.cat([h, before], -1)), "weights": weights, "h": h, "c": c}


class Result(NamedTuple):
    y: torch.Tensor
    h_n: torch.Tensor


class Loop(nn.Module):
    """A loop over time; the example input has one step."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(10, 16), nn.Linear(16, 3)

    def forward(self, x, h, c):
        out = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            out.append(self.fc(h))
        return torch.stack(out, 1), h, c


class Keywords(nn.Module):
    """Called with keyword arguments, one of them a tuple of states."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.GRUCell(6, 8), nn.RNNCell(8, 5, nonlinearity="relu")

    def forward(self, x, *, state, double=False):
        a, b = state
        a = self.one(x, a)
        b = self.two(a, b)
        return {"y": b * 2 if double else b, "state": (a, b)}


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 8)

    def forward(self, inputs):
        h = self.cell(inputs["x"], inputs["h"])
        return {"h": h, "y": h.sum(-1, keepdim=True)}


def z(*shape):
    return torch.zeros(shape)


def r(*shape):
    return torch.randn(shape, generator=_RANDOM)


def delayed(m, x, a, b):
    return m.fc(torch.cat([x, a, b], -1)), x, a  # a shift register: each state becomes another


def swapped(m, x, a, b):
    return a * 0.5 + x, b, a


def untouched(m, x, h, k):
    h = torch.tanh(m.fc(x) + k * h)
    return h, h, k


def running(m, x, mean, count):
    count = count + 1
    mean = mean + (x - mean) / count
    return x - mean, mean, count


def cached(m, x, past):
    window = torch.cat([past, x[:, None]], 1)
    return m.fc(window.flatten(1)), window[:, 1:]


def linear_attention(m, x, s):
    q, k, v = m.qkv(x).chunk(3, -1)
    s = 0.9 * s + k[:, :, None] * v[:, None, :]
    return (q[:, :, None] * s).sum(1), s


class Streamed(nn.Module):
    """A causal convolution that is given its past, with a stride over what it sees, and a GRU."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(4, 4, 3, stride=2, padding=1, groups=2), nn.GRUCell(8, 8)

    def forward(self, x, past, h):
        window = torch.cat([past, x[:, :, None]], 2)
        h = self.gru(self.conv(window).flatten(1).relu(), h)
        return h, window[:, :, 1:], h


class Nested(nn.Module):
    """Layer-normalized gates by hand; the states are a tuple of tuples."""

    def __init__(self):
        super().__init__()
        self.gates, self.norm, self.cell = nn.Linear(14, 32), nn.LayerNorm(32), nn.LSTMCell(8, 5)

    def forward(self, x, states):
        (h, c), below = states
        i, f, g, o = self.norm(self.gates(torch.cat([x, h], -1))).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        below = self.cell(h, below)
        return below[0], ((h, c), below)


def deep(m, x, h):
    h = m.cell(m.cell(x, h), h)  # twice through one cell in a step
    return h[:, :2], m.cell(x, h)


def chosen(m, x, done, h):
    h = m.cell(x, torch.where(done, torch.zeros_like(h), h))
    return m.fc(h), h


def both(y):
    return y, y


def masked(m, x, done, h):
    h = m.cell(x, h * (1 - done))
    return m.fc(h), h


# name: (model, example, states, what is returned as outputs and new states; default: the new states are the last)
MODELS = {
    "policy": (lambda: Policy(), (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16)), ["h", "c"]),
    "policy, batch first": (lambda: Policy(True), (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16)), ["h", "c"]),
    "policy of two layers": (lambda: Policy(layers=2), (r(1, 1, 12), z(2, 1, 16), z(2, 1, 16)), ["h", "c"]),
    "policy, batch of three": (lambda: Policy(layers=2), (r(1, 3, 12), z(2, 3, 16), z(2, 3, 16)), ["h", "c"]),
    "policy, unsqueezed": (lambda: Unsqueezed(), (r(1, 12), z(1, 1, 16), z(1, 1, 16)), ["h", "c"]),
    "policy of cr.LSTM": (lambda: Policy(kind=cr.LSTM), (r(1, 1, 12), z(1, 1, 16), z(1, 1, 16)), ["h", "c"]),
    "gru by hand": (lambda: GRUStep(), (r(1, 6), z(1, 16)), ["h"]),
    "gru by hand, no batch": (lambda: GRUStep(), (r(6), z(16)), ["h"]),
    "gru by hand, one feature": (lambda: GRUStep(1, 4), (r(1, 1), z(1, 4)), {"h": 1}),
    "LSTMCell": (lambda: nn.LSTMCell(6, 16), (r(1, 6), (z(1, 16), z(1, 16))), ["hx"], both),
    "LSTMCell without bias or batch": (lambda: nn.LSTMCell(6, 16, bias=False), (r(6), (z(16), z(16))), ["hx"], both),
    "GRUCell": (lambda: nn.GRUCell(6, 16), (r(2, 6), z(2, 16)), ["hx"], both),
    "RNNCell": (lambda: nn.RNNCell(6, 16), {"input": r(1, 6), "hx": z(1, 16)}, ["hx"], both),
    "nn.GRU": (lambda: nn.GRU(6, 16, 2, batch_first=True), (r(1, 1, 6), z(2, 1, 16)), ["hx"]),
    "nn.GRU without batch": (lambda: nn.GRU(6, 16), (r(1, 6), z(1, 16)), ["hx"]),
    "nn.LSTM with projection": (lambda: nn.LSTM(6, 16, proj_size=5), (r(1, 1, 6), (z(1, 1, 5), z(1, 1, 16))), ["hx"]),
    "a stack of cells": (lambda: Cells(), (r(1, 6), z(3, 1, 8), z(3, 1, 8)), ["h", "c"]),
    "decoder": (lambda: Decoder(), (torch.tensor([3]), r(1, 4), z(1, 16)), ["h"]),
    "attention, a dict": (lambda: Attention(), (r(1, 6), r(1, 7, 5), z(1, 8), z(1, 8)), ["h", "c"]),
    "a loop of one step": (lambda: Loop(), (r(1, 1, 10), z(1, 16), z(1, 16)), ["h", "c"]),
    "keywords": (lambda: Keywords(), {"x": r(1, 6), "state": (z(1, 8), z(1, 5)), "double": True}, ["state"]),
    "a dict of arguments": (lambda: OfDict(), {"x": r(1, 6), "h": z(1, 8)}, ["h"], lambda y: (y[1:], y[:1])),
    "named tuple": (
        lambda: Step(lambda m, x, h: Result(x, m.cell(x, h)), cell=nn.GRUCell(6, 8)),
        (r(1, 6), z(1, 8)),
        {1: "h_n"},
    ),
    "states first": (
        lambda: Step(lambda m, h, x: (m.cell(x, h), x.sum(-1)), cell=nn.GRUCell(6, 8)),
        (z(1, 8), r(1, 6)),
        {"args_0": 0},
        lambda y: (y[1:], y[:1]),
    ),
    "another order": (
        lambda: Step(lambda m, x, h, c: (*m.cell(x, (h, c))[::-1], x), cell=nn.LSTMCell(6, 8)),
        (r(1, 6), z(1, 8), z(1, 8)),
        {1: 1, 2: 0},
        lambda y: (y[2:], y[1::-1]),
    ),
    "cells of compactrnn": (
        lambda: Step(
            lambda m, x, a, b: (lambda y, z: (z[0], *y[1], *z[1]))(y := m.a(x, (a,)), m.b(y[0], (b,))),
            a=cr.MGU(6, 8),
            b=cr.cells.GRU(8, 5, hidden_weight=cr.LowRank(rank=2)),
        ),
        (r(1, 6), z(1, 8), z(1, 5)),
        [1, 2],
    ),
    "cr.Recurrent": (
        lambda: Step(lambda m, x, h: m.rnn(x, h), rnn=cr.Recurrent(cr.MGU, 6, 8)),
        (r(1, 1, 6), z(1, 1, 8)),
        [1],
    ),
    "shift register": (lambda: Step(delayed, fc=nn.Linear(9, 4)), (r(1, 3), z(1, 3), z(1, 3)), [1, 2]),
    "states change places": (lambda: Step(swapped), (r(1, 3), z(1, 3), z(1, 3)), [1, 2]),
    "a state that stays": (lambda: Step(untouched, fc=nn.Linear(3, 4)), (r(1, 3), z(1, 4), z(1, 4)), [1, 2]),
    "running mean": (lambda: Step(running), (r(1, 3), z(1, 3), z(1, 1)), [1, 2]),
    "past inputs": (lambda: Step(cached, fc=nn.Linear(12, 4)), (r(1, 3), z(1, 3, 3)), [1]),
    "linear attention": (lambda: Step(linear_attention, qkv=nn.Linear(6, 12)), (r(1, 6), z(1, 4, 4)), [1]),
    "masked": (
        lambda: Step(masked, cell=nn.GRUCell(6, 8), fc=nn.Linear(8, 2)),
        (r(1, 6), torch.ones(1, 1), z(1, 8)),
        [2],
    ),
    "past of a convolution": (lambda: Streamed(), (r(1, 4), z(1, 4, 2), z(1, 8)), ["past", "h"]),
    "tuples of states": (lambda: Nested(), (r(1, 6), ((z(1, 8), z(1, 8)), (z(1, 5), z(1, 5)))), ["states"]),
    "one cell twice": (lambda: Step(deep, cell=nn.GRUCell(8, 8)), (r(1, 8), z(1, 8)), [1]),
    "a flag": (
        lambda: Step(chosen, cell=nn.GRUCell(6, 8), fc=nn.Linear(8, 2)),
        (r(1, 6), torch.tensor([[False]]), z(1, 8)),
        [2],
    ),
    "both directions": (
        lambda: Step(lambda m, x, h: m.rnn(x, h), rnn=nn.GRU(6, 8, bidirectional=True)),
        (r(1, 1, 6), z(2, 1, 8)),
        [1],
    ),
    "no state given": (
        lambda: Step(lambda m, x, h: (m.one(x)[0], m.two(m.one(x)[0], h)), one=nn.LSTMCell(6, 8), two=nn.RNNCell(8, 8)),
        (r(1, 6), z(1, 8)),
        [1],
    ),
    "float64": (lambda: nn.GRUCell(6, 8).double(), (r(1, 6).double(), z(1, 8).double()), ["hx"], both),
    "a delay line": (
        lambda: Step(lambda m, x, s: (lambda y, after: (y, *after))(*m.cell(x, (s,))), cell=cr.FSMN(6, 8)),
        (r(1, 6), z(1, 40)),
        [1],
    ),
    "the state before": (
        lambda: Step(lambda m, x, h: (h, m.cell(x, h)), cell=nn.GRUCell(6, 8)),
        (r(1, 6), z(1, 8)),
        [1],
    ),
    "a constant beside": (
        lambda: Step(lambda m, x, h: (m.fc.weight, m.cell(x, h)), cell=nn.GRUCell(6, 8), fc=nn.Linear(2, 2)),
        (r(1, 6), z(1, 8)),
        [1],
    ),
}
