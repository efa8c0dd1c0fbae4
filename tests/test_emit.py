"""Programs emitted from arrays equal those lowered from torch models, and need no torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn import emit
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.quantize import quantize

F = nn.functional


def arrays(module):
    """Each parameter by its name in torch."""
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def layer_inputs(w, suffix=""):
    """The matrices and biases of a layer as `lstm` and `gru` expect them."""
    ih, hh, b_ih, b_hh = (
        w[f"{n}_l0{suffix}"] for n in ("rnn.weight_ih", "rnn.weight_hh", "rnn.bias_ih", "rnn.bias_hh")
    )
    return [ih], [hh], b_ih, b_hh


def named(suffix=""):
    """The names of a layer's matrices and states."""
    parts = {"input": "weight_ih", "hidden": "weight_hh", "h": "h", "c": "c"}
    return lambda part: f"rnn.{parts[part]}_l0{suffix}"


class Model(nn.Module):
    """A layer over (T, 1, 6), whose outputs are read in a way that `read` says."""

    def __init__(self, kind, read, bidirectional=False):
        super().__init__()
        self.rnn = kind(6, 8, bidirectional=bidirectional)
        self.fc = nn.Linear(16 if bidirectional else 8, 5)
        self.conv = nn.Conv1d(8, 4, 3, padding=2, dilation=2)
        self.read = read

    def forward(self, x):
        return self.read(self, self.rnn(x)[0])


def gru(b, x, w, suffix=""):
    ih, hh, b_ih, b_hh = layer_inputs(w, suffix)
    return emit.gru(b, x, ih, hh, b_ih, b_hh, name=named(suffix))[0]


def lstm(b, x, w):
    ih, hh, b_ih, b_hh = layer_inputs(w)
    return emit.lstm(b, x, ih, hh, b_ih + b_hh, name=named())[0]


def linear(b, x, w):
    return emit.linear(b, x, [w["fc.weight"]], w["fc.bias"], "fc")


def two_before(m, x, w):
    h = lstm(m.builder, x, w)
    return m.builder.binary(emit.Binary.SUB, h, m.materialize(m.pad(h, [(2, -2), (0, 0), (0, 0)], 0.0, 0)))


def before_and_ahead(m, x, w):
    h = lstm(m.builder, x, w)
    cut = m.move([h], lambda a: a[0][3:], 0)
    ahead = m.materialize(m.pad(cut, [(0, 3), (0, 0), (0, 0)], 0.5, 0))
    return m.join([h, ahead], 2)


def convolved(m, x, w):
    moved = m.move([gru(m.builder, x, w)], lambda a: a[0].transpose(1, 2, 0), 2)
    window = emit.Window.of((3,), dilations=(2,), pads=((2, 2),))
    y = emit.convolution(m, moved, w["conv.weight"], w["conv.bias"], window, name="conv")
    return m.materialize(m.move([y], lambda a: a[0].transpose(2, 0, 1), 0))


def both_ways(m, x, w):
    forwards = gru(m.builder, x, w)
    backwards = gru(m.builder, m.flip(x), w, "_reverse")
    return linear(m.builder, m.join([forwards, m.flip(backwards)], -1), w)


def weighted(m, x, w):
    h = gru(m.builder, x, w)
    scores = emit.softmax(m, m.rearrange(h, lambda a: a[..., :1], 0), 0)
    return emit.reduce(m, m.builder.binary(emit.Binary.MUL, h, scores, period=1), [0], "sum")


def squares(m, x, w):
    rows = m.move([gru(m.builder, x, w)], lambda a: a[0].reshape(-1, 1, 4, 2), 0)
    return emit.matmul(m, m.materialize(rows), m.materialize(m.move([rows], lambda a: a[0].swapaxes(2, 3), 0)))


def functions(m, x, w):
    b, h = m.builder, gru(m.builder, x, w)
    below = b.binary(emit.Binary.LESS, h, emit.FUNCTIONS["neg"](b, h))
    return emit.select(b, below, emit.FUNCTIONS["gelu"](b, h), emit.FUNCTIONS["softplus"](b, h))


def averaged(m, x, w):
    h = gru(m.builder, x, w)
    return m.builder.binary(emit.Binary.ADD, emit.reduce(m, h, [0], "max"), emit.reduce(m, h, [0], "mean"))


