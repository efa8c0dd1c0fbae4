"""The native products of many rows give what torch gives, gradients of gradients too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear as torchs

from compactrnn.cells import GRU
from compactrnn.runtime import _native
from compactrnn.weights import Dense
from compactrnn.weights.products import MANY, linear, outer

SIZES = st.integers(1, 70)


def close(a, b):
    torch.testing.assert_close(
        a, b, rtol=1e-4, atol=1e-4 * max(1.0, b.detach().abs().max().item() if b.numel() else 1.0)
    )


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 600), height=SIZES, width=SIZES, skipped=st.integers(0, 3), turned=st.booleans())
def test_the_sum_of_outer_products(rows, height, width, skipped, turned):
    generator = torch.Generator().manual_seed(rows)
    left = torch.randn(rows, height + skipped, generator=generator)[:, skipped:]
    right = torch.randn(width, rows, generator=generator).T if turned else torch.randn(rows, width, generator=generator)
    close(outer(left, right), left.mT @ right)


@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("CRNN_ISA", isa)
    left, right = torch.randn(531, 41), torch.randn(531, 37)
    close(outer(left, right), left.mT @ right)
    x, matrix = torch.randn(9, 70, 41), torch.randn(37, 41, requires_grad=True)
    close(linear(x, matrix), torchs(x, matrix))


@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_do_not_depend_on_threads(threads):
    left, right = torch.randn(700, 50), torch.randn(700, 20)
    before, one = torch.get_num_threads(), outer(left, right)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(outer(left, right), one)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=30, deadline=None)
@given(inputs=SIZES, outputs=SIZES, of_x=st.booleans(), turned=st.booleans())
def test_gradients(inputs, outputs, of_x, turned):
    x = torch.randn(5, MANY, inputs).requires_grad_(of_x)
    matrix = (torch.randn(inputs, outputs).T if turned else torch.randn(outputs, inputs)).requires_grad_()
    found = [f(x, matrix).sin() for f in (linear, torchs)]
    close(*found)
    wanted = [t for t in (x, matrix) if t.requires_grad]
    above = torch.randn_like(found[0])
    for a, b in zip(*(torch.autograd.grad(y, wanted, above) for y in found), strict=True):
        close(a, b)


def test_gradients_of_gradients():
    x, matrix = torch.randn(2, MANY, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)

    def second(product):
        (first,) = torch.autograd.grad(product(x, matrix).square().sum(), matrix, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, matrix])

    for a, b in zip(second(linear), second(torchs), strict=True):
        close(a, b)


def test_who_looks_on_sees_torchs_product():
    x, matrix = torch.randn(2, MANY, 3), torch.randn(4, 3, requires_grad=True)
    exported = torch.export.export(Product(matrix), (x,))
    assert "linear" in str(exported.graph)
    batched = torch.func.vmap(linear, (0, None))(torch.randn(3, 2, MANY, 3), matrix)
    assert batched.shape == (3, 2, MANY, 4)


class Product(torch.nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix.detach())

    def forward(self, x):
        return linear(x, self.matrix)


@pytest.mark.parametrize("width", [5, 7])
def test_what_does_not_fit_is_torchs_to_refuse(width):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        GRU(6, 4).project(torch.randn(2, MANY, width))


def test_the_product_may_be_changed_in_place():
    weight, x = Dense().build(4, 6), torch.randn(2, MANY, 6)
    weight(x).relu_().sum().backward()
    expected = torch.autograd.grad(torchs(x, weight.weight).relu().sum(), weight.weight)[0]
    close(weight.weight.grad, expected)


def test_only_what_is_read_again_must_stay():
    """As in torch: x for the gradient of the matrix, the matrix for that of x."""
    matrix, x = torch.randn(4, 6, requires_grad=True), torch.randn(2, MANY, 6)
    product = linear(x, matrix)
    with torch.no_grad():
        matrix.zero_()
    product.sum().backward()
    close(matrix.grad, x.sum((0, 1)).expand(4, 6))
    fixed, read = torch.randn(4, 6), x.clone().requires_grad_()
    product = linear(changed := read * 1, fixed)
    changed.zero_()
    product.sum().backward()
    close(read.grad, fixed.sum(0).expand_as(x))
    for number in range(2):
        given = read * 1, matrix
        product = linear(*given)
        with torch.no_grad():
            given[number].zero_()
        with pytest.raises(RuntimeError, match="inplace"):
            product.sum().backward()


def test_a_batch_of_gradients():
    x, matrix = torch.randn(2, MANY, 3), torch.randn(4, 3)

    def jacobian(product, vectorize):
        return torch.autograd.functional.jacobian(
            lambda *given: product(*given).sum((0, 1)), (x, matrix), vectorize=vectorize
        )

    for a, b in zip(jacobian(linear, True), jacobian(torchs, False), strict=True):
        close(a, b)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_numbers_that_lie_otherwise_in_memory():
    x, matrix = torch.randn(2, MANY, 3), torch.randn(4, 3, requires_grad=True)
    close(linear(torch._neg_view(x), matrix), torchs(-x, matrix))
    rows = [torch.randn(n, 3) for n in (MANY, 2)]
    for row, product in zip(rows, linear(torch.nested.as_nested_tensor(rows), matrix).unbind(), strict=True):
        close(product, torchs(row, matrix))


def test_no_outputs():
    x, matrix = torch.randn(2, MANY, 3, requires_grad=True), torch.randn(0, 3, requires_grad=True)
    linear(x, matrix).sum().backward()
    assert matrix.grad is not None and matrix.grad.shape == (0, 3) and not x.grad.any()
