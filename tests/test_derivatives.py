"""Derivatives of every order and kind, through the layers as they run by default."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import compactrnn as cr
from cell_table import CELLS, name_of

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, in jvp too

FUSED = {
    "LSTM": lambda: cr.LSTM(3, 5),
    "LSTM, sizes": lambda: cr.LSTM(3, [5, 4], bidirectional=True),
    "LSTM, projected": lambda: cr.LSTM(3, [5, 4], proj_size=[2, 6]),
    "GRU": lambda: cr.GRU(3, 5),
    "GRU, low rank": lambda: cr.GRU(3, 5, hidden_weight=cr.LowRank(rank=2)),
    "RNN, Kronecker": lambda: cr.RNN(3, 6, hidden_weight=cr.Kronecker(2, 2)),
}
LAYERS = FUSED | {
    name_of(make): lambda make=make: cr.Recurrent(make.func, 3, 6, num_layers=2, **make.keywords) for make in CELLS
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def made(name):
    torch.manual_seed(0)
    return LAYERS[name]()


def penalty(layer, x, dtype=torch.float32, kind="auto"):
    """Gradients of a gradient penalty: of the input, the initial states and the parameters."""
    layer, x = copy.deepcopy(layer).to(dtype), x.to(dtype).requires_grad_()
    with torch.no_grad():
        states = torch.utils._pytree.tree_map(lambda s: torch.full_like(s, 0.3).requires_grad_(), layer(x)[1])
    with cr.time_loop(kind):
        output, after = layer(x, states)
    leaves = torch.utils._pytree.tree_leaves(states)
    total = output.sin().sum() + sum(s.square().sum() for s in torch.utils._pytree.tree_leaves(after))
    first = torch.autograd.grad(total, [x, *leaves], create_graph=True)
    given = [x, *leaves, *layer.parameters()]
    return torch.autograd.grad(sum(g.square().sum() for g in first), given, allow_unused=True, materialize_grads=True)


@every_layer
def test_second_derivatives(name):
    layer, x = made(name), torch.randn(4, 2, 3)
    got, wanted = penalty(layer, x), penalty(layer, x, torch.float64, "plain")
    for a, b in zip(got, wanted, strict=True):
        assert_close(a.double(), b, rtol=2e-3, atol=2e-5 + 1e-3 * b.abs().max().item())


def test_second_derivatives_of_a_scan():
    layer, x = cr.Recurrent(cr.GILR, 3, 6), torch.randn(9, 2, 3)
    got, wanted = penalty(layer, x, kind="scan"), penalty(layer, x, torch.float64, "plain")
    assert_close([g.double() for g in got], list(wanted), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives_of_a_packed_batch(reverse):
    torch.manual_seed(0)
    layer = cr.Recurrent(cr.MGU, 3, 4, bidirectional=reverse)
    xs = [torch.randn(n, 3, requires_grad=True) for n in (5, 3, 1)]

    def run(kind):
        with cr.time_loop(kind):
            total = layer(pack_sequence(xs))[0].data.sin().sum()
        first = torch.autograd.grad(total, xs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), [*layer.parameters()])

    assert_close(run("auto"), run("plain"), rtol=1e-3, atol=1e-5)


def test_third_derivatives():
    torch.manual_seed(0)
    layer, x = cr.Recurrent(cr.MGU, 2, 3), torch.randn(3, 1, 2, requires_grad=True)

    def run(kind):
        with cr.time_loop(kind):
            total = layer(x)[0].sin().sum()
        for _ in range(2):
            (grad,) = torch.autograd.grad(total, x, create_graph=True)
            total = grad.square().sum()
        return torch.autograd.grad(total, [x, *layer.parameters()])

    assert_close(run("auto"), run("plain"), rtol=1e-3, atol=1e-5)


def test_learning_to_learn_with_one_layer_used_twice():
    """The input of the second call depends on the first: neither may count the other's gradient of the weights."""
    torch.manual_seed(0)
    layer, x = cr.Recurrent(cr.MGU, 4, 4), torch.randn(5, 3, 4)

    def run(kind):
        with cr.time_loop(kind):
            parameters = dict(layer.named_parameters())

            def loss(given):
                return functional_call(layer, given, (functional_call(layer, given, (x,))[0],))[0].square().mean()

            inner = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)
            fast = {n: w - 0.5 * g for (n, w), g in zip(parameters.items(), inner, strict=True)}
            return torch.autograd.grad(loss(fast), list(parameters.values()))

    assert_close(run("auto"), run("plain"), rtol=1e-3, atol=1e-6)


def test_second_derivatives_of_checkpoints_that_are_the_first_call():
    """The check of a cell's loop must not become part of the recomputed graph."""
    x = torch.randn(8, 2, 3)

    def run(kind):
        torch.manual_seed(0)
        layer, given = cr.Recurrent(cr.MGU, 3, 4), x.clone().requires_grad_()
        with cr.time_loop(kind):
            output, _ = cr.checkpointed(layer, given, every=3)
        (first,) = torch.autograd.grad(output.sin().sum(), given, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [*layer.parameters()])

    assert_close(run("auto"), run("plain"), rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of checks of shapes
def test_what_records_operations_sees_torchs():
    layer, x = cr.Recurrent(cr.MGU, 3, 4).eval(), torch.randn(4, 2, 3)
    wanted = layer(x)[0]
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert not [node for node in traced.inlined_graph.nodes() if node.kind() == "prim::PythonOp"]
    assert_close(traced(x)[0], wanted)
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))[0]).tangent
    (_, jvp) = torch.autograd.functional.jvp(lambda x: layer(x)[0], x, torch.ones_like(x))
    assert_close(slope, jvp)