CASES = {
    "GRU and linear": (nn.GRU, lambda m, h: m.fc(h), lambda m, x, w: linear(m.builder, gru(m.builder, x, w), w)),
    "two steps before": (nn.LSTM, lambda m, h: h - F.pad(h, (0, 0, 0, 0, 2, -2)), two_before),
    "ahead": (nn.LSTM, lambda m, h: torch.cat([h, F.pad(h[3:], (0, 0, 0, 0, 0, 3), value=0.5)], 2), before_and_ahead),
    "convolution": (nn.GRU, lambda m, h: m.conv(h.permute(1, 2, 0)).permute(2, 0, 1), convolved),
    "both ways": (nn.GRU, lambda m, h: m.fc(h), both_ways),
    "last step": (nn.GRU, lambda m, h: h[-1], lambda m, x, w: m.rearrange(gru(m.builder, x, w), lambda a: a[-1], None)),
    "weighted sum over time": (nn.GRU, lambda m, h: (torch.softmax(h[..., :1], 0) * h).sum(0), weighted),
    "functions": (nn.GRU, lambda m, h: torch.where(h < -h, F.gelu(h), F.softplus(h)), functions),
    "product of two values": (nn.GRU, lambda m, h: (v := h.unflatten(2, (4, 2))) @ v.mT, squares),
    "largest and mean over time": (nn.GRU, lambda m, h: h.amax(0) + h.mean(0), averaged),
}


@pytest.mark.parametrize("case", CASES)
def test_arrays_give_the_program_of_the_model(case):
    kind, read, write_value = CASES[case]
    model, x = Model(kind, read, bidirectional=case == "both ways").eval(), torch.randn(21, 2, 6)

    def build(steps):
        b = emit.Builder()
        x = emit.add_input(b, "x", (steps, 1, 6), time=0, batch=1)
        y = write_value(emit.Mover(b), x, arrays(model))
        emit.add_output(b, "output", y, batch=0 if y.time is None else 1)
        return b

    program = emit.for_any_length(build, case).finish()
    engine = cr.Engine(write(quantize(program, "float32")))
    with torch.no_grad():
        y = model(x)
    expected = y[:, 0] if program.outputs[0].final is False else y[0]
    np.testing.assert_allclose(engine.run(x[:, 0].numpy()), expected.numpy(), atol=1e-5)
    lowered = lower(model, x)
    for which in (program, lowered):
        which.metadata.pop("offline_because", "")  # names the module
    assert write(quantize(program, "int8")) == write(quantize(lowered, "int8"))


def test_initial_states_and_projection():
    layer, x = nn.LSTM(6, 8, proj_size=3), torch.randn(9, 1, 6)
    h, c, w = torch.randn(1, 1, 3), torch.randn(1, 1, 8), arrays(layer)

    def build(steps):
        b = emit.Builder()
        both, initial = w["bias_ih_l0"] + w["bias_hh_l0"], [h.numpy().ravel(), c.numpy().ravel()]
        matrices = [w["weight_ih_l0"]], [w["weight_hh_l0"]]
        x = emit.add_input(b, "x", (steps, 6), time=0)
        y, states = emit.lstm(b, x, *matrices, both, projection=[w["weight_hr_l0"]], initial=initial)
        for name, value in zip(("y", "h_n", "c_n"), (y, *states), strict=True):
            emit.add_output(b, name, value)
        return b

    program = emit.for_any_length(build, "projection").finish()
    results = cr.Engine(write(quantize(program, "float32"))).run(x[:, 0].numpy())
    with torch.no_grad():
        y, states = layer(x, (h, c))
    for result, expected in zip(results, (y, *states), strict=True):
        np.testing.assert_allclose(result, expected.numpy().reshape(result.shape), atol=1e-5)


def test_what_depends_on_the_length_is_refused():
    def build(steps):
        b = emit.Builder()
        x = emit.add_input(b, "x", (steps, 6), time=0)
        b.where = "scaled"
        emit.add_output(b, "y", b.unary(emit.Unary.SCALE_SHIFT, x, 1 / steps))
        return b

    with pytest.raises(cr.UnsupportedModelError, match="scaled: depends on the length"):
        emit.for_any_length(build, "example")


def test_matrix_over_time_is_refused():
    b = emit.Builder()
    x = emit.add_input(b, "x", (6, 17), time=1)
    b.where = "fc"
    with pytest.raises(cr.UnsupportedModelError, match="fc: multiplies along the time axis"):
        emit.linear(b, x, [np.eye(17)])


def test_emitting_and_running_need_no_torch():
    code = "import sys, doctest, compactrnn.emit as e; r = doctest.testmod(e); print(*r, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    failed, attempted, torch_loaded = done.stdout.split()
    assert (failed, torch_loaded) == ("0", "False") and int(attempted) > 5
