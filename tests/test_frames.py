"""Models with strides over time: a step of the engine is several frames, as many as give one result."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.emit.frames import frames_a_step
from test_lower_refusals import Uses

F = nn.functional
STEPS, CLOSE = (1, 2, 3, 8, 21), 2e-5


def over(conv, x):
    """A convolution or pooling over the time of (batch, time, features)."""
    return conv(x.mT).mT


def gru(inputs=8, **options):
    return nn.GRU(inputs, 5, batch_first=True, **options)


def conv(inputs=6, kernel=3, stride=2, padding=1, **options):
    return nn.Conv1d(inputs, 8, kernel, stride, padding, **options)


def image_lines(m, x):
    """Text in an image: convolutions and pooling over both axes, then a layer along the width."""
    x = F.max_pool2d(torch.relu(m.a(x)), 2)
    x = F.max_pool2d(torch.relu(m.norm(m.b(x))), (2, 1))
    x = F.max_pool2d(torch.relu(m.c(x)), (3, 3), (2, 2), 1)
    return m.out(m.g(x.permute(0, 3, 1, 2).flatten(2))[0]).log_softmax(-1)


def cut(n, x):
    return F.pad(x, (0, 0, n, 0))


# By name: frames a step, whether it streams, the shape of an example, the model.
MODELS = {
    "conv1d": (2, True, (2, 40, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(), g=gru())),
    "an example that is cut": (2, True, (1, 41, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(), g=gru())),
    "without padding": (
        3, True, (1, 30, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(6, 3, 3, 0), g=gru())),
    "causal": (
        2, True, (1, 40, 6), lambda: Uses(lambda m, x: m.g(over(m.c, cut(3, x)))[0], c=conv(6, 5, 2, 0), g=gru())),
    "causal, dilated": (
        2, True, (1, 40, 6),
        lambda: Uses(lambda m, x: m.g(over(m.c, cut(3, x)))[0], c=conv(6, 3, 2, 0, dilation=2), g=gru())),
    "padded at both ends": (
        2, False, (1, 40, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(6, 5, 2, 2), g=gru())),
    "two strides": (
        6, False, (2, 48, 6),
        lambda: Uses(lambda m, x: m.g(over(m.d, over(m.c, x).relu()))[0], c=conv(6, 3, 2), d=conv(8, 5, 3, 2),
                     g=gru(bidirectional=True))),
    "a stride, fewer at the ends": (
        2, False, (2, 41, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(6, 5, 2, 0), g=gru())),
    "fewer steps, then fewer frames": (
        2, False, (1, 40, 6),
        lambda: Uses(lambda m, x: m.g(F.max_pool1d(over(m.c, x).mT, 2).mT)[1][0], c=conv(6, 5, 1, 0),
                     g=gru(bidirectional=True))),
    "depthwise": (2, True, (1, 40, 8), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(8, groups=8), g=gru())),
    "in groups": (2, True, (1, 40, 8), lambda: Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(8, groups=2), g=gru())),
    "avg_pool1d": (2, True, (1, 40, 6), lambda: Uses(lambda m, x: m.g(F.avg_pool1d(x.mT, 2).mT)[0], g=gru(6))),
    "max_pool1d": (3, True, (1, 42, 6), lambda: Uses(lambda m, x: m.g(F.max_pool1d(x.mT, 3).mT)[0], g=gru(6))),
    "max_pool1d beyond the end": (
        2, False, (1, 40, 6), lambda: Uses(lambda m, x: m.g(F.max_pool1d(x.mT, 3, 2, ceil_mode=True).mT)[0], g=gru(6))),
    "max_pool1d of what a convolution looks back": (
        2, True, (1, 40, 6),
        lambda: Uses(lambda m, x: m.g(F.max_pool1d(over(m.c, cut(2, x)).mT, 2).mT)[0], c=conv(6, 3, 1, 0), g=gru())),
    "every second frame": (2, True, (1, 40, 6), lambda: Uses(lambda m, x: m.g(x[:, ::2])[0], g=gru(6))),
    "stacked frames": (
        3, True, (1, 39, 6),
        lambda: Uses(lambda m, x: m.g(x.reshape(x.shape[0], x.shape[1] // 3, 3 * x.shape[2]))[0], g=gru(18))),
    "stacked frames, their number open": (
        3, True, (2, 39, 6), lambda: Uses(lambda m, x: m.g(x.view(len(x), -1, 18))[0], g=gru(18))),
    "stacked twice": (  # as a pyramid of layers
        4, True, (1, 40, 6),
        lambda: Uses(lambda m, x: m.h(m.g(x.view(len(x), -1, 12))[0].reshape(len(x), -1, 10))[0], g=gru(12),
                     h=gru(10))),
    "a layer before": (
        2, True, (1, 40, 6), lambda: Uses(lambda m, x: m.h(over(m.c, m.g(x)[0]))[0], g=gru(6), c=conv(5), h=gru())),
    "an LSTM of both directions before": (
        2, False, (1, 40, 6),
        lambda: Uses(lambda m, x: m.h(over(m.c, m.g(x)[0]))[0], c=conv(8), h=gru(),
                     g=nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True))),
    "a layer before, no other": (
        2, True, (1, 40, 6), lambda: Uses(lambda m, x: over(m.c, m.g(x)[0]), g=gru(6), c=conv(5))),
    "a cell of our own before": (
        2, True, (1, 40, 6),
        lambda: Uses(lambda m, x: over(m.c, m.g(x)[0]), c=conv(5), g=cr.Recurrent(cr.MGU, 6, 5, batch_first=True))),
    "samples": (
        160, True, (1, 1700),
        lambda: Uses(lambda m, x: m.g(over(m.c, x[..., None]))[0], c=conv(1, 160, 160, 0), g=gru())),
    "to the rate of the input": (
        2, False, (1, 40, 6),
        lambda: Uses(lambda m, x: over(m.up, m.g(over(m.c, x))[0]) + x, c=conv(6, 4, 2, 1), g=gru(),
                     up=nn.ConvTranspose1d(5, 6, 4, 2, 1))),
    "to the rate of the input, as a stream": (
        2, True, (1, 40, 6),
        lambda: Uses(lambda m, x: over(m.up, m.g(over(m.c, cut(2, x)))[0])[:, :-2] * x, c=conv(6, 4, 2, 0), g=gru(),
                     up=nn.ConvTranspose1d(5, 6, 4, 2))),
    "repeated to the rate of the input": (
        2, True, (1, 40, 6),
        lambda: Uses(lambda m, x: m.g(over(m.c, x))[0].repeat_interleave(2, 1) * x[..., :5], c=conv(), g=gru())),
    "the last step": (
        4, True, (1, 40, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x))[1][-1], c=conv(6, 4, 4, 0), g=gru())),
    "over all frames": (
        4, False, (1, 40, 6),
        lambda: Uses(lambda m, x: torch.cat([m.g(over(m.c, x))[0].mean(1), x.amax(1), x.mean((1, 2))[:, None]], 1),
                     c=conv(6, 4, 4, 0), g=gru())),
    "softmax over all frames": (
        2, False, (1, 40, 6), lambda: Uses(lambda m, x: m.g(over(m.c, x.softmax(1) * x))[0], c=conv(), g=gru())),
    "lines of text": (
        4, False, (2, 1, 16, 48),
        lambda: Uses(image_lines, a=nn.Conv2d(1, 4, 3, padding=1), b=nn.Conv2d(4, 8, 3, padding=1),
                     norm=nn.BatchNorm2d(8), c=nn.Conv2d(8, 8, (3, 3), padding=1), out=nn.Linear(12, 7),
                     g=nn.LSTM(16, 6, batch_first=True, bidirectional=True))),
    "features and channels": (  # (batch, channels, time, features), convolved over both
        2, True, (1, 1, 40, 8),
        lambda: Uses(lambda m, x: m.g(m.c(x).transpose(1, 2).flatten(2))[0], c=nn.Conv2d(1, 2, 3, 2, 1), g=gru(8))),
}  # fmt: skip


def frames_first(x, shape):
    """One sequence as `Engine.run` takes it, with its frames one after the other."""
    return np.moveaxis(x.numpy(), time_of(shape), 0)[:, 0]


def longer(shape, frames):
    return (1, *(frames if d == time_of(shape) else n for d, n in enumerate(shape) if d))


def time_of(shape):
    """The axis of the longest sequence."""
    return shape.index(max(shape))


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_several_frames_are_those_of_torch(name, tmp_path):
    frames, streams, shape, make = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(shape)
    report = cr.pack(model, tmp_path / "m.crnn", x, weights="float32", calibration=[x])
    assert next(check for check in report.checks if check.what == "other lengths").error < CLOSE
    engine = cr.Engine(tmp_path / "m.crnn")
    assert (engine.frames_per_step, not engine.offline) == (frames, streams)
    for steps in STEPS if "fewer" not in name else STEPS[2:]:
        x = torch.randn(longer(shape, steps * frames))
        with torch.no_grad():
            wanted = model(x)[0].numpy()
        given = frames_first(x, shape)
        ran = engine.run(given)
        np.testing.assert_allclose(ran.reshape(wanted.shape), wanted, rtol=CLOSE, atol=CLOSE)
        if streams:
            stream, rows = engine.stream(), given.reshape(steps, *engine.inputs[0].shape)
            found = np.stack([stream.step(row) for row in rows])
            np.testing.assert_array_equal(found[-1] if engine.outputs[0].final else found, ran)
            np.testing.assert_array_equal(engine.run(rows), ran)


def test_frames_are_given_in_whole_steps(tmp_path):
    model = Uses(lambda m, x: m.g(over(m.c, x))[0], c=conv(), g=gru()).eval()
    cr.pack(model, tmp_path / "m.crnn", torch.randn(1, 40, 6), weights="float32")
    engine = cr.Engine(tmp_path / "m.crnn")
    with pytest.raises(ValueError, match="expected a multiple of the 2 a step, got 5 frames"):
        engine.run(np.zeros((5, 6), np.float32))
    with pytest.raises(ValueError, match="expected a multiple of the 2 a step, got 5 frames"):
        engine.stream().run(np.zeros((5, 6), np.float32))
    with pytest.raises(ValueError, match=r"expected \(time, 2, 6\), got shape \(4, 5\)"):
        engine.run(np.zeros((4, 5), np.float32))
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    stream = engine.stream()
    np.testing.assert_array_equal(np.concatenate([stream.run(x[:4]), stream.run(x[4:])]), engine.run(x))


REFUSALS = {
    "padding that is added and cut off": (
        lambda: Uses(lambda m, x: m.g(over(m.c, cut(3, x)))[0][:, :-2], c=conv(6, 5, 2, 0), g=gru()),
        r"leaves out the last 2 results of output 'output'.*return them all",
    ),
    "padding that stays": (
        lambda: Uses(
            lambda m, x: m.g(over(m.d, over(m.c, cut(3, x))))[0], c=conv(6, 3, 1, 0), d=conv(8, 3, 2, 0), g=gru()
        ),
        "d: conv1d: reads what padding behind the last step adds to it",
    ),
    "a running sum": (
        lambda: Uses(lambda m, x: m.g(over(m.c, x.cumsum(1)))[0], c=conv(), g=gru()),
        "cumsum: runs over time where a step of the engine is 2 frames",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_reason(name, tmp_path):
    make, why = REFUSALS[name]
    with pytest.raises(cr.UnsupportedModelError, match=why):
        cr.pack(make(), tmp_path / "m.crnn", torch.randn(1, 40, 6))
    assert not (tmp_path / "m.crnn").exists()


@pytest.mark.parametrize("stride", [1, 2, 3, 8, 40, 160])
@pytest.mark.parametrize("length", [17, 96, 100, 1000])
def test_frames_a_step_are_found_from_sizes(stride, length):
    lengths = []

    def sizes(n):
        lengths.append(n)
        return ((n + 3) // stride + 1, 5, (n + 1) // stride)

    assert frames_a_step(sizes, length) == stride
    assert len(set(lengths)) < 80
    assert frames_a_step(lambda n: None if n % stride else (n // stride, 3), stride * length) == stride


def test_what_does_not_grow_evenly_has_no_steps():
    assert frames_a_step(lambda n: (n * n // 4,), 12) is None
    assert frames_a_step(lambda n: (4,), 12) is None
