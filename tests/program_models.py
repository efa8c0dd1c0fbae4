"""Models that can be exported, scripted and traced, for tests."""

import torch
from torch import Tensor, nn

F = nn.functional
r = torch.randn


class Layer(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self, kind, hidden: int = 6, outputs: int = 0, **options):
        super().__init__()
        self.rnn = kind(5, hidden, batch_first=True, **options)
        self.fc = nn.Linear(outputs or hidden, 3)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


class Front(nn.Module):
    """A causal convolution with batch norm, time first, two layers with dropout, layer norm; gives the states too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(5, 8, 3), nn.BatchNorm1d(8)
        self.gru, self.out = (
            nn.GRU(8, 6, 2, dropout=0.2),
            nn.Sequential(nn.LayerNorm(6), nn.Dropout(0.3), nn.Linear(6, 4)),
        )
        self.norm.running_mean.normal_()  # pyright: ignore

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(F.pad(x.transpose(1, 2), (2, 0)))))
        y, h = self.gru(x.permute(2, 0, 1))
        return self.out(y).transpose(0, 1).softmax(-1), h


class Tied(nn.Module):
    """An embedding whose weights are those of the output."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.rnn = nn.RNN(6, 6, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.table.weight

    def forward(self, x):
        return self.out(self.rnn(self.table(x))[0])


class Attention(nn.Module):
    """Attention over all steps."""

    def __init__(self):
        super().__init__()
        self.gru, self.query, self.out = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.gru(x)
        return self.out(torch.softmax(self.query(y) @ y.transpose(1, 2) / 2.5, -1) @ y)


class Views(nn.Module):
    """Shapes that are computed from the number of steps."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(12, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.gru(x.reshape(x.size(0), x.size(1), 12))
        return self.out(y.reshape(-1, 8)).view(x.size(0), x.size(1), 3)


class Twice(nn.Module):
    """One layer that is used twice, and the mean over all steps."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 6))
        self.rnn = nn.RNN(6, 6, batch_first=True)

    def forward(self, x):
        y, _ = self.rnn(self.inner(x))
        return self.rnn(y)[0].mean(1)


class CellStep(nn.Module):
    """One step of an LSTM cell."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(5, 7), nn.Linear(7, 2)

    def forward(self, x, h, c):
        h, c = self.cell(x, (h, c))
        return self.out(h), h, c


class GRUCellStep(nn.Module):
    """One step of a GRU cell."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(5, 7), nn.Linear(7, 2)

    def forward(self, x, h):
        h = self.cell(x, h)
        return self.out(h), h


class LayerStep(nn.Module):
    """One step of a layer over sequences."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(5, 7, 2), nn.Linear(7, 2)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return self.out(y), h, c


class Rates(nn.Module):
    """What runs depends on a number, and on the number of axes."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.GRU(5, 4, batch_first=True), nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor, rate: int, scale: float = 2.0):
        if x.dim() == 2:
            x = x.unsqueeze(0)
        if x.size(2) != 5:
            raise ValueError("expected 5 features")
        y = self.low(x)[0] if rate == 8000 else self.high(x)[0]
        for _ in range(2):
            y = scale * y
        return y


TABLE = {  # model, example, options of pack
    "lstm": (lambda: Layer(nn.LSTM), r(2, 9, 5), {}),
    "gru of two layers": (lambda: Layer(nn.GRU, num_layers=2), r(2, 9, 5), {}),
    "rnn without bias": (lambda: Layer(nn.RNN, bias=False), r(2, 9, 5), {}),
    "both directions": (lambda: Layer(nn.LSTM, outputs=12, bidirectional=True), r(2, 9, 5), {}),
    "projected": (lambda: Layer(nn.LSTM, outputs=3, proj_size=3), r(2, 9, 5), {}),
    "convolution": (Front, r(2, 9, 5), {}),
    "tied": (Tied, torch.randint(11, (2, 9)), {}),
    "attention": (Attention, r(2, 9, 5), {}),
    "views": (Views, r(1, 9, 3, 4), {}),
    "twice": (Twice, r(2, 9, 5), {}),
    "step of a cell": (CellStep, (r(1, 5), r(1, 7), r(1, 7)), {"states": ["h", "c"]}),
    "step of a GRU cell": (GRUCellStep, (r(1, 5), r(1, 7)), {"states": ["h"]}),
    "step of a layer": (LayerStep, (r(1, 1, 5), r(2, 1, 7), r(2, 1, 7)), {"states": ["h", "c"]}),
}
