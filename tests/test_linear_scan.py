import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from compactrnn.layers import _linear_scan
from compactrnn.layers.linear_recurrence import _scan_in_torch, linear_scan


def loop(decay, x, initial, reverse=False):
    """The recurrence, step by step."""
    h, states = initial, {}
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        h = (decay[t] if decay.dim() == 3 else decay) * h + x[t]
        states[t] = h
    return torch.stack([states[t] for t in range(len(x))])


def case(form, steps, batch, size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = {"per time": (steps, batch, size), "constant": (batch, size), "shared": (size,)}[form]

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    decay = (0.6 + 0.4 * torch.rand(shape, generator=generator, dtype=dtype)).requires_grad_()
    return (decay, normal(steps, batch, size), normal(batch, size)), torch.randn(
        steps, batch, size, generator=generator, dtype=dtype
    )


def states_and_gradients(function, arguments, weights):
    h = function(*arguments)
    return h, *torch.autograd.grad(h, arguments, weights)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


FORMS = ["per time", "constant", "shared"]
# one step, two, three; odd numbers of columns, of every width of vectors; more than one block of rows
SHAPES = [(1, 2, 3), (2, 1, 1), (3, 5, 7), (70, 1, 4), (41, 3, 43), (1100, 1, 9), (257, 2, 128)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_loop_in_double(shape, form, reverse):
    arguments, weights = case(form, *shape)
    doubles = tuple(a.detach().double().requires_grad_() for a in arguments)
    wanted = states_and_gradients(lambda *a: loop(*a, reverse), doubles, weights.double())
    for function, given, w in [(linear_scan, arguments, weights), (linear_scan, doubles, weights.double())]:
        got = states_and_gradients(lambda *a, f=function: f(*a, reverse=reverse), given, w)
        tolerance = 2e-5 if given is arguments else 1e-12
        for one, other in zip(got, wanted, strict=True):
            scale = max(1.0, other.abs().max().item())
            assert_close(one.double() / scale, other / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [1, 5, 16, 40, 100])
@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_threads_give_the_same(pieces, columns, form, reverse):
    """The native functions take any number of blocks; the caller chooses it for speed."""
    steps = 1003
    (decay, x, initial), dh = case(form, steps, 1, columns)
    decay, x, initial = (a.detach() for a in (decay, x, initial))
    constant = form != "per time"
    results = []
    for threads in (1, pieces):
        h, dx, ddecay = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(decay)
        dinitial = torch.empty_like(initial)
        pointers = [t.data_ptr() for t in (h, dh, ddecay, dx, dinitial)]
        rest = (steps, columns, reverse, threads)
        _linear_scan.states(decay.data_ptr(), constant, x.data_ptr(), initial.data_ptr(), h.data_ptr(), *rest)
        _linear_scan.gradients(decay.data_ptr(), constant, initial.data_ptr(), *pointers, *rest)
        results.append((h, ddecay, dx, dinitial))
    for one, other in zip(*results, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one / scale, other / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_beyond_the_caches(form):
    """Large results are written by non-temporal stores."""
    arguments, weights = case(form, 16500, 1, 128)
    for one, other in zip(
        states_and_gradients(linear_scan, arguments, weights),
        states_and_gradients(_scan_in_torch, arguments, weights),
        strict=True,
    ):
        assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_every_order(form, reverse):
    arguments, _ = case(form, 7, 2, 3, torch.float64)

    def function(*a):
        return linear_scan(*a, reverse=reverse)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_native_second_derivatives(form, reverse):
    def penalty(function, arguments):
        gradients = torch.autograd.grad(function(*arguments, reverse=reverse).sin().sum(), arguments, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), arguments)

    arguments, _ = case(form, 20, 2, 5)
    doubles = tuple(a.detach().double().requires_grad_() for a in arguments)
    for one, other in zip(penalty(linear_scan, arguments), penalty(loop, doubles), strict=True):
        assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_values_that_are_not_finite(threads):
    """A NaN stays in its column from its time on; factors above one overflow only what is not zero."""
    decay, x, initial = torch.full((40000, 1, 4), 1.5), torch.zeros(40000, 1, 4), torch.zeros(1, 4)
    decay[:, :, 3] = 0.5
    x[30000, 0, 1], x[20000, 0, 2], x[:, :, 3] = float("nan"), 1.0, 1.0
    h = linear_scan(decay, x, initial)
    assert (h[..., 0] == 0).all()
    assert (h[:30000, 0, 1] == 0).all() and h[30000:, 0, 1].isnan().all()
    assert h[20000, 0, 2] == 1 and h[20001, 0, 2] == 1.5 and h[-1, 0, 2].isinf()
    assert_close(h[100:, 0, 3], torch.full((39900,), 2.0))


def test_layouts_that_are_not_contiguous():
    (decay, x, initial), weights = case("per time", 12, 4, 6)
    plain = linear_scan(decay, x, initial)
    turned = linear_scan(
        decay.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT, initial.mT.contiguous().mT
    )
    assert torch.equal(plain, turned)
    weights = weights[:1].expand_as(plain)
    wanted = torch.autograd.grad(plain, x, weights.contiguous(), retain_graph=True)
    assert torch.equal(torch.autograd.grad(plain, x, weights)[0], wanted[0])


def test_inputs_are_left_alone():
    (decay, x, initial), weights = case("per time", 300, 1, 3)
    before = [t.detach().clone() for t in (decay, x, initial, weights)]
    states_and_gradients(linear_scan, (decay, x, initial), weights)
    assert all(torch.equal(a, b) for a, b in zip(before, (decay, x, initial, weights), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    (decay, x, initial), _ = case("per time", 9, 2, 3)
    h = linear_scan(decay.to(dtype), x.to(dtype), initial.to(dtype))
    assert h.dtype == dtype
    assert_close(h.float(), loop(decay, x, initial), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "decay, x, initial, message",
    [
        ((3,), (4, 3), (4, 3), r"x: expected \(T, B, n\).*, got shape \(4, 3\)"),
        ((3,), (0, 2, 3), (2, 3), "at least one step"),
        ((3,), (5, 2, 3), (3,), r"initial: expected \(2, 3\).*, got shape \(3,\)"),
        ((4, 2, 3), (5, 2, 3), (2, 3), r"decay: expected \(5, 2, 3\), or \(2, 3\) or \(3,\).*, got shape \(4, 2, 3\)"),
    ],
)
def test_wrong_shapes_are_named(decay, x, initial, message):
    with pytest.raises(ValueError, match=message):
        linear_scan(torch.ones(decay), torch.ones(x), torch.ones(initial))


def test_wrong_dtypes_are_named():
    with pytest.raises(ValueError, match=r"decay: expected torch.float32 on cpu, as x.*, got torch.float64 on cpu"):
        linear_scan(torch.ones(3).double(), torch.ones(2, 1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="floating-point"):
        linear_scan(torch.ones(3, dtype=int), torch.ones(2, 1, 3, dtype=int), torch.ones(1, 3, dtype=int))


def test_no_columns():
    assert linear_scan(torch.ones(0), torch.ones(5, 2, 0), torch.ones(2, 0)).shape == (5, 2, 0)


def test_works_where_no_thread_can_be_started():
    """As many threads as asked for, or fewer: here the address space has no room for the stack of one."""
    script = """
import importlib.util, resource, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_linear_scan", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
decay, x = np.full((5, 64), 0.5, np.float32), np.ones((5, 64), np.float32)
first, h = np.zeros(64, np.float32), np.empty_like(x)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 20), now + (1 << 20)))
native.states(*(a.ctypes.data if i != 1 else a for i, a in enumerate((decay, False, x, first, h))), 5, 64, False, 4)
print(h[:, 0].tolist())
"""
    command = [sys.executable, "-c", script, _linear_scan.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[1.0, 1.5, 1.75, 1.875, 1.9375]"