def test_only_what_is_asked_for():
    """Frozen parameters, unused outputs, and a state that is overwritten before the gradient is taken."""
    layer = cr.Recurrent(cr.cells.LSTM, 3, 4)
    layer.cells[0][0].hidden.requires_grad_(False)
    states = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    _, (_, c_n) = layer(torch.randn(5, 2, 3), states)
    states[0].fill_(torch.nan)
    weight = layer.cells[0][0].input.weight
    (grad,) = torch.autograd.grad(c_n.sum(), weight, create_graph=True)
    grad.square().sum().backward()
    assert weight.grad.isfinite().all() and layer.cells[0][0].hidden.weight.grad is None


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessians(vectorize):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(cr.DuRNN, 2, 3), torch.randn(3, 1, 2)

    def run(kind, find):
        with cr.time_loop(kind):
            return find(lambda x: layer(x)[0].sin().sum(), x)

    def find(f, x):
        return torch.autograd.functional.hessian(f, x, vectorize=vectorize)

    wanted = run("plain", find)
    assert wanted.abs().max() > 1e-3
    assert_close(run("auto", find), wanted, rtol=1e-3, atol=1e-5)
    assert_close(run("auto", lambda f, x: torch.func.hessian(f)(x)), wanted, rtol=1e-3, atol=1e-5)


@every_layer
def test_function_transforms(name):
    """`torch.func` over the input: a batch, reverse and forward derivatives."""
    layer, x = made(name), torch.randn(4, 2, 3)
    with cr.time_loop("plain"):
        wanted = layer(x)[0]
        (gradient,) = torch.autograd.grad(layer(y := x.clone().requires_grad_())[0].sin().sum(), y)
    got = torch.func.vmap(lambda x: layer(x[:, None])[0][:, 0], in_dims=1, out_dims=1)(x)
    assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert_close(torch.func.grad(lambda x: layer(x)[0].sin().sum())(x), gradient, rtol=1e-3, atol=1e-5)
    _, slope = torch.func.jvp(lambda x: layer(x)[0].sin().sum(), (x,), (x,))
    assert_close(slope, (gradient * x).sum(), rtol=1e-3, atol=1e-4)


@every_layer
def test_function_transforms_of_the_parameters(name):
    """A gradient for each sequence, and several models at once."""
    layer, x = made(name), torch.randn(4, 2, 3)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,))[0].sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x[:, :, None])
    total = loss(p := {n: t.clone().requires_grad_() for n, t in parameters.items()}, x)
    wanted = torch.autograd.grad(total, list(p.values()))
    assert_close([g.sum(0) for g in each.values()], list(wanted), rtol=1e-3, atol=1e-4)

    two = {n: torch.stack([t, t / 2]) for n, t in parameters.items()}
    losses = torch.func.vmap(loss, in_dims=(0, None))(two, x)
    alone = [loss({n: t[i] for n, t in two.items()}, x) for i in range(2)]
    assert_close(losses, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_a_fast_loop_that_cannot_run_is_refused():
    layer, x = cr.Recurrent(cr.MGU, 3, 4), torch.randn(4, 2, 3)
    with cr.time_loop("native"), pytest.raises(ValueError, match=r"expected .*'plain'.*, got 'native'.*torch\.func"):
        torch.func.grad(lambda x: layer(x)[0].sum())(x)
    with cr.time_loop("native"), pytest.raises(ValueError, match=r"'plain'.*float32 on the CPU.*torch\.float64"):
        layer.double()(x.double())


def test_linear_scan_in_function_transforms():
    decay, x, h = torch.rand(6, 2, 3), torch.randn(6, 2, 3), torch.randn(2, 3)
    wanted = cr.linear_scan(decay, x, h)
    together = torch.func.vmap(cr.linear_scan, in_dims=(2, 2, 1), out_dims=2)(
        decay[..., None], x[..., None], h[..., None]
    )
    assert_close(together[..., 0], wanted)
    a = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cr.linear_scan(decay, a, h).sin().sum(), a)
    assert_close(torch.func.grad(lambda x: cr.linear_scan(decay, x, h).sin().sum())(x), gradient)
    _, slope = torch.func.jvp(lambda x: cr.linear_scan(decay, x, h).sin().sum(), (x,), (x,))
    assert_close(slope, (gradient * x).sum())
    jacobian = torch.autograd.functional.jacobian(lambda x: cr.linear_scan(decay, x, h).sum((1, 2)), x, vectorize=True)
    assert_close(jacobian, torch.autograd.functional.jacobian(lambda x: cr.linear_scan(decay, x, h).sum((1, 2)), x))
