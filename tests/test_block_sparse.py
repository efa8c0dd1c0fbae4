"""Block-sparse weights, and the term that the core multiplies with."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.inventory import inventory, stored_types
from compactrnn.runtime.program import Code
from compactrnn.runtime.quantize import quantize
from compactrnn.weights import AbstractWeight, BlockSparse, LowRank, SparseTerm, WeightSpec
from compactrnn.weights.sparse_term import block_diagonal_term
from compactrnn.weights.terms import Sum
from outputs_alone import OutputsAlone


def kept(weight):
    """How many blocks of each row of blocks are there."""
    height, width = weight.spec.block
    matrix = torch.zeros(weight.out_features * weight.in_features)
    matrix[weight.index] = 1
    there = matrix.view(weight.gates, weight.rows, weight.in_features)
    there = nn.functional.pad(there, (0, -weight.in_features % width, 0, -weight.rows % height))
    there = there.unflatten(2, (-1, width)).unflatten(1, (-1, height)).amax(dim=(2, 4))
    return there.sum(dim=2)


@pytest.mark.parametrize("block", [(16, 4), (16, 1), (8, 8), (5, 3)])
@pytest.mark.parametrize("size", [(4 * 64, 64, 4), (3 * 37, 29, 3), (7, 5, 1)])
def test_every_row_of_blocks_has_as_many(size, block):
    spec = BlockSparse(block=block, keep=0.3)
    weight = spec.build(*size)
    count = max(1, round(0.3 * -(-size[1] // block[1])))
    assert (kept(weight) == count).all()
    weight.from_dense_(torch.randn(size[0], size[1]))
    assert (kept(weight) == count).all()
    assert torch.equal(weight.index, weight.index.sort().values) and len(weight.index) == weight.stored_parameters()


def test_without_balance_the_largest_blocks_of_the_matrix_are_kept():
    weight, matrix = BlockSparse(block=(1, 1), keep=0.3, balanced=False).build(6, 10), torch.randn(6, 10)
    assert len(weight.index) == 18
    weight.from_dense_(matrix)
    largest = matrix.abs() >= matrix.abs().flatten().topk(18).values[-1]
    assert_close(weight.dense(), matrix * largest, rtol=0, atol=0)
    assert BlockSparse(keep=0.01, balanced=False).build(32, 16).stored_parameters() == 64, "one block at least"
    with pytest.raises(ValueError, match="balanced: expected True or False, got 1"):
        BlockSparse(balanced=1)


def test_the_diagonal_of_a_square_gate_comes_first():
    for keep, first in ((0.5, True), (0.25, False)):  # four blocks on the diagonal, of eight or four
        weight = BlockSparse(keep=keep).build(3 * 64, 64, gates=3)
        matrix = torch.zeros(3 * 64 * 64)
        matrix[weight.index] = 1
        assert bool(matrix.view(3, 64, 64).diagonal(dim1=1, dim2=2).all()) == first
        assert len({tuple(places.tolist()) for places in matrix.view(12, -1)}) == 12  # the rest is random


def test_the_largest_blocks_are_kept():
    matrix = torch.randn(2 * 32, 24)
    weight = BlockSparse(keep=1 / 3).build(2 * 32, 24, gates=2).from_dense_(matrix)
    norms = matrix.view(4, 16, 6, 4).square().sum(dim=(1, 3))
    wanted = norms >= norms.topk(2, dim=1).values[:, -1:]
    assert_close(weight.dense(), matrix * wanted.repeat_interleave(16, 0).repeat_interleave(4, 1), rtol=0, atol=0)


@pytest.mark.parametrize("keep", [0.05, 0.25, 1.0])
def test_the_variance_is_that_of_a_dense_matrix(keep):
    torch.manual_seed(0)
    weight = BlockSparse(keep=keep).build(4 * 256, 256, gates=4)
    ys = weight(torch.randn(100, 256))
    assert ys.var().item() == pytest.approx(1 / 3, rel=0.1)  # as of torch's U(-1 / sqrt(n), 1 / sqrt(n))


def test_a_state_dict_brings_its_blocks():
    """Their number, too, where the last block of a row is smaller."""
    weight, other = (BlockSparse(keep=0.5).build(20, 9) for _ in range(2))
    matrix = torch.zeros(20, 9)
    matrix[:, 8], matrix[:, :4] = 1, 0.1
    weight.from_dense_(matrix)
    other.from_dense_(1 - matrix)
    assert weight.stored_parameters() != other.stored_parameters()
    other.load_state_dict(weight.state_dict())
    assert torch.equal(other.dense(), weight.dense())


def lstm(n, k, spec, kind=cr.LSTM):
    return OutputsAlone(kind(k, n, 2, input_weight=spec, hidden_weight=spec, batch_first=True))


@pytest.mark.parametrize("kind", [cr.LSTM, cr.GRU])
@pytest.mark.parametrize("n, k, block", [(32, 16, (16, 4)), (37, 29, (16, 4)), (37, 29, (8, 3))])
def test_the_file_has_what_is_counted(kind, n, k, block):
    torch.manual_seed(0)
    model, x = lstm(n, k, BlockSparse(block=block, keep=0.3), kind), torch.randn(1, 9, k)
    program, rnn = lower(model, x), model.rnn
    weights = [w for name, w in rnn.named_children() if name.startswith("weight")]
    assert program.macs_per_step() == sum(w.macs() for w in weights)
    assert sum(t.numbers for t in program.tensors) == sum(w.macs() for w in weights)
    if block == (16, 4):
        assert sum(w.macs() for w in weights) == sum(w.stored_parameters() for w in weights)
    else:
        assert sum(w.macs() for w in weights) > sum(w.stored_parameters() for w in weights)
    assert {op.code for op in program.ops} >= {Code.LSTM if kind is cr.LSTM else Code.GRU}
    assert {row["stored as"] for row in inventory(program)} == {"sparse float32"}
    wanted = model(x)[0].detach().numpy()
    got = cr.Engine(write(quantize(program, "float32"))).run(x[0].numpy())
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    whole = quantize(program, "int8")
    assert set(stored_types(whole).values()) == {"sparse int8"}
    if block == (16, 4):
        assert whole.macs_per_step() == program.macs_per_step()
    np.testing.assert_allclose(cr.Engine(write(whole)).run(x[0].numpy()), wanted, atol=0.02)


def test_it_trains_with_the_fused_operator():
    """Whose dense product `forward` makes, too."""
    layer = cr.LSTM(32, 32, hidden_weight=BlockSparse(keep=0.1), input_weight=BlockSparse(keep=0.1))
    assert not layer._has_few_products(0)
    twin = cr.LSTM(32, 32, hidden_weight=cr.LowRank(2), input_weight=cr.LowRank(2))
    assert twin._has_few_products(0)


@pytest.mark.parametrize("rows", [16, 20])
def test_units_taken_away_leave_the_rest(rows):
    weight = BlockSparse(keep=0.4).build(2 * 32, 24, gates=2)
    before = weight.dense().detach().clone()
    out = torch.cat([torch.arange(rows), 32 + torch.arange(rows)])
    assert weight.select_(out=out, inp=torch.arange(5, 24)) is weight
    assert_close(weight.dense(), before[out][:, 5:])
    assert weight.from_dense_(torch.randn(2 * rows, 19)) is weight
    assert (kept(weight) == 2).all()


def test_a_block_diagonal_matrix():
    torch.manual_seed(0)
    blocks = torch.randn(3, 4, 16, 8)
    term = block_diagonal_term(blocks)
    wanted = torch.cat([torch.block_diag(*gate) for gate in blocks])
    assert_close(term.dense(), wanted)
    assert term.shape == (192, 32) and term.macs == term.stored == blocks.numel()
    one = block_diagonal_term(blocks[0])
    assert_close(one.dense(), wanted[:64])
    odd = block_diagonal_term(torch.randn(2, 7, 5))  # a line of 16 x 1 has entries of both blocks
    assert odd.macs == 14 * 10


def test_few_values_cost_themselves_and_more_of_them_their_lines():
    values, index = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5, 15, 16 * 10 + 5])
    term = SparseTerm(values, index, 40, 10)
    wanted = torch.zeros(40, 10)
    wanted[0, 5], wanted[1, 5], wanted[16, 5] = 1, 2, 3
    assert_close(term.dense(), wanted)
    assert term.is_scattered and term.macs == term.stored == 3
    column = SparseTerm(torch.ones(17), 10 * torch.arange(17), 20, 10)
    assert not column.is_scattered and column.macs == 16 + 4  # the second line has but four rows
    assert SparseTerm(values[:0], index[:0], 20, 10).macs == 0


@dataclass(frozen=True)
class Scattered(WeightSpec):
    """A dense matrix of low rank, and a few free entries."""

    def build(self, out_features, in_features, gates=1):
        return ScatteredWeight(self, out_features, in_features, gates)


class ScatteredWeight(AbstractWeight):
    def __init__(self, spec, out_features, in_features, gates=1):
        super().__init__(spec, out_features, in_features, gates)
        self.inner = LowRank(rank=2).build(out_features, in_features, gates)
        index = torch.randperm(out_features * in_features)[: out_features * in_features // 50]
        self.register_buffer("index", index)
        self.values = nn.Parameter(torch.randn(len(index)))

    def forward(self, x):
        return self.inner(x) + nn.functional.linear(x, self.sparse.dense())

    def dense(self):
        return self.inner.dense() + self.sparse.dense()

    @property
    def sparse(self):
        return SparseTerm(self.values, self.index, self.out_features, self.in_features, self.gates)

    def terms(self):
        return (Sum((self.inner.terms(), (self.sparse,))),)


@pytest.mark.parametrize("kind", [cr.LSTM, cr.GRU])
def test_a_sum_with_a_few_entries_is_packed_as_it_is(kind):
    torch.manual_seed(0)
    model, x = lstm(37, 29, Scattered(), kind), torch.randn(1, 9, 29)
    program = lower(model, x)
    weights = [w for name, w in model.rnn.named_children() if name.startswith("weight")]
    assert program.macs_per_step() == sum(w.macs() for w in weights)
    assert sum(t.numbers for t in program.tensors) == sum(w.stored_parameters() for w in weights)
    assert program.macs_per_step() < sum(w.dense().numel() for w in weights) / 4
    wanted = model(x)[0].detach().numpy()
    for weights, bound in (("float32", 1e-5), ("int8", 0.02)):
        stored = quantize(program, weights)
        assert sum(name == f"unstructured {weights}" for name in stored_types(stored).values()) == 4
        np.testing.assert_allclose(cr.Engine(write(stored)).run(x[0].numpy()), wanted, atol=bound)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BlockSparse(keep=0.0), r"keep: .*got 0.0"),
        (lambda: BlockSparse(keep=1.5), r"keep: .*got 1.5"),
        (lambda: BlockSparse(keep=True), r"keep: .*got True"),
        (lambda: BlockSparse(block=(16,)), r"block: expected two numbers.*got \(16,\)"),
        (lambda: BlockSparse(block=(0, 4)), r"block: .*got 0"),
        (lambda: BlockSparse(block=(16, 4.0)), r"block: .*got 4.0"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_recipe_gives_the_block_as_a_list():
    from compactrnn.weights.registry import weight_spec

    assert weight_spec({"kind": "BlockSparse", "block": [16, 4], "keep": 0.1}) == BlockSparse((16, 4), 0.1)
