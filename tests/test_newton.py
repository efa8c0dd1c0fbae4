"""Newton's method over all times at once, against the loops over time."""

import warnings
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells import GRU, LSTM, MGU, NBRC, SRU, DuRNN, Elman, FastGRNN, IndRNN
from compactrnn.cells.base import AbstractCell, StateSpec, UnitSet
from compactrnn.layers.loop import newton, run_cell
from compactrnn.weights import Dense, Diagonal

DIAGONAL = [
    partial(IndRNN),
    partial(IndRNN, nonlinearity="tanh", recurrent_init=(-1.0, 1.0)),
    partial(DuRNN, parts="long"),
    partial(SRU),
    *(partial(cell, hidden_weight=Diagonal()) for cell in (Elman, FastGRNN, GRU, LSTM, MGU, NBRC)),
]


class Own(AbstractCell):
    """A step of h and the input of one width, by any function; its output is not its state."""

    states = (StateSpec("h"),)
    units = (UnitSet("h", written_by=("input",), read_by=(), output=True),)

    def __init__(self, input_size, hidden_size, function):
        super().__init__(input_size, hidden_size)
        self.input = Dense().build(hidden_size, input_size)
        self.function = function
        self.reset_parameters()

    def step(self, projected, states):
        h = self.function(projected, states[0])
        return torch.sigmoid(h) + states[0], (h,)


def drawn(layer, x):
    return [torch.randn(1, x.shape[1], n).to(x) for n in layer.cells[0][0].state_sizes()]


def results(layer, x, states, kind):
    """Outputs, last states and all gradients; a warning, as of no convergence, is an error."""
    given = [t.clone().requires_grad_() for t in (x, *states)]
    with cr.time_loop(kind), warnings.catch_warnings():
        warnings.simplefilter("error")
        output, after = layer(given[0], given[1] if len(states) == 1 else tuple(given[1:]))
    outputs = [output, *(after if isinstance(after, tuple) else (after,))]
    generator = torch.Generator().manual_seed(0)
    total = torch.stack([(y * torch.randn(y.shape, generator=generator).to(y)).sum() for y in outputs]).sum()
    return [*outputs, *torch.autograd.grad(total, [*given, *layer.parameters()])]


def assert_near(found, wanted, error):
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).detach().abs().max() <= error * b.detach().abs().max()


