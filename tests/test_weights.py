from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from compactrnn.testing import WeightContract
from compactrnn.weights import (
    BlockCirculant,
    BlockDiagonal,
    BlockSparse,
    Circulant,
    Convolution,
    Dense,
    DenseWeight,
    Diagonal,
    Doped,
    Hashed,
    Kronecker,
    LowRank,
    Monarch,
    Sparse,
    TensorTrain,
    ToeplitzLike,
    WeightSpec,
)
from compactrnn.weights.dense import select
from compactrnn.weights.masked import MaskedWeight
from compactrnn.weights.sparse import SparseWeight
from compactrnn.weights.terms import product


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
    Kronecker(),
    Kronecker(out_block=4, in_block=2, rank=2),
    ToeplitzLike(rank=2),
    BlockSparse(keep=0.5),
    BlockSparse(block=(4, 5), keep=0.4),
    Masked(Kronecker(out_block=4, in_block=2)),
    Circulant(),
    BlockCirculant(block=4),
    Convolution((2, 2)),
    Convolution((4,), kernel=5),
    BlockDiagonal(blocks=4),
    Hashed(compression=4),
    Hashed(buckets=7),
    TensorTrain(rank=3),
    TensorTrain(rank=2, modes=2),
    Monarch(blocks=4),
    Sparse(keep=0.1),
    LowRank(rank=2) + Sparse(keep=0.02),
    Doped(LowRank(rank=2), keep=0.03),
    Doped(BlockDiagonal(blocks=4), keep=0.1),
]
INEXACT = Kronecker | ToeplitzLike | Circulant | BlockCirculant | Convolution | Hashed | TensorTrain


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestWeights(WeightContract):
    pass


@pytest.mark.parametrize("spec", [Diagonal(), LowRank(rank=2) + Diagonal(), Monarch(blocks=2) + Diagonal()], ids=str)
class TestSquareGates(WeightContract):
    sizes = ((16, 16, 1), (24, 8, 3), (64, 16, 4))


@pytest.mark.parametrize("spec", [s for s in SPECS if not isinstance(s, INEXACT)], ids=str)
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


@pytest.mark.parametrize("spec", [LowRank(energy=0.5), BlockSparse(keep=0.5), Sparse(keep=0.5)], ids=str)
def test_an_optimizer_goes_on_with_a_state_dict_of_another_size(spec):
    weight, other = (spec.build(20, 13) for _ in range(2))
    last = (torch.arange(13) == 12).float().expand(20, -1)
    if isinstance(weight, SparseWeight):
        weight.set_columns(weight.index[:, :3], weight.dense())
    else:
        weight.from_dense_(torch.randn(20, 13) + 9 * last)  # whose block is smaller
        other.from_dense_(torch.randn(20, 13) * (1 - last))
    assert weight.stored_parameters() != other.stored_parameters()
    optimizer = torch.optim.Adam(other.parameters(), 0.1)
    other.load_state_dict(weight.state_dict())
    before = other.dense().detach().clone()
    other.dense().square().sum().backward()
    optimizer.step()
    assert not torch.equal(other.dense(), before)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_kronecker_product_is_the_nearest_of_its_rank(rank):
    """The distance is that of Van Loan and Pitsianis: the singular values left out, of the blocks as rows."""
    matrix, gates, tall, wide, out_block, in_block = torch.randn(2 * 12, 10), 2, 3, 5, 4, 2
    weight = Kronecker(out_block, in_block, rank=rank).build(2 * 12, 10, gates).from_dense_(matrix)
    blocks = [
        torch.stack(
            [gate[i : i + out_block, j : j + in_block].flatten() for i in range(0, 12, 4) for j in range(0, 10, 2)]
        )
        for gate in matrix.chunk(gates)
    ]
    left_out = torch.cat([torch.linalg.svdvals(b)[rank:] for b in blocks])
    assert_close((weight.dense() - matrix).norm(), left_out.norm())
    assert weight.left.shape == (gates, rank, tall, wide)
    kron = [sum(map(torch.kron, a, b)) for a, b in zip(weight.left, weight.right, strict=True)]
    assert_close(weight.dense(), torch.cat(kron))
    assert_close(weight.left.norm(dim=(2, 3)), weight.right.norm(dim=(2, 3)))


def test_the_zero_matrix_is_a_kronecker_product():
    assert not Kronecker().build(8, 6).from_dense_(torch.zeros(8, 6)).dense().any()


