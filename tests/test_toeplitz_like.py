"""The identities of Toeplitz-like matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from compactrnn.weights import ToeplitzLike, ToeplitzTerm
from compactrnn.weights.toeplitz_term import displacement, from_displacement

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, in jvp


def circulant(first, f):
    """Z_f(v), entry by entry."""
    n = len(first)
    return torch.stack([torch.stack([first[i - j] * (1 if i >= j else f) for j in range(n)]) for i in range(n)])


def rank(matrix):
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-10))


def weight(n, r, out=None, gates=1):
    torch.manual_seed(n + r)
    return ToeplitzLike(rank=r).build(out or n, n, gates).double()


@pytest.mark.parametrize("n, r", [(1, 1), (2, 1), (5, 3), (8, 2), (9, 9)])
def test_dense_is_the_sum_of_products_of_circulant_matrices(n, r):
    w = weight(n, r)
    wanted = sum(circulant(g, 1) @ circulant(h, -1) for g, h in zip(w.first[0], w.second[0], strict=True))
    assert_close(w.dense(), wanted)


def test_blocks_stand_below_each_other_gate_by_gate():
    w = weight(4, 2, out=2 * 10, gates=2)  # three blocks for each gate, the last one cut to two rows
    blocks = [ToeplitzTerm(w.first[i : i + 1], w.second[i : i + 1], 4).dense() for i in range(6)]
    gates = [torch.cat(blocks[:3])[:10], torch.cat(blocks[3:])[:10]]
    assert_close(w.dense(), torch.cat(gates))
    assert w.stored_parameters() == 2 * 6 * 2 * 4


def test_fewer_rows_than_columns_are_one_block_cut_off():
    w = weight(7, 2, out=3)
    whole = ToeplitzTerm(w.first, w.second, 7).dense()
    assert_close(w.dense(), whole[:3])
    assert w.stored_parameters() == 2 * 2 * 7


@pytest.mark.parametrize("r", [1, 2, 3])
def test_the_displacement_has_the_rank(r):
    assert rank(displacement(weight(12, r).dense())) == r


def test_toeplitz_matrices_and_their_inverses_are_of_rank_two():
    entries = torch.randn(23, dtype=torch.float64)
    entries[11] = 8.0  # the diagonal
    toeplitz = entries[11 + torch.arange(12)[:, None] - torch.arange(12)]
    for matrix in (toeplitz, toeplitz.inverse()):
        assert rank(displacement(matrix)) == 2
        assert_close(weight(12, 2).from_dense_(matrix).dense(), matrix)


def test_rank_one_is_of_full_rank():
    assert rank(weight(16, 1).dense()) == 16


def test_rank_n_is_any_matrix():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    assert_close(weight(6, 6).from_dense_(matrix).dense(), matrix)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), data=st.data())
def test_the_product_by_fourier_transforms_is_that_of_dense(n, data):
    r, out, gates = data.draw(st.integers(1, n)), data.draw(st.integers(1, 50)), data.draw(st.integers(1, 4))
    w = weight(n, r, out * gates, gates)
    for vectors in (1, n + 1):  # few, many
        x = torch.randn(vectors, n, dtype=torch.float64)
        assert_close(w(x), x @ w.dense().T)


def test_float32_is_as_exact_as_its_numbers():
    w = ToeplitzLike(rank=4).build(1024, 256, gates=4)
    exact = ToeplitzLike(rank=4).build(1024, 256, gates=4).double()
    exact.load_state_dict(w.state_dict())
    x = torch.randn(1, 256)
    size = exact.dense().abs().max()
    assert (w.dense() - exact.dense()).abs().max() < 2e-6 * size
    assert (w(x) - exact(x.double())).abs().max() < 2e-5 * size


def test_any_order_of_derivatives():
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(from_displacement, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(from_displacement, x)
    w = weight(5, 2, out=8)
    few = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    parameters = (few, w.first, w.second)
    product = lambda x, g, h: torch.func.functional_call(w, {"first": g, "second": h}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(product, parameters) and torch.autograd.gradgradcheck(product, parameters)


def test_vmap_and_jvp():
    w = weight(5, 2)
    g = torch.randn(3, *w.first.shape, dtype=torch.float64)
    dense = lambda g: ToeplitzTerm(g, w.second, 5).dense()  # noqa: E731
    assert_close(torch.func.vmap(dense)(g), torch.stack([dense(one) for one in g]))
    assert_close(torch.func.jvp(dense, (g[0],), (g[1],))[1], dense(g[1]))  # it is linear in g


@pytest.mark.parametrize("r", [1, 4])
def test_factors_start_with_the_usual_deviation(r):
    n, bound = 256, 0.1
    w = ToeplitzLike(rank=r).build(4 * n, n, gates=4)
    w.reset_parameters(bound)
    wanted = (bound**2 / 3 / (r * n)) ** 0.25
    for factor in (w.first, w.second):
        assert abs(float(factor.detach().std()) / wanted - 1) < 0.1


def test_a_rank_above_the_columns_is_refused():
    with pytest.raises(ValueError, match=r"rank: expected at most in_features=4, got 5.*Dense"):
        ToeplitzLike(rank=5).build(8, 4)
    with pytest.raises(ValueError, match=r"rank: .*got 0"):
        ToeplitzLike(rank=0)