@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
@pytest.mark.parametrize("make", DIAGONAL, ids=lambda make: make.func.__name__)
@pytest.mark.parametrize("steps, batch", [(1, 2), (2, 1), (300, 3)])
def test_it_gives_the_numbers_and_gradients_of_the_plain_loop(make, dtype, error, steps, batch, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(newton, "WINDOW", 1000)  # several windows of time
    layer = cr.Recurrent(make.func, 4, 6, **make.keywords).to(dtype)
    x = torch.randn(steps, batch, 4).to(dtype)
    states = drawn(layer, x)
    assert "newton" in cr.loop_report(layer)[0].kinds
    found = results(layer, x, states, "newton")
    assert all(t.dtype == dtype for t in found)
    exact = results(layer.double(), x.double(), [s.double() for s in states], "plain")
    assert_near(found, exact, error)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_a_long_sequence_of_long_memories(nonlinearity):
    torch.manual_seed(0)
    layer = cr.Recurrent(IndRNN, 4, 8, nonlinearity=nonlinearity, recurrent_init=(0.99, 1.0))
    x = torch.randn(16384, 1, 4)
    states = drawn(layer, x)
    assert_near(results(layer, x, states, "newton"), results(layer, x, states, "native"), 1e-4)


FUNCTIONS = {
    "sine": (lambda x, h: torch.tanh(x + 0.9 * h) * torch.sigmoid(h), True),
    "pieces": (lambda x, h: torch.cat([torch.relu(x[:, :2] - h[:, :2]), torch.tanh(h[:, 2:])], 1), True),
    "without the state": (lambda x, h: torch.tanh(x), None),
    "turned": (lambda x, h: torch.tanh(x + torch.cat([h[:, 1:], h[:, :1]], 1)), False),
    "sum": (lambda x, h: torch.tanh(x + h.sum(1, keepdim=True)), False),
    "mean in a gate": (lambda x, h: x * torch.sigmoid(h.mean(1, keepdim=True)) + torch.tanh(h), False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_steps_of_units_by_themselves_run_in_it(name):
    torch.manual_seed(0)
    function, takes = FUNCTIONS[name]
    layer = cr.Recurrent(Own, 3, 6, function=function)
    assert ("newton" in cr.loop_report(layer)[0].kinds) == bool(takes)
    if takes:
        x = torch.randn(50, 2, 3)
        states = drawn(layer, x)
        assert_near(results(layer, x, states, "newton"), results(layer, x, states, "plain"), 1e-4)


@pytest.mark.parametrize("cell", [MGU, cr.cells.GILR], ids=lambda cell: cell.__name__)
def test_other_cells_are_refused(cell):
    layer = cr.Recurrent(cell, 3, 6)
    with cr.time_loop("newton"), pytest.raises(ValueError, match=r"plain.*'newton'.*units must see their own states"):
        layer(torch.randn(5, 2, 3))
    with cr.time_loop("newton"), pytest.raises(ValueError, match=r"'newton'.*units must see their own states"):
        layer.double()(torch.randn(5, 2, 3).double())


def logistic(x, h):
    return 3.9 * h * (1 - h)


@pytest.mark.parametrize("dtype, loop", [(torch.float32, "native"), (torch.float64, "plain")], ids=str)
def test_a_chaotic_step_runs_in_a_loop_and_says_so(dtype, loop):
    torch.manual_seed(0)
    cell = Own(3, 4, logistic).to(dtype)
    projected, start = torch.zeros(3000, 2, 4).to(dtype), (torch.rand(2, 4).to(dtype),)
    with torch.no_grad(), cr.time_loop(loop):
        wanted = run_cell(cell, projected, start)
    with torch.no_grad(), cr.time_loop("newton"), pytest.warns(UserWarning, match=f"not converged.*{loop} loop"):
        found = run_cell(cell, projected, start)
    assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e38])
def test_what_is_not_finite_runs_in_a_loop(broken):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(IndRNN, 3, 4, recurrent_init=(1.5, 2.0)), torch.randn(300, 1, 3)
    x[7] = broken
    with torch.no_grad(), cr.time_loop("native"):
        wanted = layer(x)
    with torch.no_grad(), cr.time_loop("newton"), pytest.warns(UserWarning, match="not converged"):
        found = layer(x)
    assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("make", [DIAGONAL[1], DIAGONAL[-2]], ids=lambda make: make.func.__name__)
def test_second_derivatives_are_right(make):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 2, 3, **make.keywords).double()
    x = torch.randn(6, 2, 2, dtype=torch.float64, requires_grad=True)

    def penalty(kind):
        with cr.time_loop(kind):
            (grad,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *layer.parameters()])

    assert_close(penalty("newton"), penalty("plain"))


def test_frozen_parameters_and_no_gradient_of_the_input():
    torch.manual_seed(0)
    layer, x = cr.Recurrent(IndRNN, 3, 4, nonlinearity="tanh"), torch.randn(40, 2, 3)
    grads, parameters = [], dict(layer.named_parameters())
    (recurrent,) = (p for name, p in parameters.items() if name.endswith("recurrent"))
    for parameter in parameters.values():
        parameter.requires_grad_(parameter is recurrent)
    for kind in ("newton", "plain"):
        with cr.time_loop(kind):
            layer(x)[0].square().sum().backward()
        assert recurrent.grad is not None
        grads.append(recurrent.grad.clone())
        layer.zero_grad()
    assert_close(grads[0], grads[1])
