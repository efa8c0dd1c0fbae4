"""Models whose Python code loops over time, packed as they are: the step is found, or the reason why there is none."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr

F = nn.functional
INPUTS, UNITS, CLOSE = 6, 8, 1e-5


class Loop(nn.Module):
    """A model of (batch, time, features) or tokens that is `run(self, x)`."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.lstm, self.gru, self.rnn = nn.LSTMCell(INPUTS, UNITS), nn.GRUCell(UNITS, UNITS), nn.RNNCell(INPUTS, UNITS)
        self.first, self.again, self.head = nn.Linear(INPUTS, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, INPUTS)
        self.norm, self.table, self.conv = nn.LayerNorm(UNITS), nn.Embedding(9, INPUTS), nn.Conv2d(3, 8, 3, padding=1)
        self.h = nn.Parameter(torch.randn(1, UNITS))

    def forward(self, x):
        return self.run(self, x)


class Layered(Loop):
    """A model with layers that get one step at a time."""

    def __init__(self, run):
        super().__init__(run)
        self.one, self.two = nn.GRU(INPUTS, UNITS), nn.LSTM(INPUTS, UNITS, 2, batch_first=True)

    def forward(self, *xs):
        return self.run(self, *xs)


def zeros(x, width=UNITS):
    return torch.zeros(len(x), width, dtype=x.dtype if x.is_floating_point() else torch.get_default_dtype())


def steps(step, *widths, before=lambda m, x: x, after=lambda m, y: y):
    """The outputs of `step(m, frame, *states) -> output, *states` from zeros of these widths."""

    def run(m, x):
        states, outputs, x = [zeros(x, n) for n in widths], [], before(m, x)
        for t in range(x.shape[1]):
            y, *states = step(m, x[:, t], *states)
            outputs.append(y)
        return after(m, torch.stack(outputs, 1))

    return run


def unbound(m, x):
    state = None
    outputs = []
    for frame in x.unbind(1):
        state = m.lstm(frame, state)
        outputs.append(state[0])
    return m.head(torch.stack(outputs, 1)), state


def assigned(m, x):
    y, h = torch.zeros(len(x), x.shape[1], UNITS), m.h.expand(len(x), -1)
    for t in range(x.shape[1]):
        h = torch.tanh(m.first(x[:, t]) + m.again(h))
        y[:, t] = h
    return y


def last(m, x):
    h = zeros(x)
    for t in range(x.shape[1]):
        h = m.rnn(x[:, t], h)
    return m.head(h)


def zoneout(m, x, h, c):
    """Zoneout (Krueger et al., 2016), whose last cell state no output reads."""
    new, now = m.lstm(x, (h, c))
    h, c = 0.1 * h + 0.9 * new, 0.1 * c + 0.9 * now
    return h, h, c


def spiking(m, x, v, spikes):
    v = 0.8 * v * (1 - spikes) + m.first(x) + m.again(spikes)
    spikes = (v > 0.5).to(v.dtype)
    return spikes, v, spikes


