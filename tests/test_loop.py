"""The native loop over time against the Python loop."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import compactrnn as cr
from cell_table import CELLS, name_of
from compactrnn.cells import GILR, GILRLSTM, GRU, LRU, LSTM, MGU, QRNN, SRU, DuRNN, Elman, IndRNN, MinGRU, MinLSTM
from compactrnn.layers.loop import run_cell, select
from compactrnn.layers.loop.linear import LinearLoop
from compactrnn.runtime import _native
from compactrnn.weights import LowRank
from steps import STEPS, Wide


def results(layer, x, states, kind):
    """Outputs, last states and all gradients, zeros where there are none."""
    inputs = [t.clone().requires_grad_() for t in (x, *states)]
    with cr.time_loop(kind):
        output, after = layer(inputs[0], inputs[1] if len(states) == 1 else tuple(inputs[1:]))
    outputs = [output, *(after if isinstance(after, tuple) else (after,))]
    torch.manual_seed(0)
    total = sum((y * torch.randn_like(y)).sum() for y in outputs)
    given = [*inputs, *layer.parameters()]
    grads = torch.autograd.grad(total, given, allow_unused=True)
    return outputs, [torch.zeros_like(t) if g is None else g for t, g in zip(given, grads, strict=True)]


def initial(layer, batch):
    cell = layer.cells[0][0]
    return [torch.randn(1, batch, n) for n in cell.state_sizes()]


SCANNED = [*map(partial, (LRU, GILR, GILRLSTM, MinGRU, MinLSTM, QRNN)), partial(SRU, peephole=False)]


def made_alike(make, one):
    return make.func is one.func and one.keywords.items() <= make.keywords.items()


def kinds_of(layer):
    return cr.loop_report(layer)[0].kinds


@pytest.mark.parametrize("make", CELLS, ids=name_of)
@pytest.mark.parametrize("steps, batch", [(1, 1), (2, 9), (37, 3), (5, 17)])
def test_every_cell_runs_natively_as_in_the_plain_loop(make, steps, batch):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 4, 6, **make.keywords)
    x, states = torch.randn(steps, batch, 4), initial(layer, batch)
    plain = results(layer, x, states, "plain")
    linear = any(made_alike(make, one) for one in SCANNED)
    assert set(kinds_of(layer)) - {"newton"} == ({"native", "scan"} if linear else {"native"})
    for kind in kinds_of(layer):
        for got, wanted in zip(tree_leaves(results(layer, x, states, kind)), tree_leaves(plain), strict=True):
            assert_close(got, wanted, rtol=1e-4, atol=2e-5 * max(1.0, float(wanted.detach().abs().max())))


@settings(max_examples=25, deadline=None)
@given(
    make=st.sampled_from(CELLS),
    steps=st.integers(1, 70),
    batch=st.integers(1, 20),
    size=st.sampled_from([2, 16, 18, 34]),
    reverse=st.booleans(),
)
def test_any_shape(make, steps, batch, size, reverse):
    torch.manual_seed(steps)
    layer = cr.Recurrent(make.func, 3, size, bidirectional=reverse, **make.keywords)
    x = torch.randn(steps, batch, 3)
    with cr.time_loop("plain"):
        wanted = layer(x)
    for kind in kinds_of(layer):
        with cr.time_loop(kind), torch.no_grad():
            assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [partial(DuRNN, short_size=5), partial(GRU), partial(LSTM), partial(GILR)], ids=name_of
)
def test_packed_batches_in_both_directions(make):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 3, 6, bidirectional=True, **make.keywords)
    packed = pack_sequence([torch.randn(n, 3) for n in (7, 7, 4, 1)])
    states = tuple(torch.randn(2, 4, n).requires_grad_() for n in layer.cells[0][0].state_sizes())
    found = []
    for kind in ("plain", "native"):
        with cr.time_loop(kind):
            output, after = layer(packed, states if len(states) > 1 else states[0])
        outputs = [output.data, *(after if isinstance(after, tuple) else (after,))]
        grads = torch.autograd.grad(sum(y.cos().sum() for y in outputs), [*layer.parameters(), *states])
        found.append((outputs, grads))
    assert_close(found[1], found[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("CRNN_ISA", isa)
    torch.manual_seed(0)
    for make in (DuRNN, MGU, GRU):
        layer = cr.Recurrent(make, 5, 37)
        x, states = torch.randn(9, 13, 5), initial(layer, 13)
        assert_close(results(layer, x, states, "native"), results(layer, x, states, "plain"), rtol=1e-4, atol=2e-5)


def test_an_instruction_set_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CRNN_ISA", "mmx")
    with pytest.raises(ValueError, match="CRNN_ISA"):
        cr.Recurrent(Elman, 3, 4)(torch.randn(3, 2, 3))


def test_threads_give_the_same_outputs():
    torch.manual_seed(0)
    cell = DuRNN(5, 20)
    projected, states = cell.project(torch.randn(11, 23, 5)).detach(), cell.initial_states(23)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            cell.zero_grad()
            output, after = run_cell(cell, projected, states)
            output.sum().backward()
            found.append(([output, *after], [p.grad for p in cell.parameters()]))
    finally:
        torch.set_num_threads(before)
    for outputs, grads in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs, found[0][0], strict=True))
        assert_close(grads, found[0][1])


def test_long_sums_keep_their_digits():
    layer = cr.Recurrent(IndRNN, 1, 1, bias=False)
    cell = layer.cells[0][0]
    with torch.no_grad():
        cell.input.weight.fill_(1.0)
        cell.recurrent.fill_(0.0)
    x = torch.full((200_000, 1, 1), 0.1)
    with cr.time_loop("native"):
        layer(x)[0].sum().backward()
    assert abs(float(cell.recurrent.grad) / (0.1 * 199_999) - 1) < 1e-6


def test_inputs_in_any_layout():
    torch.manual_seed(0)
    layer = cr.Recurrent(MGU, 4, 8, batch_first=True)
    x = torch.randn(3, 4, 10).transpose(1, 2)
    with cr.time_loop("plain"):
        wanted = layer(x)
    assert_close(layer(x), wanted)
    assert_close(layer(x.contiguous()), wanted)


def test_an_output_may_be_changed_in_place():
    layer, x = cr.Recurrent(LSTM, 4, 8), torch.randn(6, 2, 4)
    output, _ = layer(x)
    with torch.no_grad():
        assert_close(torch.relu(output), output.detach().clone().relu_())
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|is a view"):
        output.relu_().sum().backward()


@pytest.mark.parametrize("name", STEPS)
def test_every_operation_and_its_gradient(name):
    torch.manual_seed(0)
    layer = cr.Recurrent(Wide, 3, 7, function=STEPS[name])
    report = cr.loop_report(layer)[0]
    assert "native" in report.kinds, report.reason
    x, states = torch.randn(6, 5, 3), initial(layer, 5)
    plain = results(layer, x, states, "plain")
    for kind in report.kinds:
        assert_close(results(layer, x, states, kind), plain, rtol=1e-4, atol=2e-5)


LINEAR = """by a vector, lerp, lerp by a number, rsub, alpha, split, narrow, the state, of the input, constant,
not of the state"""


@pytest.mark.parametrize("name", STEPS)
def test_only_what_is_linear_in_the_state_is_scanned(name):
    linear = name in LINEAR.replace("\n", " ").split(", ")
    assert ("scan" in kinds_of(cr.Recurrent(Wide, 3, 7, function=STEPS[name]))) == linear


@pytest.mark.parametrize(
    "make, rows, width, pays",
    [
        (GILR, 8, 128, True),
        (GILR, 9, 128, False),
        (GILRLSTM, 1, 128, True),
        (GILRLSTM, 2, 128, False),
        (GILRLSTM, 1, 64, False),
        (QRNN, 1, 128, False),  # its second stage multiplies with no matrix
    ],
)
def test_a_scan_is_chosen_where_it_pays(make, rows, width, pays):
    (cell,) = cr.Recurrent(make, 3, 4).cells[0]
    step = select._find(cell).step
    assert LinearLoop.of(step).pays(rows, width) == pays


class Counting:
    """A function that gives another result at each call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, cell, p, h):
        self.calls += 1
        return h * self.calls + p.chunk(2, 1)[0]


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad


def without_gradient(cell, p, h):
    with torch.no_grad():
        h = h * 0.5
    return h + p.chunk(2, 1)[0]


UNTRACEABLE = {
    "softmax": lambda c, p, h: h.softmax(-1) + p.chunk(2, 1)[0],
    "rand_like": lambda c, p, h: h + torch.rand_like(h),
    "random numbers": lambda c, p, h: F.dropout(h, 0.5, True) + p.chunk(2, 1)[0],
    "register_buffer": lambda c, p, h: h * torch.tensor(0.5) + p.chunk(2, 1)[0],
    "draws random numbers": lambda c, p, h: h + torch.rand(7) + p.chunk(2, 1)[0],
    "Python code asks for numbers": lambda c, p, h: (h if h.sum() > 0 else -h) + p.chunk(2, 1)[0],
    "a number out of a tensor": lambda c, p, h: h * c.alpha.item() + p.chunk(2, 1)[0],
    "cumsum": lambda c, p, h: h.cumsum(0) + p.chunk(2, 1)[0],
    "mul_": lambda c, p, h: h.mul_(0.5) + p.chunk(2, 1)[0],
    "no value of the step": lambda c, p, h: c.hidden(torch.ones_like(h)) + h,
    "t makes": lambda c, p, h: (h @ h.t()) @ h + p.chunk(2, 1)[0],
    "switches gradients off": without_gradient,
    "other numbers or gradients": lambda c, p, h: Rounded.apply(h + p.chunk(2, 1)[0]),
    "it gives other numbers": Counting(),
}


