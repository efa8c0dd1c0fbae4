"""Small models of speech enhancement: causal convolutions over time and frequency, layers over both axes."""

import torch
from torch import nn
from torch.nn import functional as F


class Front(nn.Module):
    """A function of the input (batch, time, 8), which may use `layer`, then a GRU."""

    def __init__(self, function, width, layer=None):
        super().__init__()
        self.function, self.layer = function, layer
        self.fc, self.gru = nn.Linear(width, 8), nn.GRU(8, 6, batch_first=True)

    def forward(self, x):
        return self.gru(self.fc(self.function(self, x)))[0]


def flat(y):
    """(batch, channels, time, bands) with channels and bands as features."""
    return y.permute(0, 2, 1, 3).flatten(2)


def causal(steps, bands=1):
    return lambda m, x: flat(
        m.layer(F.pad(x[:, None].expand(-1, m.layer.in_channels, -1, -1), (bands, bands, steps, 0)))
    )


FRONTS = {
    "time and bands": (causal(1), 3 * 8, nn.Conv2d(1, 3, (2, 3))),
    "dilated, strided over bands": (causal(4), 3 * 4, nn.Conv2d(1, 3, (3, 3), (1, 2), dilation=(2, 1))),
    "depthwise": (causal(2), 4 * 8, nn.Conv2d(4, 4, 3, groups=4)),
    "depthwise, two of a channel": (causal(1), 8 * 8, nn.Conv2d(4, 8, (2, 3), groups=4)),
    "in groups": (causal(1), 2 * 8, nn.Conv2d(12, 2, (2, 3), groups=2)),
    "bands of the same size": (lambda m, x: flat(m.layer(x[:, None])), 3 * 8, nn.Conv2d(1, 3, (1, 3), padding="same")),
    "time last": (
        lambda m, x: m.layer(F.pad(x.mT[:, None], (1, 0, 1, 1))).permute(0, 3, 1, 2).flatten(2),
        3 * 8,
        nn.Conv2d(1, 3, (3, 2)),
    ),
    "cut behind": (lambda m, x: flat(m.layer(x[:, None])[:, :, :-2]), 3 * 8, nn.Conv2d(1, 3, 3, padding=(2, 1))),
    "cut behind, one axis": (lambda m, x: m.layer(x.mT)[..., :-4].mT, 8, nn.Conv1d(8, 8, 3, padding=4, dilation=2)),
    "transposed over bands": (lambda m, x: flat(m.layer(x[:, None])), 3 * 17, nn.ConvTranspose2d(1, 3, (1, 3), (1, 2))),
    "transposed over time": (
        lambda m, x: flat(m.layer(x[:, None].expand(-1, 2, -1, -1))[:, :, :-1]),
        6 * 17,
        nn.ConvTranspose2d(2, 6, (2, 3), (1, 2), groups=2),
    ),
    "gated": (lambda m, x: flat(F.glu(m.layer(F.pad(x[:, None], (1, 1, 1, 0))), 1)), 3 * 8, nn.Conv2d(1, 6, (2, 3))),
    "maximum of bands": (
        lambda m, x: flat(F.max_pool2d(m.layer(F.pad(x[:, None], (1, 1, 1, 0))), (1, 2))),
        3 * 4,
        nn.Conv2d(1, 3, (2, 3)),
    ),
    "average of bands": (lambda m, x: flat(F.avg_pool2d(x[:, None], (1, 2))), 4, None),
    "average over all bands": (
        lambda m, x: F.adaptive_avg_pool2d(m.layer(F.pad(x[:, None], (1, 1, 1, 0))), (None, 1))[..., 0].mT,
        3,
        nn.Conv2d(1, 3, (2, 3)),
    ),
    "repeated bands": (
        lambda m, x: flat(F.interpolate(m.layer(x[:, None]), scale_factor=(1, 2))),
        3 * 8,
        nn.Conv2d(1, 3, (1, 3), (1, 2), padding=(0, 1)),
    ),
    "unfolded bands": (
        lambda m, x: flat(m.layer(x[:, None]).unflatten(2, (-1, 8))),
        3 * 8,
        nn.Unfold((1, 3), padding=(0, 1)),
    ),
    "bands that share a layer": (
        lambda m, x: m.layer(x.unflatten(-1, (4, 2)).transpose(1, 2).flatten(0, 1))[0]
        .unflatten(0, (-1, 4)).transpose(1, 2).flatten(2),
        4 * 5,
        nn.LSTM(2, 5, batch_first=True),
    ),
}  # fmt: skip


class Block(nn.Module):
    """A causal convolution, batch norm and activation."""

    def __init__(self, inputs, outputs, pad=nn.ZeroPad2d, act=nn.PReLU):
        super().__init__()
        self.pad = pad((1, 1, 1, 0)) if pad is nn.ZeroPad2d else pad((1, 1, 1, 0), 0.0)
        self.conv, self.norm = nn.Conv2d(inputs, outputs, (2, 3), (1, 2)), nn.BatchNorm2d(outputs)
        self.act = act(outputs) if act is nn.PReLU else act()

    def forward(self, x):
        return self.act(self.norm(self.conv(self.pad(x))))