def convolved(m, x):
    """A convolutional LSTM (Shi et al., 2015) of two channels."""
    h = c = x.new_zeros(len(x), 2, *x.shape[-2:])
    outputs = []
    for frame in x.unbind(1):
        i, f, g, o = m.conv(torch.cat([frame, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


def fed_back(m, x, y, h):
    h = m.rnn(x + y, h)
    y = m.head(h)
    return y, y, h


def numbers(steps, batch=1):
    return torch.randn(batch, steps, INPUTS)


def tokens(steps, batch=1):
    return torch.randint(0, 9, (batch, steps))


def images(steps, batch=1):
    return torch.randn(batch, steps, 1, 5, 4)


def tagged(m, x, h):
    h = m.rnn(m.table(x), h)
    return m.head(h), h


def normed(m, x, h):
    h = m.norm(m.gru(m.first(x), h))
    return h, h


LOOPS = {
    "states that are None at first": (unbound, numbers, ["lstm.h", "lstm.c"]),
    "outputs written into a tensor": (assigned, numbers, ["state"]),
    "the last output alone": (last, numbers, ["rnn.h"]),
    "zoneout": (steps(zoneout, UNITS, UNITS), numbers, ["state", "state_1"]),
    "spikes": (steps(spiking, UNITS, UNITS), numbers, ["state", "state_1"]),
    "images": (convolved, images, ["state", "state_1"]),
    "fed back": (steps(fed_back, INPUTS, UNITS), numbers, ["state", "rnn.h"]),
    "tokens": (steps(tagged, UNITS), tokens, ["rnn.h"]),
    "around the loop": (
        steps(
            lambda m, x, h: (h := m.gru(x, h), h), UNITS,
            before=lambda m, x: m.first(x.flatten(0, 1)).view(*x.shape[:2], -1),
            after=lambda m, y: m.head(m.norm(y)),
        ), numbers, ["gru.h"]),
    "a norm of the state": (steps(normed, UNITS), numbers, ["state"]),
    "the frame before": (steps(lambda m, x, p, h: (h := m.rnn(x - p, h), x, h), INPUTS, UNITS), numbers, None),
}  # fmt: skip


def sliced(m, x):
    """A layer without a first state, of what is made of all steps before."""
    h, outputs, x = None, [], m.table(x)
    for t in range(x.shape[1]):
        y, h = m.two(x[:, t : t + 1], h)
        outputs.append(m.head(y))
    return torch.cat(outputs, 1)


def decoded(m, x):
    y, h, outputs = zeros(x, INPUTS), None, []
    for frame in x.unbind(1):
        z, h = m.two((frame + y)[:, None], h)
        outputs.append(y := m.head(z[:, 0]))
    return torch.stack(outputs, 1)


def policy(m, x, done):
    """Time first, and a state that is forgotten where an episode begins."""
    h, outputs = torch.zeros(1, x.shape[1], UNITS), []
    for t in range(len(x)):
        y, h = m.one(x[t : t + 1], h * (1 - done[t])[None, :, None])
        outputs.append(y)
    return m.head(torch.cat(outputs))


def policy_of_two_states(m, x, done):
    """Both start from the same zeros."""
    h, c = (torch.zeros(2, x.shape[1], UNITS),) * 2
    outputs = []
    for frame, over in zip(x, done, strict=True):
        keep = (1 - over)[None, :, None]
        y, (h, c) = m.two(frame[:, None], (h * keep, c * keep))
        outputs.append(y[:, 0])
    return m.head(torch.stack(outputs))


def policy_of_a_cell(m, x, done):
    h, c, outputs = *(torch.zeros(x.shape[1], UNITS) for _ in range(2)), []
    for t in range(len(x)):
        h, c = h * (1 - done[t])[:, None], c * (1 - done[t])[:, None]
        h, c = m.lstm(x[t], (h, c))
        outputs.append(m.head(h))
    return torch.stack(outputs)


LAYERED = {
    "calls for a slice": (sliced, tokens, ["two.h_l0", "two.c_l1"]),
    "two layers": (decoded, numbers, ["state", "two.h_l0", "two.c_l0", "two.h_l1", "two.c_l1"]),
    "a cell beside layers": (unbound, numbers, ["lstm.h", "lstm.c"]),
}


@pytest.mark.parametrize("name", [*LOOPS, *LAYERED])
def test_the_file_gives_what_torch_gives(name, tmp_path):
    run, given, states = {**LOOPS, **LAYERED}[name]
    torch.manual_seed(0)
    model = (Layered if name in LAYERED else Loop)(run).eval()
    report = cr.pack(model, tmp_path / "m.crnn", given(9, 2), weights="float32", calibration=[given(20, 3)])
    assert max(check.steps for check in report.checks) >= 131
    engine = cr.Engine(tmp_path / "m.crnn")
    stream = engine.stream()
    assert not engine.offline
    for state in states or ():
        assert stream.get_state(state).any() == (name.startswith("outputs"))
    for length in (1, 2, 30):
        x = given(length)
        with torch.no_grad():
            wanted = model(x)
        ys = engine.run(x[0].numpy())
        pairs = zip(ys, (wanted[0], *wanted[1]), strict=True) if isinstance(ys, tuple) else [(ys, wanted)]
        for y, z in pairs:
            np.testing.assert_allclose(y, z[0], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("run", [policy, policy_of_two_states, policy_of_a_cell])
def test_a_policy_whose_states_are_masked(run, tmp_path):
    torch.manual_seed(0)
    model = Layered(run).eval()
    batches = [(torch.randn(n, 2, INPUTS), (torch.rand(n, 2) < 0.3).float()) for n in (9, 30)]
    cr.pack(model, tmp_path / "m.crnn", batches[0], weights="float32", time=0)
    x, done = batches[1]
    with torch.no_grad():
        wanted = model(x, done)[:, 1]
    stream = cr.Engine(tmp_path / "m.crnn").stream()
    ys = [stream.step((a.numpy(), b.numpy())) for a, b in zip(x[:, 1], done[:, 1], strict=True)]
    np.testing.assert_allclose(np.stack(ys), wanted, rtol=CLOSE, atol=CLOSE)


def counted(after):
    def run(m, x):
        h, outputs = zeros(x), []
        for t in range(x.shape[1]):
            h = m.rnn(x[:, t], h if t != after else 0 * h)
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run


def backwards(m, x):
    return steps(lambda m, x, h: (h := m.rnn(x, h), h), UNITS)(m, x.flip(1)).flip(1)


def remembered(m, x):
    h, outputs = zeros(x), []
    for frame in x.unbind(1):
        past = torch.stack([*outputs, h], 1)
        h = m.rnn(frame, h + (past * (past @ h[..., None]).softmax(1)).sum(1))
        outputs.append(h)
    return torch.stack(outputs, 1)


def started(m, x):
    h = m.first(x[:, 0])
    for frame in x.unbind(1):
        h = m.rnn(frame, h)
    return h


def mixed(m, x):
    return steps(lambda m, x, h: (h := m.rnn(x, h - h.mean(0)), h), UNITS)(m, x)


IN_A_LOOP = r"LSTMCell in a Python loop, which is taken where every step does the same.*packed with states=\['h'\]"
REFUSED = {
    "another step in the middle": (counted(40), "differs from torch from step 40 of 131"),
    "another fourth step": (counted(3), IN_A_LOOP),
    "backwards": (backwards, IN_A_LOOP),
    "attention to steps before": (remembered, IN_A_LOOP),
    "a state from the first frame": (started, IN_A_LOOP),
    "a mean over the steps": (
        steps(lambda m, x, h: (h := m.rnn(x, h), h), UNITS, after=lambda m, y: y.mean(1)), IN_A_LOOP),
    "sequences that depend on each other": (mixed, "depend on each other"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_repeated_step_is_refused(name, tmp_path):
    run, why = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(cr.UnsupportedModelError, match=why):
        cr.pack(Loop(run).eval(), tmp_path / "m.crnn", numbers(9, 2))
    assert not list(tmp_path.iterdir())
