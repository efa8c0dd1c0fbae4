"""Ways in which people repeat torch's cells in Python; all take (batch, time, 6)."""

import torch
from torch import nn


class Attending(nn.Module):
    """A decoder that attends to the input from h; h and c start from linear layers."""

    def __init__(self, n=16):
        super().__init__()
        self.h0, self.c0, self.cell = nn.Linear(6, n), nn.Linear(6, n), nn.LSTMCell(12, n)
        self.key, self.query, self.gate, self.head = nn.Linear(6, n), nn.Linear(n, n), nn.Linear(n, 6), nn.Linear(n, 4)

    def forward(self, x):
        h, c, outputs = self.h0(x.mean(1)), torch.tanh(self.c0(x.mean(1))), []
        for t in range(x.shape[1]):
            scores = torch.tanh(self.key(x) + self.query(h)[:, None]).sum(-1).softmax(1)
            seen = torch.sigmoid(self.gate(h)) * (scores[..., None] * x).sum(1)
            h, c = self.cell(torch.cat([x[:, t], seen], 1), (h, c))
            outputs.append(self.head(h))
        return torch.stack(outputs, 1)


class ZeroStates(nn.Module):
    """Two cells, one above the other, from zeros whose widths are attributes."""

    def __init__(self, n=16, m=12):
        super().__init__()
        self.n, self.m = n, m
        self.one, self.two, self.head = nn.GRUCell(6, n), nn.RNNCell(n, m, nonlinearity="relu"), nn.Linear(m, 4)

    def forward(self, x):
        h, k, outputs = x.new_zeros(len(x), self.n), torch.zeros(len(x), self.m, dtype=x.dtype), []
        for t in range(x.shape[1]):
            h = self.one(x[:, t], h)
            k = self.two(h, k)
            outputs.append(self.head(k))
        return torch.stack(outputs, 1)


class Inner(nn.Module):
    """A loop in a module of its own, which gives all outputs."""

    def __init__(self, n):
        super().__init__()
        self.hidden_size, self.cell = n, nn.GRUCell(6, n)

    def forward(self, x):
        h = torch.zeros(len(x), self.hidden_size, dtype=x.dtype)
        outputs = []
        for frame in x.unbind(1):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


class OwnModule(nn.Module):
    """The loop of another module, below a dropout, and a batch norm and a convolution that read it."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.head = Inner(16), nn.BatchNorm1d(16), nn.Conv1d(16, 4, 3, padding=1)

    def forward(self, x):
        y = nn.functional.dropout(self.inner(x), 0.2, self.training).transpose(1, 2)
        return self.head(self.norm(y))


class Learned(nn.Module):
    """A stack of cells in a ModuleList, from learned states."""

    def __init__(self, n=16):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(6, n), nn.LSTMCell(n, n, bias=False)])
        self.h = nn.ParameterList([nn.Parameter(torch.randn(1, n)) for _ in range(2)])
        self.c = nn.ParameterList([nn.Parameter(torch.randn(n)) for _ in range(2)])
        self.head = nn.Linear(n, 4)

    def forward(self, x):
        states = [(h.expand(len(x), -1), c.repeat(len(x), 1)) for h, c in zip(self.h, self.c, strict=True)]
        outputs = []
        for y in x.unbind(1):
            for i, cell in enumerate(self.cells):
                states[i] = cell(y, states[i])
                y = states[i][0]
            outputs.append(self.head(y))
        return torch.stack(outputs, 1)


class Bridged(nn.Module):
    """An encoder of nn.LSTM; a linear layer makes the states of the decoder's cell, which is fed its own output."""

    def __init__(self, n=16):
        super().__init__()
        self.encoder, self.bridge = nn.LSTM(6, 12, batch_first=True), nn.Linear(12, 2 * n)
        self.cell, self.score, self.head = nn.LSTMCell(4, n), nn.Linear(n + 12, 1), nn.Linear(n + 12, 4)

    def forward(self, x):
        encoded, (last, _) = self.encoder(x)
        h, c = torch.tanh(self.bridge(last[-1])).chunk(2, -1)
        y, outputs = x[:, 0, :4], []
        for _ in range(x.shape[1]):
            h, c = self.cell(y, (h, c))
            both = torch.cat([encoded, h[:, None].expand(-1, x.shape[1], -1)], -1)
            weights = torch.tanh(self.score(both)).softmax(1)
            y = self.head(torch.cat([h, (weights * encoded).sum(1)], -1))
            outputs.append(y)
        return torch.stack(outputs, 1)


