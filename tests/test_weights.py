from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from compactrnn.testing import WeightContract
from compactrnn.weights import BlockSparse, Dense, DenseWeight, Kronecker, LowRank, ToeplitzLike, WeightSpec
from compactrnn.weights.dense import select
from compactrnn.weights.masked import MaskedWeight


@dataclass(frozen=True)
class Masked(WeightSpec):
    """The weight that a pruner wraps around `inner`."""

    inner: WeightSpec

    def build(self, out_features, in_features, gates=1):
        return MaskedWeight(self.inner.build(out_features, in_features, gates))


SPECS = [
    Dense(),
    LowRank(rank=4),
    LowRank(energy=1.0),
    Kronecker(out_block=4, in_block=2),
    ToeplitzLike(rank=2),
    BlockSparse(keep=0.5),
    BlockSparse(block=(4, 5), keep=0.4),
    Masked(Kronecker(out_block=4, in_block=2)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestWeights(WeightContract):
    pass


@pytest.mark.parametrize("spec", [s for s in SPECS if not isinstance(s, Kronecker | ToeplitzLike)], ids=str)
def test_rows_and_columns_are_scaled_exactly(spec):
    weight = spec.build(16, 12)
    out, inp = torch.rand(16), torch.rand(12)
    out[3] = inp[5] = 0
    wanted = weight.dense().detach() * out[:, None] * inp
    assert_close(weight.scale_(out=out, inp=inp).dense(), wanted)
    assert not weight.dense()[3].any() and not weight.dense()[:, 5].any()


def test_low_rank_is_the_best_of_its_rank():
    matrix = torch.randn(20, 12)
    weight = LowRank(rank=5).build(20, 12).from_dense_(matrix)
    singular_values = torch.linalg.svdvals(matrix)
    assert_close((weight.dense() - matrix).norm(), singular_values[5:].norm())
    assert_close(weight.left.norm(dim=0), weight.right.norm(dim=1))


@pytest.mark.parametrize("energy", [0.3, 0.9, 1.0])
def test_energy_takes_the_smallest_rank_that_explains_enough(energy):
    matrix = torch.randn(20, 12)
    rank = LowRank(energy=energy).build(20, 12).from_dense_(matrix).rank
    explained = torch.linalg.svdvals(matrix.double()).square().cumsum(0)
    explained = explained / explained[-1]
    assert explained[rank - 1] >= energy - 1e-12
    assert rank == 1 or explained[rank - 2] < energy


def test_energy_of_the_zero_matrix_is_rank_one():
    assert LowRank(energy=0.9).build(6, 6).from_dense_(torch.zeros(6, 6)).rank == 1


def test_a_state_dict_brings_the_rank_that_an_energy_led_to():
    weight = LowRank(energy=0.5).build(20, 12).from_dense_(torch.randn(20, 12))
    other = LowRank(energy=0.5).build(20, 12)
    assert other.rank != weight.rank
    other.load_state_dict(weight.state_dict(), strict=True)
    assert_close(other.dense(), weight.dense())


def test_low_rank_becomes_dense_where_that_is_smaller():
    weight = LowRank(rank=4).build(16, 12)
    assert isinstance(select(weight, inp=torch.arange(3)), DenseWeight)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LowRank(), "exactly one of the two"),
        (lambda: LowRank(rank=2, energy=0.5), "exactly one of the two"),
        (lambda: LowRank(rank=0), r"rank: .*got 0"),
        (lambda: LowRank(rank=2.0), r"rank: .*got 2.0"),
        (lambda: LowRank(energy=0.0), r"energy: .*got 0.0"),
        (lambda: LowRank(energy=1.5), r"energy: .*got 1.5"),
        (lambda: LowRank(rank=9).build(16, 8), "rank: expected at most 8.*, got 9"),
        (lambda: Kronecker(out_block=3, in_block=2).build(16, 8), "a multiple of out_block=3"),
        (lambda: Kronecker(out_block=4, in_block=3).build(16, 8), "a multiple of in_block=3"),
        (lambda: Kronecker(out_block=0, in_block=2).build(16, 8), r"out_block: .*got 0"),
        (lambda: Dense().build(0, 8), r"out_features: .*got 0"),
        (lambda: Dense().build(7, 8, gates=2), r"out_features: .*got 7"),
        (lambda: Dense().build(4, 3).from_dense_(torch.zeros(3, 4)), "matrix shape"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