@pytest.mark.parametrize("size, block", [(512, 16), (256, 16), (650, 25), (1500, 30), (74, 2), (1, 1), (2, 1), (3, 1)])
def test_blocks_are_the_largest_up_to_the_square_root(size, block):
    weight = Kronecker().build(4 * size, size, 4)
    assert weight.right.shape == (4, 1, block, block) and weight.left.shape == (4, 1, size // block, size // block)


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
        (lambda: Diagonal().build(16, 8), "out_features per gate: expected in_features=8.*got 16"),
        (lambda: BlockDiagonal(blocks=3).build(16, 12), "a multiple of blocks=3"),
        (lambda: BlockDiagonal(blocks=3).build(12, 16), "in_features: .*a multiple of blocks=3"),
        (lambda: BlockDiagonal(blocks=0), "blocks: .*got 0"),
        (lambda: BlockCirculant(block=8).build(12, 16), "a multiple of block=8"),
        (lambda: BlockCirculant(block=8).build(16, 12), "in_features: .*a multiple of block=8"),
        (lambda: Monarch(blocks=4).build(24, 16, gates=4), "out_features per gate: .*a multiple of blocks=4"),
        (lambda: Hashed(), "exactly one of the two"),
        (lambda: Hashed(compression=2, buckets=3), "exactly one of the two"),
        (lambda: Hashed(compression=0.5), "compression: .*got 0.5"),
        (lambda: Hashed(buckets=17).build(4, 4), "buckets: expected at most 16.*got 17"),
        (lambda: TensorTrain(rank=0), "rank: .*got 0"),
        (lambda: TensorTrain(rank=2, modes=1.5), "modes: .*got 1.5"),
        (lambda: Sparse(keep=0), "keep: .*got 0"),
        (lambda: Doped(Dense(), keep=2), "keep: .*got 2"),
        (lambda: Doped(0.01, keep=0.1), "weight: expected a weight such as .*got 0.01"),
        (lambda: (LowRank(2) + Diagonal()).build(8, 4), "out_features per gate"),
        (lambda: Kronecker(rank=0), r"rank: .*got 0"),
        (
            lambda: Kronecker(4, 2, rank=9).build(16, 8),
            "rank: expected at most 8, the smaller of 4 x 4 and 4 x 2, got 9",
        ),
        (
            lambda: Kronecker().build(16, 13),
            "in_features: .*in_block.*got 13, a prime number; the nearest are 12 and 14",
        ),
        (lambda: Kronecker().build(4 * 41, 8, 4), "per gate: .*got 41, a prime number; the nearest are 40 and 42; or"),
        (lambda: Kronecker().build(8, 5), "the nearest are 4 and 6; or give in_block=1 or in_block=5"),
        (lambda: Convolution(8), "positions: expected a tuple of one to three sizes, got 8"),
        (lambda: Convolution((8, 0)), "positions: .*got 0"),
        (lambda: Convolution((8, 8), kernel=(3,)), "kernel: expected 2 sizes, as positions has"),
        (lambda: Convolution((8, 8), kernel=4), "kernel: expected an odd size"),
        (lambda: Convolution((2, 3)).build(3 * 6, 8, gates=3), "in_features: .*a multiple of positions=6"),
        (lambda: Convolution((2, 3)).build(4 * 8, 6, gates=4), "out_features per gate: .*a multiple of positions=6"),
        (lambda: Dense().build(0, 8), r"out_features: .*got 0"),
        (lambda: Dense().build(7, 8, gates=2), r"out_features: .*got 7"),
        (lambda: Dense().build(4, 3).from_dense_(torch.zeros(3, 4)), "matrix shape"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nearest_fits_are_projections():
    """Nothing of the same structure is nearer: what is left has no part in the directions of the parameters."""
    specs = [BlockCirculant(block=4), Circulant(), BlockDiagonal(blocks=2), Hashed(compression=4), Sparse(keep=0.2)]
    specs.append(Convolution((2, 2)))
    for spec in specs:
        for size in ((8, 12, 1), (20, 8, 1), (24, 12, 3)):
            if isinstance(spec, BlockCirculant | BlockDiagonal | Convolution) and (size[0] // size[2]) % 4:
                continue
            matrix = torch.randn(size[0], size[1], dtype=torch.float64)
            weight = spec.build(*size).double().from_dense_(matrix)
            error = (weight.dense() - matrix).square().sum()
            assert error > 0
            for gradient in torch.autograd.grad(error, list(weight.parameters())):
                assert_close(gradient, torch.zeros_like(gradient))


def test_monarch_takes_the_best_of_rank_one_in_each_slice():
    matrix = torch.randn(12, 8, dtype=torch.float64)
    weight = Monarch(blocks=2).build(12, 8).double().from_dense_(matrix)
    slices = matrix.view(6, 2, 2, 4).permute(1, 2, 0, 3)
    left = torch.linalg.svdvals(slices)[..., 1:].square().sum()
    assert_close((weight.dense() - matrix).square().sum(), left)


@pytest.mark.parametrize("size", [(4 * 256, 256, 4), (36, 7, 3), (30, 64, 1)])
def test_a_tensor_train_of_full_rank_is_any_matrix(size):
    matrix = torch.randn(size[0], size[1], dtype=torch.float64) if size[0] < 1000 else None
    weight = TensorTrain(rank=10**6 if matrix is not None else 3).build(*size).double()
    x = torch.randn(2, size[1], dtype=torch.float64)
    if matrix is not None:
        assert_close(weight.from_dense_(matrix).dense(), matrix)
    assert_close(weight(x), x @ weight.dense().T)
    assert_close(product(weight.terms()), weight.dense())


@pytest.mark.parametrize("spec", [Monarch(blocks=8), BlockDiagonal(blocks=8), Hashed(compression=8)], ids=str)
def test_every_output_has_the_variance_of_a_dense_layer(spec):
    torch.manual_seed(0)
    weight, x = spec.build(256, 128), torch.randn(400, 128)
    assert 0.8 < weight(x).var() / Dense().build(256, 128)(x).var() < 1.25


@pytest.mark.parametrize("positions, kernel", [((12,), 3), ((3, 4), (3, 5)), ((2, 3, 2), 3)])
def test_a_convolution_is_that_of_torch(positions, kernel):
    weight = Convolution(positions, kernel).build(3 * 4 * 12, 2 * 12, gates=3)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(positions) - 1](2, 12, weight.spec.sizes, padding="same", bias=False)
    conv.load_state_dict({"weight": weight.kernel})
    x = torch.randn(5, 2, *positions)
    assert_close(weight(x.flatten(1)), conv(x).flatten(1))


def test_whole_channels_are_cut_out_of_a_convolution():
    weight = Convolution((2, 3)).build(2 * 4 * 6, 3 * 6, gates=2)
    kernel, channels = weight.kernel.detach().clone(), torch.tensor([0, 2])
    units = (channels[:, None] * 6 + torch.arange(6)).flatten()
    small = select(weight, out=torch.cat([units, 24 + units]), inp=units)
    assert small is weight and (small.gates, small.rows) == (2, 12)
    assert_close(small.kernel, kernel[torch.tensor([0, 2, 4, 6])][:, channels])


def test_a_hash_is_the_same_everywhere():
    """What a file stores is read by the same rule on every machine."""
    weight = Hashed(buckets=5).build(3, 4)
    with torch.no_grad():
        weight.buckets.copy_(torch.tensor([[1.0, 2, 3, 4, 5]]))
    assert weight.dense().int().tolist() == [[1, -4, 5, -4], [-2, -3, 2, 1], [-4, -2, 5, 1]]


def test_the_fit_of_a_sum_is_the_better_of_both_orders():
    """Sparse entries that are large hide a low rank from its decomposition."""
    torch.manual_seed(1)
    matrix = torch.randn(20, 2) @ torch.randn(2, 16)
    matrix[torch.arange(20), torch.randint(16, (20,))] += 20.0
    weight = Doped(LowRank(rank=2), keep=1 / 16).build(20, 16).from_dense_(matrix)
    assert_close(weight.dense(), matrix, atol=1e-3, rtol=1e-3)


def test_a_sum_is_cut_where_every_part_can_be():
    torch.manual_seed(0)
    weight = Doped(LowRank(rank=2), keep=0.2).build(16, 12)
    small = select(weight, out=torch.arange(8), inp=torch.arange(6))
    assert small is weight and isinstance(small.parts[0].spec, LowRank)
    both = (LowRank(rank=2) + BlockDiagonal(blocks=2)).build(16, 12)
    before = both.dense().detach().clone()
    assert isinstance(select(both, out=torch.arange(8)), DenseWeight)
    assert_close(both.dense(), before, rtol=0, atol=0)
    assert both.parts[0].out_features == 16