class Handed(nn.Module):
    """The encoder's cell hands its state to the decoder's: their units go only together."""

    def __init__(self, n=16):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.LSTMCell(6, n), nn.LSTMCell(4, n), nn.Linear(n, 4)

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.encoder(x[:, t]) if state is None else self.encoder(x[:, t], state)
        y, outputs = x[:, 0, :4], []
        for _ in range(3):
            state = self.decoder(y, state)
            y = self.head(state[0])
            outputs.append(y)
        return torch.stack(outputs, 1)


class Copying(nn.Module):
    """A head that mixes words of a vocabulary with words of the source, as in pointer-generator networks."""

    def __init__(self, n=16):
        super().__init__()
        self.start, self.cell = nn.Sequential(nn.Linear(6, n), nn.Tanh()), nn.GRUCell(6, n)
        self.query, self.head, self.mix = nn.Linear(n, 6), nn.Linear(n, 9), nn.Linear(n + 6, 1)

    def forward(self, x):
        h, outputs = self.start(x[:, -1]), []
        source = (x[..., 0] > 0).long()
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            attention = torch.bmm(x, self.query(h)[..., None]).squeeze(-1).softmax(-1)
            share = torch.sigmoid(self.mix(torch.cat([h, x[:, t]], -1)))
            words = share * self.head(h).softmax(-1)
            outputs.append(words.scatter_add(1, source, (1 - share) * attention))
        return torch.stack(outputs, 1)


class BothWays(nn.Module):
    """A cell for each direction, and a mask that holds states of sequences that have ended."""

    def __init__(self, n=16):
        super().__init__()
        self.n = n
        self.forwards, self.backwards, self.head = nn.LSTMCell(6, n), nn.LSTMCell(6, n), nn.Linear(2 * n, 4)

    def forward(self, x):
        live = (x.abs().sum(-1, keepdim=True) > 1).to(x.dtype)

        def run(cell, times):
            h = c = x.new_zeros(len(x), self.n)
            for t in times:
                new, c = cell(x[:, t], (h, c))
                h = live[:, t] * new + (1 - live[:, t]) * h
            return h

        steps = range(x.shape[1])
        return self.head(torch.cat([run(self.forwards, steps), run(self.backwards, reversed(steps))], -1))


class Written(nn.Module):
    """Hidden states are written into a tensor, one step after the other; half of them through a dropout."""

    def __init__(self, n=16):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, n), nn.Linear(n, 4)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.cell.hidden_size)
        ys = x.new_zeros(len(x), x.shape[1], self.cell.hidden_size)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
            h = nn.functional.dropout(h, 0.1, self.training)
            ys[:, t] = h
        return self.head(ys)


class Residual(nn.Module):
    """A sum of h and its input, which keeps its width."""

    def __init__(self, n=16):
        super().__init__()
        self.enter, self.cell, self.head = nn.Linear(6, n), nn.LSTMCell(n, n), nn.Linear(n, 4)

    def forward(self, x):
        state, outputs = None, []
        for t in range(x.shape[1]):
            y = self.enter(x[:, t])
            state = self.cell(y, state)
            outputs.append(self.head(y + state[0]))
        return torch.stack(outputs, 1)


class Normed(nn.Module):
    """Layer norm of h between steps, which mixes all units."""

    def __init__(self, n=16):
        super().__init__()
        self.start, self.cell, self.norm, self.head = (
            nn.Linear(6, n),
            nn.GRUCell(6, n),
            nn.LayerNorm(n),
            nn.Linear(n, 4),
        )

    def forward(self, x):
        h = self.start(x[:, 0])
        for t in range(x.shape[1]):
            h = self.norm(self.cell(x[:, t], h))
        return self.head(h)


