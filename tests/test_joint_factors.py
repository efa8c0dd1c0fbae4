"""One factor for two matrices."""

import pytest
import torch
from torch.testing import assert_close

from compactrnn.weights import joint_factors


def matrices(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, 7, generator=generator, dtype=dtype) for rows in (24, 20))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("rows", [24, 5])
def test_nothing_is_lost_at_full_rank(stacked, rows):
    hidden, following = matrices()
    hidden = hidden[:rows]
    P, Z_h, Z_x = joint_factors(hidden, following, rank=7, stacked=stacked)
    assert_close((Z_h @ P, Z_x @ P), (hidden, following))
    assert_close(P @ P.T, torch.eye(7, dtype=P.dtype))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_each_is_the_best_there_is(rank):
    hidden, following = matrices()
    P, Z_h, Z_x = joint_factors(hidden, following, rank=rank)
    s = torch.linalg.svdvals(hidden)
    assert_close((Z_h @ P - hidden).square().sum(), s[rank:].square().sum())
    assert_close(Z_x, torch.linalg.lstsq(P.T, following.T).solution.T)
    together = torch.cat([hidden, following])
    P, Z_h, Z_x = joint_factors(hidden, following, rank=rank, stacked=True)
    s = torch.linalg.svdvals(together)
    assert_close((torch.cat([Z_h, Z_x]) @ P - together).square().sum(), s[rank:].square().sum())


def test_the_rank_of_an_energy():
    q, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    hidden = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.1, 0.0, 0.0], dtype=torch.float64)) @ q
    for energy, rank in ((0.5, 1), (9 / 14.01 + 1e-6, 2), (0.95, 3), (1.0, 4)):
        assert joint_factors(hidden, energy=energy)[0].shape == (rank, 6)
    assert joint_factors(torch.zeros(4, 3), energy=0.9)[0].shape == (1, 3)


def test_the_dtype_is_kept_and_there_may_be_one_matrix():
    hidden, _ = matrices(torch.float32)
    P, Z_h, nothing = joint_factors(hidden.requires_grad_(), rank=7)
    assert P.dtype == Z_h.dtype == torch.float32 and nothing is None and not P.requires_grad
    assert (Z_h @ P - hidden).abs().max() < 1e-5


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "exactly one of the two, got rank=None, energy=None"),
        ({"rank": 2, "energy": 0.5}, "exactly one"),
        ({"rank": 8}, "rank: expected at most 7.*, got 8"),
        ({"rank": 0}, "rank: expected a positive int.*, got 0"),
        ({"energy": 1.5}, "energy: expected a number above 0 and at most 1.*, got 1.5"),
        ({"rank": 2, "next_input": torch.ones(3, 4)}, r"same number of columns.*, got shapes"),
    ],
)
def test_errors_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        joint_factors(next(matrices()), **options)
