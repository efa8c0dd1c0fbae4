"""Decoders that run a fixed number of steps from what an encoder found, packed with it."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from test_lower_refusals import Uses

N, H, CLOSE = 4, 8, 1e-5


def layer(kind: type = nn.GRU, inputs=N, **options):
    return kind(inputs, H, batch_first=True, **options)


def fed_back(first, **layers):
    """Five results, each of which is the decoder's next input."""

    def run(m, x):
        state, y, found = m.encoder(x)[1], first(m, x), []
        for _ in range(5):
            h, state = m.decoder(y, state)
            found.append(y := m.head(h))
        return torch.cat(found, 1)

    return lambda: Uses(run, head=nn.Linear(H, N), start=nn.Parameter(torch.randn(1, 1, N)), **layers)


def zeros(m, x):
    return x.new_zeros(len(x), 3, N)


def with_state(m, x):
    """The decoder's outputs and last states, and the encoder's outputs, which go on in a stream."""
    y, (h, c) = m.encoder(x)
    return *m.decoder(h[-1:].transpose(0, 1).expand(-1, 3, -1), (h, c)), y


def attends(m, x):
    keys, h = m.encoder(x)
    found = []
    for _ in range(2):
        seen = torch.bmm((h.transpose(0, 1) @ keys.mT).softmax(-1), keys)
        y, h = m.decoder(seen, h)
        found.append(y)
    return torch.cat(found, 1)


FORECASTS = {
    "last input first": fed_back(lambda m, x: x[:, -1:], encoder=layer(), decoder=layer()),
    "zeros first": fed_back(lambda m, x: zeros(m, x)[:, :1], encoder=layer(nn.LSTM), decoder=layer(nn.LSTM)),
    "a parameter first": fed_back(
        lambda m, x: m.start.expand(len(x), -1, -1),
        encoder=layer(nn.LSTM, num_layers=2), decoder=layer(nn.LSTM, num_layers=2)),
    "the last state again": lambda: Uses(
        lambda m, x: m.decoder(m.encoder(x)[1][-1].unsqueeze(1).repeat(1, 3, 1))[0],
        encoder=layer(), decoder=layer(inputs=H)),
    "all that there is": lambda: Uses(with_state, encoder=layer(nn.LSTM), decoder=layer(nn.LSTM, inputs=H)),
    "zeros, projected": lambda: Uses(
        lambda m, x: m.decoder(zeros(m, x), m.encoder(x)[1])[0],
        encoder=layer(nn.LSTM, proj_size=3), decoder=layer(nn.LSTM, proj_size=3)),
    "both directions": lambda: Uses(
        lambda m, x: m.decoder(zeros(m, x), m.encoder(x)[1].repeat(2, 1, 1))[0],
        encoder=layer(nn.RNN), decoder=layer(nn.RNN, bidirectional=True)),
    "another cell": lambda: Uses(
        lambda m, x: m.decoder(m.encoder(x)[0][:, -1:].expand(-1, 3, -1))[0],
        encoder=layer(), decoder=cr.Recurrent(cr.MGU, H, H, batch_first=True)),
    "a mean": lambda: Uses(
        lambda m, x: m.decoder(m.encoder(x)[0].mean(1, keepdim=True).expand(-1, 3, -1))[0],
        encoder=layer(), decoder=layer(nn.LSTM, inputs=H)),
    "attention": lambda: Uses(attends, encoder=layer(), decoder=layer(inputs=H)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:not among the engine", "ignore:LSTM with projections")
@pytest.mark.parametrize("name", FORECASTS)
def test_the_forecast_is_that_of_torch(name, tmp_path):
    torch.manual_seed(0)
    model = FORECASTS[name]().eval()
    cr.pack(model, tmp_path / "m.crnn", torch.randn(2, 12, N), weights="float32")
    engine, x = cr.Engine(tmp_path / "m.crnn"), torch.randn(1, 30, N)
    assert engine.offline == (name in ("a mean", "attention"))

    def same(found, steps, each: slice | int = slice(None)):
        with torch.no_grad():
            wanted = model(x[:, :steps])
        if isinstance(wanted, tuple):
            forecast, states, y = wanted
            wanted, found = [forecast[0], *(s[:, 0] for s in states), y[0, each]], list(found)
        else:
            wanted, found = [wanted[0]], [found]
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=CLOSE, atol=CLOSE)

    for steps in (1, 2, 30):
        same(engine.run(x[0, :steps].numpy()), steps)
    if not engine.offline:
        stream = engine.stream()
        for step in range(30):
            same(stream.step(x[0, step].numpy()), step + 1, -1)


def test_the_forecast_in_int8(tmp_path):
    torch.manual_seed(0)
    model, data = FORECASTS["last input first"]().eval(), [torch.randn(2, 30, N) for _ in range(3)]
    assert cr.pack(model, tmp_path / "m.crnn", data[0], calibration=data).error < 0.02