class Stateful(nn.Module):
    """States are taken and given back, as in decoding step by step; they keep their width."""

    def __init__(self, n=16):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, n), nn.Linear(n, 4)

    def forward(self, x, state=None):
        outputs = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(self.head(state[0]))
        return torch.stack(outputs, 1), state


class TwoStreams(nn.Module):
    """One cell on two streams, one of which it has made itself."""

    def __init__(self, n=16):
        super().__init__()
        self.cell, self.head = nn.RNNCell(16, n), nn.Linear(2 * n, 4)
        self.enter = nn.Linear(6, 16)

    def forward(self, x):
        h, k, outputs = None, None, []
        for t in range(x.shape[1]):
            h = self.cell(self.enter(x[:, t]), h)
            k = self.cell(h, k)
            outputs.append(self.head(torch.cat([h, k], -1)))
        return torch.stack(outputs, 1)


class ConvGRU(nn.Module):
    """A GRU of channels, written out; takes (batch, time, 1, height, width)."""

    def __init__(self, n=8):
        super().__init__()
        self.n, self.enter = n, nn.Conv2d(1, 5, 3, padding=1)
        self.gates, self.new = nn.Conv2d(5 + n, 2 * n, 3, padding=1), nn.Conv2d(5 + n, n, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(n), nn.Conv2d(n, 1, 1)

    def forward(self, video):
        h = video.new_zeros(len(video), self.n, *video.shape[3:])
        for frame in video.unbind(1):
            x = self.enter(frame)
            r, z = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
            h = (1 - z) * h + z * torch.tanh(self.new(torch.cat([x, r * h], 1)))
        return self.head(self.norm(h))


class ConvLSTMStep(nn.Module):
    """One step of an LSTM of channels, as it is found in many repositories."""

    def __init__(self, inputs, n):
        super().__init__()
        self.hidden_dim, self.conv = n, nn.Conv2d(inputs + n, 4 * n, 3, padding=1)

    def forward(self, x, state):
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_dim, *x.shape[2:]),) * 2
        h, c = state
        i, f, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden_dim, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    """Two of them, one above the other."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = ConvLSTMStep(1, 8), ConvLSTMStep(8, 6), nn.Conv2d(6, 1, 1)

    def forward(self, video):
        h = k = None
        outputs = []
        for t in range(video.shape[1]):
            h = self.one(video[:, t], h)
            k = self.two(h[0], k)
            outputs.append(self.head(k[0]))
        return torch.stack(outputs, 1)


class WrittenGRU(nn.Module):
    """A GRU of linear layers; takes (batch, time, 6)."""

    def __init__(self, n=8):
        super().__init__()
        self.n, self.of_x, self.of_h, self.head = n, nn.Linear(6, 3 * n), nn.Linear(n, 3 * n), nn.Linear(n, 4)

    def forward(self, x):
        h, outputs = x.new_zeros(len(x), self.n), []
        for t in range(x.shape[1]):
            xr, xz, xn = self.of_x(x[:, t]).chunk(3, 1)
            hr, hz, hn = self.of_h(h).chunk(3, 1)
            new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            h = new + torch.sigmoid(xz + hz) * (h - new)
            outputs.append(self.head(h))
        return torch.stack(outputs, 1)


# with an example, and the sizes that are halved with the units
WRITTEN_OUT = {
    ConvGRU: ((2, 3, 1, 5, 4), {"n": 8, "gates.out_channels": 16, "new.out_channels": 8, "head.in_channels": 8}),
    ConvLSTM: ((2, 3, 1, 5, 4), {"one.hidden_dim": 8, "two.hidden_dim": 6, "one.conv.out_channels": 32}),
    WrittenGRU: ((3, 3, 6), {"n": 8, "of_x.out_features": 24, "of_h.out_features": 24, "of_h.in_features": 8}),
}

# with the widths that the cells have outside when half of the units of each are gone
LOOPS = {
    Attending: [8], ZeroStates: [8, 6], OwnModule: [8], Learned: [8, 8], Bridged: [8], Handed: [8, 8], Copying: [8],
    BothWays: [8, 8], Written: [8], Residual: [16], Normed: [16], Stateful: [16], TwoStreams: [16],
}  # fmt: skip
