"""Delays of any length, back or ahead, are recognized, shared and exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.program import Code
from compactrnn.runtime.quantize import quantize

F = nn.functional


class Looks(nn.Module):
    """A GRU on `look` of the input, (batch, T, 3)."""

    def __init__(self, look, features=3):
        super().__init__()
        self.look, self.gru = look, nn.GRU(features, 5, batch_first=True)

    def forward(self, x):
        return self.gru(self.look(x))[0]


def shifted(x, steps, value=0.0):
    """`x` of `steps` steps ago; of later steps if negative."""
    if steps < 0:
        return F.pad(x, (0, 0, 0, -steps), value=value)[:, -steps:]
    return F.pad(x, (0, 0, steps, 0), value=value)[:, : x.shape[1]]


def check(model, longest, example=5, offline=False):
    """The program, after a comparison with torch on a sequence longer than the look-back."""
    model.eval()
    program = lower(model, torch.randn(2, example, 3))
    x = torch.randn(1, 2 * longest + 20, 3)
    with torch.no_grad():
        want = model(x)[0].numpy()
    engine = cr.Engine(write(quantize(program, "float32")))
    assert engine.offline == offline
    np.testing.assert_allclose(engine.run(x[0].numpy()), want, rtol=1e-4, atol=2e-6)
    if not offline:
        stream = engine.stream()
        steps = [stream.run(part) for part in np.array_split(x[0].numpy(), 7)]
        assert np.array_equal(np.concatenate(steps), engine.run(x[0].numpy()))
    return program


def lines(program):
    """The number of slots of each delay line."""
    return [op.k // op.n for op in program.ops if op.code == Code.DELAY]


@pytest.mark.parametrize(
    ("delays", "example"),
    [([1], 2), ([16], 17), ([17], 17), ([18], 30), ([64], 5), ([200], 17), ([150, 3], 100), ([1, 2, 4, 8, 16, 32], 5)],
)
def test_values_of_earlier_steps_lie_on_one_line(delays, example):
    torch.manual_seed(0)
    model = Looks(lambda x: x + sum(shifted(x, d) / (i + 2) for i, d in enumerate(delays)))
    program = check(model, max(delays), example)
    assert lines(program) == [max(delays) + 1]


@given(delays=st.lists(st.integers(-90, 200), min_size=1, max_size=3), example=st.integers(2, 40))
@settings(max_examples=4, deadline=None)
def test_any_delays_back_and_ahead(delays, example):
    model = Looks(lambda x: torch.cat([shifted(x, d) for d in delays], -1), 3 * len(delays))
    check(model, max(map(abs, delays)), example, offline=min(delays) < 0)


class Convolved(nn.Module):
    """A causal convolution before the GRU, or one that looks ahead as far."""

    def __init__(self, kernel, dilation=1, causal=True):
        super().__init__()
        self.pad = ((kernel - 1) * dilation, 0) if causal else (0, (kernel - 1) * dilation)
        self.conv = nn.Conv1d(3, 4, kernel, dilation=dilation)
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x):
        return self.gru(torch.relu(self.conv(F.pad(x.transpose(1, 2), self.pad))).transpose(1, 2))[0]


@pytest.mark.parametrize(("kernel", "dilation"), [(25, 1), (60, 1), (2, 32), (3, 150), (20, 3)])
def test_causal_convolutions_keep_one_line(kernel, dilation):
    torch.manual_seed(0)
    program = check(Convolved(kernel, dilation), (kernel - 1) * dilation)
    assert lines(program) == [(kernel - 1) * dilation + 1]
    if dilation == 1:  # the product reads the line itself
        codes = [op.code for op in program.ops]
        assert codes == [Code.DELAY, Code.AFFINE, Code.UNARY, Code.AFFINE, Code.GRU, Code.UNARY]


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (25, 1)])
def test_convolutions_that_look_ahead_run_offline(kernel, dilation):
    torch.manual_seed(0)
    check(Convolved(kernel, dilation, causal=False), (kernel - 1) * dilation, offline=True)


def test_a_stack_of_dilated_convolutions():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv1d(3, 3, 3, dilation=d) for d in (1, 4, 16))
            self.gru = nn.GRU(3, 5, batch_first=True)

        def forward(self, x):
            y = x.transpose(1, 2)
            for conv in self.convs:
                y = y + torch.tanh(conv(F.pad(y, (2 * conv.dilation[0], 0))))
            return self.gru(y.transpose(1, 2))[0]

    torch.manual_seed(0)
    assert lines(check(Stack(), 42)) == [3, 9, 33]


LOOKS = {
    "other values before the start": lambda x: shifted(x, 20, -1.5) + shifted(x, 2),
    "zeros put before": lambda x: torch.cat([x.new_zeros(x.shape[0], 30, 3), x], 1)[:, : x.shape[1]],
    "ones put before": lambda x: torch.cat([torch.ones(x.shape[0], 3, 3), x[:, :-3]], 1),
    "padded both ways": lambda x: F.pad(x, (1, 1, 25, 0))[:, : x.shape[1], 1:4],
    "constant features": lambda x: F.pad(x[..., :2], (1, 0), value=2.0) + shifted(x, 19),
    "some features": lambda x: torch.cat([shifted(x[..., 1:2], 21), x[..., :1], shifted(x[..., 2:], 2)], -1),
    "delays of delays": lambda x: shifted(torch.tanh(shifted(x, 18)), 18),
}


@pytest.mark.parametrize("name", LOOKS)
def test_other_ways_to_look_back(name):
    torch.manual_seed(0)
    check(Looks(LOOKS[name]), 40)


DEPENDS = {
    "on its length": (lambda x: x * (x.shape[1] % 7), "length of the sequence"),
    "on its length in a tensor": (lambda x: x / torch.full((1,), x.shape[1]).log(), "length of the sequence"),
    "on its place in it": (lambda x: x + torch.arange(x.shape[1], 0, -1)[:, None], "other constants at every step"),
    "on a loop": (lambda x: torch.stack([x[:, t] for t in range(x.shape[1])], 1), "loops over time"),
    "on all of the past": (lambda x: shifted(x, x.shape[1] // 2), "mixes time steps|length of the sequence|back"),
    "on what is too far": (lambda x: shifted(x, 1500), "more than 1150 steps"),
}


@pytest.mark.parametrize("name", DEPENDS)
def test_what_depends_on_the_sequence_as_a_whole_is_refused(name):
    look, message = DEPENDS[name]
    with pytest.raises(cr.UnsupportedModelError, match=message):
        lower(Looks(look), torch.randn(1, 17, 3))


def test_what_depends_on_the_length_by_a_condition_is_refused(tmp_path):
    model = Looks(lambda x: x if x.shape[1] < 30 else 2 * x)
    with pytest.raises(cr.UnsupportedModelError, match=r"'output'.*from step 0 of 17 on, on the example"):
        cr.pack(model, tmp_path / "m.crnn", torch.randn(1, 17, 3), weights="float32")
    assert not list(tmp_path.iterdir())


def test_a_slice_longer_than_the_shortest_export_is_a_delay():
    def difference(x):
        return torch.cat([x, x - torch.cat([torch.zeros_like(x[:, :20]), x[:, :-20]], 1)], -1)

    assert lines(check(Looks(difference, 6), 20, example=50)) == [21]


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (lambda x: x if x.mean() > 0 else -x, "depends on values of tensors"),
        (lambda x: x * float(x.abs().max()), "depends on values of tensors"),
        (lambda x: torch.from_numpy(x.numpy() * 2), "into NumPy"),
    ],
)
def test_code_that_reads_values_is_refused_in_words_about_the_code(look, reason):
    with pytest.raises(cr.UnsupportedModelError, match=reason):
        lower(Looks(look), torch.rand(1, 9, 3))
