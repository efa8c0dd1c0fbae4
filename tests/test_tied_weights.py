"""Matrices of products in which rows are looked up, too: stored once, read by both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import compactrnn as cr
from compactrnn import Engine, ModelFileError
from compactrnn.lower import lower
from compactrnn.runtime import _native
from compactrnn.runtime import layout as lay
from compactrnn.runtime.accuracy import Accuracy, Remedy
from compactrnn.runtime.error_feedback import input_moments
from compactrnn.runtime.file import read, write
from compactrnn.runtime.inventory import inventory, parameter_count
from compactrnn.runtime.measure import Measure, run
from compactrnn.runtime.program import Buffer, Code, Input, Op, Output, Program, Ref, Segment, Tensor
from compactrnn.runtime.quantize import quantize, quantize_measured
from compactrnn.runtime.rounding import quantize_groups, quantize_rows
from compactrnn.runtime.sparse import SPARSE
from compactrnn.runtime.storage import store, with_table
from test_runtime_file import changed

KINDS = ("float32", "int8", "int4")
QUANTIZED = {"float32": lambda v, block: Tensor(v, block=block), "int8": quantize_rows, "int4": quantize_groups}


def lookup(tensor: Tensor, product: bool = True) -> Program:
    """A token's row of a matrix, and the product of the row with the matrix."""
    rows, columns = tensor.values.shape
    ops = [Op(Code.EMBED, Ref(1), columns, a=Ref(0), tensor=0)]
    ops += [Op(Code.AFFINE, Ref(2), rows, columns, a=Ref(1), tensor=0)] if product else []
    outputs = [Output("row", Ref(1), (columns,))] + ([Output("y", Ref(2), (rows,))] if product else [])
    buffers = [Buffer(1, "input"), Buffer(columns)] + ([Buffer(rows)] if product else [])
    return Program(buffers, [tensor], [Segment("forward", tuple(ops))], [Input("x", 0, (), rows)], outputs)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS), st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 2, 3, 4]), st.integers(0, 99)
)
def test_a_row_has_the_numbers_of_the_product(kind, rows, columns, block, seed):
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    tensor = QUANTIZED[kind](values, block)
    data = write(lookup(tensor))
    assert len(read(data).tensors) == 1 and write(read(data)) == data
    for isa in _native.isas():
        row, y = Engine(data, isa=isa).run(np.arange(rows))
        assert np.array_equal(row, tensor.dense().astype(np.float32))
        assert np.array_equal(y, Engine(write(with_table(lookup(tensor), 0)), isa=isa).run(np.arange(rows))[1])