class Recurrent(nn.Module):
    """Encoder, a GRU over all bands, and a decoder of transposed convolutions: a mask for (batch, time, 17)."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleList([Block(1, 4), Block(4, 6, nn.ConstantPad2d, nn.ReLU)])
        self.gru = nn.GRU(6 * 5, 6 * 5, batch_first=True)
        self.up, self.norm = nn.ConvTranspose2d(12, 4, (1, 3), (1, 2), padding=(0, 1)), nn.BatchNorm2d(4)
        self.last = nn.ConvTranspose2d(8, 1, (1, 3), (1, 2), padding=(0, 1))

    def forward(self, x):
        first = self.encoder[0](x[:, None])
        second = self.encoder[1](first)
        y = self.gru(flat(second))[0].unflatten(-1, (6, 5)).transpose(1, 2)
        y = F.elu(self.norm(self.up(torch.cat([y, second], 1))))
        return x * self.last(torch.cat([y, first], 1))[:, 0].sigmoid()


class Dual(nn.Module):
    """(batch, time, bands, channels): a layer over the bands of each step, then one over time, for every band."""

    def __init__(self, intra=nn.GRU, inter=nn.GRU, bands=None, channels=6, **options):
        super().__init__()
        self.intra = intra(channels, 4, batch_first=True, **{"bidirectional": True, **options})
        self.inter = inter(channels, 5, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(8 if self.intra.bidirectional else 4, channels), nn.Linear(5, channels)
        self.norms = nn.ModuleList(nn.LayerNorm([bands, channels]) if bands else nn.Identity() for _ in range(2))

    def forward(self, x):
        b, t, f, c = x.shape
        x = x + self.norms[0](self.fc1(self.intra(x.reshape(b * t, f, c))[0]).reshape(b, t, f, c))
        y = self.fc2(self.inter(x.transpose(1, 2).reshape(b * f, t, c))[0])
        return x + self.norms[1](y.reshape(b, f, t, c).transpose(1, 2))


class Grouped(nn.Module):
    """(batch, channels, time, bands): two layers for two groups of channels, from given states (GTCRN)."""

    def __init__(self):
        super().__init__()
        self.intra = nn.ModuleList(nn.GRU(2, 2, batch_first=True, bidirectional=True) for _ in range(2))
        self.inter = nn.ModuleList(nn.GRU(2, 2, batch_first=True) for _ in range(2))
        self.fc, self.norm = nn.Linear(8, 4), nn.LayerNorm((7, 4), eps=1e-8)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        b, t, f, c = x.shape
        zeros = torch.zeros(2, b * t, 2)
        y = [g(part, zeros)[0] for g, part in zip(self.intra, x.reshape(b * t, f, c).chunk(2, -1), strict=True)]
        x = x + self.norm(self.fc(torch.cat(y, -1)).view(b, t, f, c))
        y = [
            g(part)[0] for g, part in zip(self.inter, x.transpose(1, 2).reshape(b * f, t, c).chunk(2, -1), strict=True)
        ]
        return (x + torch.cat(y, -1).view(b, f, t, c).transpose(1, 2)).permute(0, 3, 1, 2)


class Path(nn.Module):
    """An encoder of convolutions, dual-path blocks, and a decoder: (batch, 2, time, 17) (DPCRN)."""

    def __init__(self, blocks=2, **options):
        super().__init__()
        self.encoder = nn.Sequential(Block(2, 4), Block(4, 6))
        self.blocks = nn.Sequential(*(Dual(**options) for _ in range(blocks)))
        self.up = nn.ConvTranspose2d(6, 4, (1, 3), (1, 2), padding=(0, 1))
        self.last, self.act = nn.ConvTranspose2d(4, 2, (1, 3), (1, 2), padding=(0, 1)), nn.PReLU()

    def forward(self, x):
        y = self.blocks(self.encoder(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(self.act(self.up(y)))


# The model, an example, and its time axis.
MODELS = {
    **{f"front: {name}": (lambda made=made: Front(*made), (2, 12, 8), 1) for name, made in FRONTS.items()},
    "encoder and decoder": (Recurrent, (2, 12, 17), 1),
    "dual path": (Dual, (1, 12, 7, 6), 1),
    "dual path, a batch": (Dual, (2, 9, 7, 6), 1),
    "dual path, as many steps as bands": (Dual, (1, 7, 7, 6), 1),
    "dual path, norms over bands and channels": (lambda: Dual(bands=7), (1, 12, 7, 6), 1),
    "dual path, one direction": (lambda: Dual(bands=7, bidirectional=False), (1, 12, 7, 6), 1),
    "dual path of LSTMs": (lambda: Dual(nn.LSTM, nn.LSTM), (1, 12, 7, 6), 1),
    "dual path of RNNs": (lambda: Dual(nn.RNN, nn.RNN), (1, 9, 4, 6), 1),
    "dual path, two layers": (lambda: Dual(num_layers=2), (1, 12, 7, 6), 1),
    "dual path in groups": (Grouped, (1, 4, 12, 7), 2),
    "blocks between convolutions": (Path, (1, 2, 12, 17), 2),
    "a block of one direction between convolutions": (
        lambda: Path(1, intra=nn.LSTM, bidirectional=False),
        (1, 2, 12, 17),
        2,
    ),
}


def made(name):
    """The model of this name in eval mode, its example and its time axis; norms have statistics of their own."""
    torch.manual_seed(0)
    make, shape, time = MODELS[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.6)
    return model.eval(), torch.randn(shape), time
