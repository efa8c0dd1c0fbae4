"""Models as people write them, packed as they are and compared with torch at several lengths."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from test_lower_refusals import Uses

F = nn.functional
N, STEPS, CLOSE = 8, (1, 2, 3, 13, 37), 1e-5


def layer(kind: type = nn.GRU, **options):
    return kind(N, N, batch_first=True, **options)


def bank(m, x):
    """The convolution bank and highway layers of Tacotron's CBHG module (Wang et al., 2017)."""
    steps, y = x.shape[1], x.mT
    y = torch.cat([norm(conv(y).relu())[..., :steps] for conv, norm in zip(m.convs, m.norms, strict=True)], 1)
    y = m.project(F.max_pool1d(y, 2, 1, 1)[..., :steps]).mT + x
    gate = m.gate(y).sigmoid()
    return m.gru(m.high(y).relu() * gate + y * (1 - gate))[0]


def make_bank():
    sizes = range(1, 5)
    return Uses(
        bank, convs=nn.ModuleList(nn.Conv1d(N, N, k, padding=k // 2, bias=False) for k in sizes),
        norms=nn.ModuleList(nn.BatchNorm1d(N) for _ in sizes), project=nn.Conv1d(4 * N, N, 3, padding=1),
        gate=nn.Linear(N, N), high=nn.Linear(N, N), gru=layer(bidirectional=True),
    )  # fmt: skip


def cut_later(function):
    """What a convolution makes one step longer, and `function` of it and its steps as many as there should be."""
    return lambda: Uses(
        lambda m, x: m.gru(function(m.conv(x.mT).relu())[..., : x.shape[1]].mT)[0],
        conv=nn.Conv1d(N, N, 4, padding=2), gru=layer(),
    )  # fmt: skip


def attend(mask):
    """Causal attention as of nanoGPT; `mask` gives the scores that count, of a buffer of 40 steps."""

    def run(m, x):
        y = m.lstm(x)[0]
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in m.all(y).chunk(3, -1))
        scores = mask(m, q @ k.mT / math.sqrt(N // 2), x.shape[1])
        return y + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def make():
        model = Uses(run, lstm=layer(nn.LSTM), all=nn.Linear(N, 3 * N))
        model.register_buffer("mask", torch.ones(40, 40).tril())
        return model

    return make


def bagged(mode, **options):
    return lambda: Uses(
        lambda m, x: m.gru(m.bag(x.flatten(0, 1)).unflatten(0, x.shape[:2]))[0],
        bag=nn.EmbeddingBag(9, N, mode=mode, **options), gru=layer(),
    )  # fmt: skip


def numbers(steps, batch=1):
    return torch.randn(batch, steps, N)


def tokens(steps, batch=1):
    return torch.randint(0, 9, (batch, steps, 3))


def differences(m, x):
    """Beside the features how they change, as a speech recognizer may have them; nothing at the first step."""
    return m.gru(torch.cat([x, F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))], -1))[0]


MODELS = {
    "differences": (lambda: Uses(differences, gru=nn.GRU(2 * N, N, batch_first=True)), numbers, None),
    "a bank of convolutions": (make_bank, numbers, None),
    "norm of longer steps": (cut_later(lambda y: (y - y.mean(1, keepdim=True)) * 2), numbers, None),
    "sum of longer steps": (cut_later(lambda y: y + y.tanh()), numbers, None),
    "mask filled": (attend(lambda m, s, n: s.masked_fill(m.mask[:n, :n] == 0, -math.inf)), numbers, 40),
    "mask chosen": (attend(lambda m, s, n: torch.where(m.mask[:n, :n].bool(), s, -1e9)), numbers, 40),
    "mask added": (attend(lambda m, s, n: s + (m.mask[:n, :n] - 1) * 1e9), numbers, 40),
    "bags": (bagged("mean"), tokens, None),
    "bags with padding": (bagged("mean", padding_idx=1), tokens, None),
    "largest of bags": (bagged("max", padding_idx=-1), tokens, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_gives_what_torch_gives(name, tmp_path):
    make, given, most = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    cr.pack(model, tmp_path / "m.crnn", given(12, 2), weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    assert engine.most_steps == most
    for steps in (*STEPS, *filter(None, (most,))):
        x = given(steps)
        with torch.no_grad():
            wanted = model(x)[0].numpy()
        np.testing.assert_allclose(engine.run(x[0].numpy()), wanted, rtol=CLOSE, atol=CLOSE)
    if most:
        with pytest.raises(ValueError, match="at most 40: the model takes no more, got 41"):
            engine.run(given(41)[0].numpy())


REFUSED = {
    "steps that are not cut off": (
        lambda: Uses(lambda m, x: m.gru(m.conv(x.mT).relu().mT)[0],
                     conv=nn.Conv1d(N, N, 4, padding=2), gru=layer()),
        numbers, "reads what padding behind the last step adds to it.*cut it off",
    ),
    "a mean of them": (
        lambda: Uses(lambda m, x: m.gru(x)[0] + m.conv(x.mT).tanh().mean(2)[:, None],
                     conv=nn.Conv1d(N, N, 4, padding=2), gru=layer()),
        numbers, "tanh: reads what padding behind the last step adds to it",
    ),
    "complex numbers": (
        lambda: Uses(lambda m, x: torch.view_as_real(torch.view_as_complex(m.gru(x)[0].unflatten(-1, (-1, 2))) * 1j),
                     gru=layer()),
        numbers, "complex numbers are not taken: rotary positions are",
    ),
    "bags from offsets": (
        lambda: Uses(lambda m, x: m.gru(m.bag(x.flatten(), torch.arange(0, x.numel(), 3)).view(*x.shape[:2], -1))[0],
                     bag=nn.EmbeddingBag(9, N), gru=layer()),
        tokens, "without offsets and max_norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_gives_the_reason(name, tmp_path):
    make, given, why = REFUSED[name]
    with pytest.raises(cr.UnsupportedModelError, match=why):
        cr.pack(make().eval(), tmp_path / "m.crnn", given(12, 2))
    assert not list(tmp_path.iterdir())