def test_an_int4_table_needs_no_product():
    tensor = quantize_groups(np.random.default_rng(0).normal(size=(37, 70)))
    data = write(lookup(tensor, product=False))
    assert lay.Type(int(np.frombuffer(data, lay.TENSOR, 1, 64 + 64)[0]["type"])) == lay.Type.MATRIX_I4
    assert np.array_equal(Engine(data).run(np.arange(37)), tensor.dense().astype(np.float32))
    assert write(read(data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_files_whose_lookup_does_not_fit_are_refused(kind):
    data = write(lookup(QUANTIZED[kind](np.ones((20, 9), np.float32), 4)))
    for field, value in (("n", 8), ("n", 10), ("k", 9), ("p0", 1.0)):
        with pytest.raises(ModelFileError):
            Engine(changed(data, "ops", 0, field, value))
    sparse = lookup(replace(QUANTIZED[kind](np.ones((20, 9), np.float32), 4), form=SPARSE))
    with pytest.raises(ValueError, match="tensor of EMBED: expected a table" if kind != "int4" else "int4"):
        write(sparse)


class Tied(nn.Module):
    """A language model whose output layer is the embedding."""

    def __init__(self, vocabulary=150, width=70, scale=1.0):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(vocabulary, width), nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embedding.weight
        with torch.no_grad():
            self.embedding.weight *= scale

    def forward(self, x):
        return self.head(self.rnn(self.embedding(x))[0])


def tokens(rows=1, steps=30, vocabulary=150):
    return torch.randint(0, vocabulary, (rows, steps))


@pytest.mark.filterwarnings("ignore:quantization changes")
@pytest.mark.parametrize("weights", [*KINDS, "auto"])
def test_a_tied_model_is_stored_once(weights, tmp_path):
    torch.manual_seed(0)
    model, x = Tied(), tokens()
    report = cr.pack(model, tmp_path / "model.crnn", x, weights=weights, calibration=[tokens(4)])
    program = read((tmp_path / "model.crnn").read_bytes())
    (number,) = {op.tensor for op in program.ops if op.name in ("embedding", "head")}
    assert parameter_count(program) == sum(p.numel() for p in model.parameters() if p.dim() > 1) + 4 * 10 * 70
    rows = {row["name"]: row for row in inventory(program)}
    assert rows["embedding"]["bytes"] == rows["head"]["bytes"] and rows["embedding"]["MACs"] == 0
    stored = sum(row["bytes"] for name, row in rows.items() if name != "head")
    assert stored < report.bytes < stored + 6000
    kind = "int8" if weights == "auto" else weights
    assert report.types["embedding"] == report.types["head"] == kind
    assert report.error < {"float32": 1e-6, "int8": 0.02, "int4": 0.2}[kind]
    apart = with_table(program, number)
    assert np.array_equal(run(apart, [x[0].numpy()])[0][0], Engine(tmp_path / "model.crnn").run(x[0].numpy()))


def test_folding_counts_the_matrix_once():
    """A table of products takes the place of a small embedding, not of one that stays for the product."""
    for vocabulary, folded in ((20, True), (400, False)):
        torch.manual_seed(0)
        program = lower(Tied(vocabulary, 64), tokens(vocabulary=vocabulary))
        both = [len(write(quantize(program, "int8", fold))) for fold in ("auto", not folded)]
        assert any("+" in op.name for op in quantize(program, "int8").ops) == folded
        assert both[0] < both[1]


def test_a_folded_table_is_not_worth_more_of_the_file_than_it_saves_of_a_step():
    """A low-rank factor that reads an embedding is a hundredth of what a step reads, the table a tenth of the file."""

    class LowRank(Tied):
        def __init__(self):
            super().__init__(1000, 64)
            self.rnn = cr.LSTM(64, 64, batch_first=True, input_weight=cr.LowRank(rank=8))

    torch.manual_seed(0)
    program = lower(LowRank(), tokens(vocabulary=1000))
    assert not any("+" in op.name for op in quantize(program, "int8").ops)
    assert len(write(quantize(program, "int8"))) < len(write(quantize(program, "int8", True)))


def measure(program, sequences):
    return Measure(sequences, run(store(program), sequences))


def test_a_lookup_that_must_be_accurate_gets_a_table_of_its_own():
    """Columns of very different sizes: the row scales of int8 lose the small ones, which count in the lookup alone."""

    class Uneven(Tied):
        def forward(self, x):
            y = self.rnn(self.embedding(x) / self.sizes)[0]
            return self.head(y * (self.sizes == 1e3))

    torch.manual_seed(0)
    model = Uneven(30, 16)
    model.sizes = torch.logspace(-3, 3, 16)
    with torch.no_grad():
        model.embedding.weight *= model.sizes
    program = lower(model, tokens(vocabulary=30))
    data = [row.numpy() for row in tokens(3, 40, 30)]
    found = quantize_measured(program, "int8", False, calibration=data)
    assert found.error < 0.1 * measure(program, data).difference(quantize(program, "int8", False)).error
    assert "looked up in a table of its own in float16" in found.reasons["head"]
    kinds = {op.name: found.program.tensors[op.tensor].values.dtype.name for op in found.program.ops if op.name}
    assert (kinds["embedding"], kinds["head"]) == ("float16", "int8")


def test_remedies_of_a_tied_matrix_scale_no_row_that_is_looked_up():
    torch.manual_seed(0)
    program = lower(Tied(30, 16, scale=3.0), tokens(vocabulary=30))
    data = [row.numpy() for row in tokens(3, 40, 30)]
    (number,) = {op.tensor for op in program.ops if op.name in ("embedding", "head")}
    for kind in ("int8", "int4"):
        accuracy = Accuracy(program, {number: kind}, set(), measure(program, data))
        remedies = accuracy._remedies(number, Remedy(kind))
        assert {remedy.type for remedy in remedies} == ({"int8"} if kind == "int8" else {"int8", "int4"})
        assert all(remedy.table for remedy in remedies if remedy.scaled) and any(remedy.scaled for remedy in remedies)
        plain = accuracy._cost(number, Remedy(kind))
        assert all(accuracy._cost(number, remedy) < 2 * plain for remedy in remedies)


def test_error_feedback_weighs_the_lookup():
    torch.manual_seed(0)
    program = lower(Tied(30, 16), tokens(vocabulary=30))
    data = [row.numpy() for row in tokens(8, 40, 30)]
    (number,) = {op.tensor for op in program.ops if op.name in ("embedding", "head")}
    both, product = input_moments(program, [number], data)[number], with_table(program, number)
    alone = input_moments(product, [number], data)[number]
    assert np.isclose(np.trace(both), np.trace(alone))
    assert np.linalg.cond(both) < 40 < np.linalg.cond(alone)
    assert not input_moments(product, [len(program.tensors)], data)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore:no calibration data")
def test_what_quantize_reports_is_what_is_stored(kind, tmp_path):
    """Also that a model trained for it is stored once, and the engine repeats it to the bit."""
    torch.manual_seed(0)
    model, x = Tied(width=80).eval(), tokens()
    quantizer = cr.Quantize(model, kind)
    report = cr.pack(model, tmp_path / "model.crnn", x)
    assert report.error == 0.0 and report.types["embedding"] == report.types["head"] == kind
    stored = sum(matrix.bytes[1] for matrix in quantizer.report().matrices)
    assert stored < report.bytes < 1.1 * stored + 6000
    with torch.no_grad():
        assert np.array_equal(model(x)[0].numpy(), Engine(tmp_path / "model.crnn").run(x[0].numpy()))
