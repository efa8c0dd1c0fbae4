"""Layers run by several threads at a time give what one thread gives: outputs and gradients."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm

import compactrnn as cr

THREADS = 4
LAYERS = {
    "cell": lambda: cr.Recurrent(cr.MGU, 6, 16),
    "structured": lambda: cr.Recurrent(cr.MGU, 6, 16, hidden_weight=cr.ToeplitzLike(2)),
    "torch's": lambda: cr.GRU(6, 16),
    "computed": lambda: weight_norm(weight_norm(cr.GRU(6, 16), "weight_hh_l0"), "weight_ih_l0"),
}


def results(layer, x):
    output = layer(x)[0]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]


def new(name):
    torch.manual_seed(0)
    return LAYERS[name]()


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work):
    """`work(number)` in every thread, begun at once; raises what one of them raises."""
    barrier = Barrier(THREADS)

    def begin(number):
        barrier.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shared", [True, False], ids=["one layer", "a layer each"])
def test_threads_that_begin_at_once_do_not_disturb_each_other(name, shared):
    inputs = torch.randn(THREADS, 5, 3, 6, generator=torch.Generator().manual_seed(1))
    wanted = [results(new(name), x) for x in inputs]
    one = new(name)
    layers = [one if shared else new(name) for _ in inputs]
    for _ in range(2):
        found = in_threads(lambda i: [results(layers[i], inputs[i]) for _ in range(8)])
        for each, want in zip(found, wanted, strict=True):
            for values in each:
                torch.testing.assert_close(values, want, rtol=1e-5, atol=1e-6)


def test_a_layer_runs_while_others_are_traced():
    x = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(1))
    layer = new("structured")
    wanted = results(layer, x)

    def work(number):
        if number:
            return [results(new(name), x) for name in LAYERS] and []
        return [results(layer, x) for _ in range(40)]

    for values in in_threads(work)[0]:
        torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-6)
