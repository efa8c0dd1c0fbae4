"""Ways in which people put recurrent layers into models."""

import torch
from torch import nn

import compactrnn as cr
from compactrnn.models.step_norm import StepNorm


class Tagger(nn.Module):
    """Embedding, stacked LSTM, softmax head; returns its states."""

    def __init__(self, hidden=16):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, hidden, 2, batch_first=True)
        self.head = nn.Linear(hidden, 20)

    def forward(self, tokens, states=None):
        h, states = self.lstm(self.embedding(tokens), states)
        return torch.log_softmax(self.head(h), -1), states


class Stacked(nn.Module):
    """Three layers in one module."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 3, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Skip(nn.Module):
    """The second layer and the head both read the first."""

    def __init__(self):
        super().__init__()
        self.one = nn.GRU(6, 16, batch_first=True)
        self.two = nn.LSTM(22, 16, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        a = self.one(x)[0]
        b = self.two(torch.cat([x, a], -1))[0]
        return self.head(torch.cat([a, b], -1))


class Attention(nn.Module):
    """Attention pooling: a weighted mean over time."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 16, batch_first=True)
        self.score = nn.Linear(16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        h = self.gru(x)[0]
        return self.head((torch.softmax(self.score(torch.tanh(h)), 1) * h).sum(1))


class Residual(nn.Module):
    """A residual sum around the layer."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.enter(x)
        return self.head(x + self.lstm(x)[0])


class Normed(nn.Module):
    """Layer norm between the layer and the next one."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 16, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.gru(x)[0]))


class LastState(nn.Module):
    """Only the last layer's final state is used."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(0, 1))[1][0][-1])


class Twice(nn.Module):
    """One LSTM on two inputs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.cat([self.lstm(x)[0], self.lstm(x * 0.5)[0]], -1))


class Gated(nn.Module):
    """Outputs are gated by the input."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 16)
        self.rnn = nn.RNN(6, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.sigmoid(self.gate(x)) * self.rnn(x)[0])


class Convolved(nn.Module):
    """A convolution reads the outputs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True)
        self.head = nn.Conv1d(16, 4, 3, padding=1)

    def forward(self, x):
        return self.head(self.lstm(x)[0].transpose(1, 2))


class Bidirectional(nn.Module):
    """Two layers, both directions."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Projected(nn.Module):
    """An LSTM with projection."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True, proj_size=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Independent(nn.Module):
    """Two layers of IndRNN, both directions."""

    def __init__(self):
        super().__init__()
        self.rnn = cr.Recurrent(cr.IndRNN, 6, 16, 2, batch_first=True, bidirectional=True, steps=7)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Dual(nn.Module):
    """Two layers of DuRNN; both memories of both are used."""

    def __init__(self):
        super().__init__()
        self.rnn = cr.Recurrent(cr.DuRNN, 6, 16, 2, batch_first=True, short_size=12, output="both")
        self.head = nn.Linear(28, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class DualResidual(nn.Module):
    """A residual sum around a DuRNN: its long memory keeps its width, its short one does not."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.rnn = cr.Recurrent(cr.DuRNN, 16, 16, batch_first=True, short_size=12)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.enter(x)
        return self.head(x + self.rnn(x)[0])


class Linear(nn.Module):
    """A GILR, and a MinGRU whose final state is used."""

    def __init__(self):
        super().__init__()
        self.one = cr.Recurrent(cr.GILR, 6, 16, batch_first=True)
        self.two = cr.Recurrent(cr.MinGRU, 16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.two(self.one(x)[0])[1][-1])


class BatchNormed(nn.Module):
    """torch's batch norm, which takes channels second, between two layers and, on single vectors, before the head."""

    def __init__(self):
        super().__init__()
        self.one = nn.LSTM(6, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.two = cr.Recurrent(cr.IndRNN, 16, 16, batch_first=True, steps=7)
        self.last_norm = nn.BatchNorm1d(16, affine=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        y = self.norm(self.one(x)[0].transpose(1, 2)).transpose(1, 2)
        return self.head(self.last_norm(self.two(y)[0][:, -1]))


class StepNormed(nn.Module):
    """The norm of sequence models, after an IndRNN and after a DuRNN."""

    def __init__(self):
        super().__init__()
        self.one = cr.Recurrent(cr.IndRNN, 6, 16, batch_first=True, steps=7)
        self.norm = StepNorm(16)
        self.two = cr.Recurrent(cr.DuRNN, 16, 16, batch_first=True, short_size=12)
        self.last_norm = StepNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.last_norm(self.two(self.norm(self.one(x)[0]))[0]))


def example(model, batch=2, steps=7):
    """An input that `model` takes."""
    if isinstance(model, Tagger):
        return torch.randint(0, 20, (batch, steps))
    return torch.randn(batch, steps, 6)


SHAPES = [
    Tagger, Stacked, Skip, Attention, Residual, Normed, LastState, Twice, Gated, Convolved, Bidirectional, Projected,
    Independent, Dual, DualResidual, Linear, BatchNormed, StepNormed,
]  # fmt: skip