@pytest.mark.parametrize("reason", UNTRACEABLE)
def test_what_cannot_be_traced_stays_in_the_plain_loop_and_says_why(reason):
    layer, x = cr.Recurrent(Wide, 3, 7, function=UNTRACEABLE[reason]), torch.randn(4, 5, 3)
    report = cr.loop_report(layer)[0]
    assert report.kinds == () and reason in report.reason
    with pytest.warns(UserWarning, match="plain loop over time"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with cr.time_loop("plain"):
            layer(x)
    with pytest.raises(ValueError, match=r"time_loop: .*got 'native'"), cr.time_loop("native"):
        layer(x)


@pytest.mark.parametrize(
    "result, message",
    [
        (lambda h: h, "expected two results.*, got something else"),
        (lambda h: (h, h), "expected two results, the output and a tuple of states"),
        (lambda h: (h, (h, h)), "expected 1, as `states` declares: h.*, got 2 new states"),
        (lambda h: (h, (h[:, :3],)), r"step, h: expected \(2, 7\).*, got \(2, 3\)"),
        (lambda h: (torch.cat([h, h], 1), (h,)), r"step, output: expected \(2, 7\).*, got \(2, 14\)"),
    ],
)
def test_a_step_that_gives_what_is_not_declared(result, message, monkeypatch):
    monkeypatch.setattr(Wide, "step", lambda self, projected, states: result(states[0]))
    with pytest.raises(ValueError, match=message):
        cr.Recurrent(Wide, 3, 7, function=None)(torch.randn(4, 5, 3))


def test_a_changed_option_is_traced_anew():
    layer, x = cr.Recurrent(Elman, 3, 4), torch.randn(5, 2, 3)
    layer(x)
    layer.cells[0][0].nonlinearity = "relu"
    with cr.time_loop("plain"):
        wanted = layer(x)
    assert_close(layer(x), wanted)


def test_evaluations_between_updates_trace_nothing_again(monkeypatch):
    traced = []
    look = select._look
    monkeypatch.setattr(select, "_look", lambda cell, signature: traced.append(cell.training) or look(cell, signature))
    layer, x = cr.Recurrent(MGU, 3, 4), torch.randn(4, 2, 3)
    for _ in range(3):
        layer.train()(x)
        layer.eval()(x)
    assert traced == [True, False]


def test_doubles_run_in_the_plain_loop():
    layer = cr.Recurrent(DuRNN, 3, 4, dtype=torch.float64).eval()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], x)
    with cr.time_loop("native"), pytest.raises(ValueError, match="float32"):
        layer(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_functional_transforms_and_compilation_see_the_plain_loop():
    layer, x = cr.Recurrent(MGU, 3, 4), torch.randn(4, 2, 3)
    wanted = layer(x)[0]
    got = torch.func.vmap(lambda x: layer(x[:, None])[0][:, 0], in_dims=1, out_dims=1)(x)
    assert_close(got, wanted)
    tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))[1]
    assert tangent.shape == wanted.shape
    assert torch.export.export(layer.eval(), (x,)).module()(x)[0].shape == wanted.shape


def test_a_kind_of_loop_that_does_not_exist():
    with pytest.raises(ValueError, match=r"kind: .*got 'fast'"), cr.time_loop("fast"):
        pass


def test_autocast_runs_natively_in_float32():
    layer, x = cr.Recurrent(MGU, 8, 16, hidden_weight=LowRank(rank=4)), torch.randn(6, 3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16), cr.time_loop("native"):
        output, _ = layer(x)
    assert output.dtype == torch.float32
    output.sum().backward()
    assert_close(output, layer(x)[0], rtol=0.1, atol=0.05)
