import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import compactrnn as cr
from compactrnn.layers import detach


class WithMemory(nn.Module):
    """States of another structure."""

    batch_first = True

    def __init__(self):
        super().__init__()
        self.lstm, self.gru = cr.LSTM(3, [5, 4], batch_first=True), cr.GRU(4, 2, batch_first=True)

    def forward(self, x, states):
        first, second = (states["lstm"], states["others"][0]) if states else (None, None)
        x, first = self.lstm(x, first)
        x, second = self.gru(x, second)
        return x, {"lstm": first, "others": [second, None]}


LAYERS = {
    "LSTM": lambda: cr.LSTM(3, 4, 2),
    "LSTM, sizes": lambda: cr.LSTM(3, [5, 4], batch_first=True),
    "GRU of torch": lambda: nn.GRU(3, 4, batch_first=True),
    "Recurrent": lambda: cr.Recurrent(cr.MGU, 3, 4, num_layers=2),
    "module": WithMemory,
}


def flat(states):
    if isinstance(states, torch.Tensor):
        return [states]
    if isinstance(states, dict):
        states = list(states.values())
    return [] if states is None else [t for s in states for t in flat(s)]


def results(layer, call):
    torch.manual_seed(1)
    x = torch.randn(4, 4, 3).requires_grad_() if getattr(layer, "batch_first", False) else torch.randn(4, 2, 3)
    x = torch.cat([x] * 3, 1 if getattr(layer, "batch_first", False) else 0).detach().requires_grad_()
    torch.manual_seed(2)
    output, states = call(layer, x)
    tensors = [output, *flat(states)]
    loss = sum((t * torch.linspace(-1, 2, t.numel()).view(t.shape)).sum() for t in tensors)
    torch.rand(1)  # whoever computes a second time may not go on from here
    return [*tensors, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("every", [1, 5, 12, 100])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_plain_call(name, every):
    layer = LAYERS[name]()
    wanted = results(layer, lambda layer, x: layer(x, None))
    got = results(layer, lambda layer, x: cr.checkpointed(layer, x, every=every))
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_states_are_taken_and_unbatched_input():
    layer, x = cr.LSTM(3, 4, batch_first=True), torch.randn(7, 3)
    h = torch.randn(1, 4).requires_grad_()
    output, _ = cr.checkpointed(layer, x, (h, h), every=3)
    plain, _ = layer(x, (h, h))
    assert_close(output, plain)
    assert_close(*(torch.autograd.grad(y.sum(), h)[0] for y in (output, plain)))


def test_dropout_is_the_same_both_times():
    layer = cr.LSTM(3, 4, 2, dropout=0.5)

    def in_pieces(layer, x):
        outputs, states = [], None
        for piece in x.split(5):
            output, states = layer(piece, states)
            outputs.append(output)
        return torch.cat(outputs), states

    wanted = results(layer, in_pieces)
    got = results(layer, lambda layer, x: cr.checkpointed(layer, x, every=5))
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


class PeakMemory(TorchDispatchMode):
    """Bytes of all storages made inside that live at the same time, at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.seen:
                self.seen.add(key)
                self.now += (size := tensor.untyped_storage().nbytes())
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self.gone, key, size)
        return result

    def gone(self, key, size):
        self.seen.discard(key)
        self.now -= size


def peak(call):
    gc.collect()
    with PeakMemory() as memory:
        call()
    return memory.peak


@pytest.mark.parametrize("kind", ["LSTM", "Recurrent"])
def test_memory(kind):
    """256 steps, 16 kept: the output twice while it is joined, and a small part of what a step keeps besides."""
    layer = {"LSTM": lambda: cr.LSTM(1, 16), "Recurrent": lambda: cr.Recurrent(cr.MGU, 1, 16)}[kind]()
    x = torch.randn(256, 4, 1)
    plain = peak(lambda: flat(layer(x)[1])[0].sum().backward())
    less = peak(lambda: flat(cr.checkpointed(layer, x, every=16)[1])[0].sum().backward())
    output = 4 * 256 * 4 * 16
    assert less < 2.5 * output and plain > 7 * output, (less / output, plain / output)


def test_memory_of_truncation():
    layer, x = cr.Recurrent(cr.MGU, 1, 16), torch.randn(256, 4, 1)

    def in_pieces():
        for output, _, _ in cr.truncated(layer, x, every=16):
            output.square().mean().backward()

    assert peak(in_pieces) < peak(lambda: layer(x)[0].square().mean().backward()) / 8


@pytest.mark.parametrize("name", LAYERS)
def test_truncated_pieces(name):
    """States go on, gradients do not."""
    layer = LAYERS[name]()
    first = getattr(layer, "batch_first", False)
    x = torch.randn(2, 12, 3) if first else torch.randn(12, 2, 3)
    plain, last = layer(x, None)
    axis, spans, outputs = int(first), [], []
    for output, states, steps in cr.truncated(layer, x.requires_grad_(), every=5):
        before = steps.start
        (gradient,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        assert (gradient.narrow(axis, 0, before) == 0).all() and (gradient.narrow(axis, before, 1) != 0).any()
        assert not any(s.requires_grad for s in flat(states))
        spans.append((steps.start, steps.stop))
        outputs.append(output)
    assert spans == [(0, 5), (5, 10), (10, 12)]
    assert_close(torch.cat(outputs, axis), plain)
    for one, other in zip(flat(states), flat(last), strict=True):
        assert_close(one, other)


def test_truncated_cuts_given_states_off():
    layer, h = cr.GRU(3, 4), torch.randn(1, 2, 4).requires_grad_()
    for output, _, _ in cr.truncated(layer, torch.randn(4, 2, 3), h, every=2):
        output.sum().backward()
    assert h.grad is None


@pytest.mark.parametrize("function", [cr.checkpointed, lambda *a, **k: cr.truncated(*a, **{"every": 3, **k})])
def test_refusals(function):
    lstm, x = cr.LSTM(3, 4), torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=r"expected one direction.*, got LSTM of both directions"):
        function(cr.LSTM(3, 4, bidirectional=True), x)
    with pytest.raises(ValueError, match="got GRU '1' of both directions"):
        function(nn.Sequential(lstm, nn.GRU(4, 2, bidirectional=True)), x)
    with pytest.raises(ValueError, match=r"expected a tensor with a time axis.*, got PackedSequence; pad"):
        function(lstm, pack_sequence([x[:, 0]]))
    with pytest.raises(ValueError, match="no steps"):
        function(lstm, x[:0])
    with pytest.raises(ValueError, match=r"every: expected a positive int.*, got 0"):
        function(lstm, x, every=0)


def test_detach_keeps_the_nest():
    x = torch.ones(2, requires_grad=True)
    states = detach({"a": (x, None), "b": [x * 2]})
    assert states["a"][1] is None and isinstance(states["a"], tuple)
    assert not any(t.requires_grad for t in flat(states)) and torch.equal(states["b"][0], x * 2)
