"""In which form `pack` stores weights with free entries: never a larger one than the dense matrix."""

import warnings
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import compactrnn as cr
from compactrnn.emit.builder import Builder
from compactrnn.emit.ports import add_input, add_output
from compactrnn.emit.products import linear
from compactrnn.lower import lower
from compactrnn.lower.factors import factors
from compactrnn.lower.smallest import with_dense
from compactrnn.runtime.cost import Cost, in_lines, single_entries, stored_lines
from compactrnn.runtime.file import write
from compactrnn.runtime.inventory import inventory
from compactrnn.runtime.quantize import quantize
from compactrnn.weights import Sum
from compactrnn.weights.dense import DenseWeight

KINDS = ("float32", "int8", "int4")
N = 32


class Layers(nn.Module):
    """Layers side by side."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return torch.cat([layer(x)[0] for layer in self.layers], 2)


def layer(spec, kind=cr.LSTM):
    return kind(N, N, input_weight=spec, hidden_weight=spec, batch_first=True)


def layer_bytes(program):
    """Of the weights of each layer."""
    found = {}
    for row in inventory(program):
        number = row["name"].split(".")[1]
        found[number] = found.get(number, 0) + row["bytes"]
    return found


def packed(model, tmp_path, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = cr.pack(model, tmp_path / "model.crnn", x, **options)
    return report, cr.Engine(tmp_path / "model.crnn").run(x[0].numpy())


def specs(keep):
    return (
        cr.Sparse(keep=keep),
        cr.BlockSparse(block=(16, 4), keep=keep),
        cr.BlockSparse(block=(5, 3), keep=keep, balanced=False),
        cr.BlockSparse(block=(16, 1), keep=keep),
        cr.Doped(cr.LowRank(rank=3), keep=keep),
        cr.Doped(cr.Kronecker(4, 4), keep=keep),
        cr.Doped(cr.Circulant(), keep=keep),
    )


def product(weight):
    """The program of one product with a weight."""
    build = Builder()
    x = add_input(build, "x", (9, weight.in_features), 0, None)
    add_output(build, "y", linear(build, x, factors(weight), name="weight"), 0, None)
    return build.finish()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 6),
    st.sampled_from([16, 36, 64, 100]),
    st.sampled_from([1, 3, 4]),
    st.floats(0.01, 1),
    st.sampled_from(KINDS),
)
@example(0, 100, 4, 0.25, "int8")
def test_no_matrix_is_larger_than_the_dense_one(number, units, gates, keep, kind):
    columns = units if number == 6 else 48
    weight = specs(keep)[number].build(gates * units, columns, gates)
    holder = nn.ModuleDict({"weight": weight})
    chosen = with_dense(holder, kind)[0]["weight"]
    ours, dense = (quantize(product(w), kind) for w in (chosen, DenseWeight.of(weight.dense().detach(), gates)))
    assert len(write(ours)) <= len(write(dense)) + 64 * (len(ours.ops) + 2)
    assert (ours.tensors[0].form is None and len(ours.tensors) == 1) == (chosen is not weight)


def test_layers_with_dense_matrices_are_those_of_torch(tmp_path):
    """The same bits, and the same file, as of the layer with the matrices that the weights make."""
    torch.manual_seed(0)
    x = torch.randn(1, 7, N)
    kinds = cycle((cr.LSTM, cr.GRU))
    model = Layers(layer(spec, kind) for spec, kind in zip(specs(0.25)[::2], kinds, strict=False))
    chosen, names = with_dense(model, "int8")
    assert len(names) == 6  # but those of blocks of 16 x 1
    ours, dense = (quantize(lower(m, x), "int8") for m in (chosen, Layers(rnn.to_torch() for rnn in model.layers)))
    y, wanted = (cr.Engine(write(program)).run(x[0].numpy()) for program in (ours, dense))
    most = layer_bytes(dense)
    assert all(size <= most[number] for number, size in layer_bytes(ours).items())
    for number in range(len(model.layers)):
        if f"layers.{number}.weight_hh_l0" in names:
            part = slice(number * N, number * N + N)
            assert np.array_equal(y[:, part], wanted[:, part])
    np.testing.assert_allclose(y, wanted, atol=0.05)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.sampled_from(KINDS))
@example(256, 256, 0.25, "int8")
def test_what_is_better_is_smaller_and_not_much_slower_for_little(rows, columns, share, kind):
    count = round(share * rows * columns)
    single, dense = single_entries(count, rows, columns, "int8"), in_lines(rows, columns, kind)
    lines = stored_lines(-(-count // 64), rows, "int8")
    for one, other in ((single, dense), (lines, dense), (single, lines), (lines, single)):
        if one.is_better_than(other):
            assert one.bytes < other.bytes and not other.is_better_than(one)
            assert one.loads <= other.loads or 2 * one.bytes <= other.bytes
    assert not dense.is_better_than(dense)
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


@pytest.mark.parametrize(("kind", "most"), [("float32", 1 / 3), ("int8", 1 / 6), ("int4", 1 / 12)])
def test_single_entries_are_stored_up_to_half_of_the_dense_bytes(kind, most):
    few, many = (Layers([cr.LSTM(256, 256, input_weight=cr.Sparse(keep=keep))]) for keep in (most - 0.02, most + 0.01))
    assert with_dense(few, kind) == (few, ())
    assert with_dense(many, kind)[1] == ("layers.0.weight_ih_l0",)


class Mixed(nn.Module):
    """A cell, a linear layer, one that shares its weight, and a weight of no layer."""

    def __init__(self, spec):
        super().__init__()
        self.rnn = cr.Recurrent(cr.cells.MGU, 32, 32, input_weight=spec, hidden_weight=spec, batch_first=True)
        self.first, self.second = (cr.Linear(32, 32, weight=spec) for _ in range(2))
        self.second.weight = self.first.weight
        self.own = spec.build(8, 32)

    def forward(self, x):
        return self.own(self.second(self.first(self.rnn(x)[0])))


def test_each_weight_is_chosen_by_its_own_type(tmp_path):
    torch.manual_seed(0)
    model, x = Mixed(cr.Sparse(keep=0.25)), torch.randn(1, 6, 32)
    before = {name: id(module) for name, module in model.named_modules()}
    report, y = packed(model, tmp_path, x, weights={"first": "float32", "rnn": "float32", "*": "int8"})
    single = {name for name, kind in report.types.items() if kind.startswith("unstructured float32")}
    assert single == {"first", "rnn.cells.0.0.input", "rnn.cells.0.0.forget", "rnn.cells.0.0.candidate"}
    assert report.made_dense == ("own", "second") and report.types["own.factor0"] == "int8"
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert np.abs(y - model(x)[0].detach().numpy()).max() < 0.05
    whole, names = with_dense(model, "int8")
    assert len(names) == 6 and whole.first.weight is whole.second.weight
    assert with_dense(model, "float32") == (model, ())


def test_a_sum_of_which_a_part_is_named_stays(tmp_path):
    model, part = Layers([layer(Sum((cr.LowRank(rank=2), cr.Sparse(keep=0.2))))]), "layers.0.weight_hh_l0.part1"
    report, _ = packed(model, tmp_path, torch.randn(1, 5, N), weights={part: "float32"})
    assert report.made_dense == ("layers.0.weight_ih_l0",) and report.types[part] == "unstructured float32"
