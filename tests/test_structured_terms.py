"""Products composed of sums, diagonal matrices and selections: in files, by name, and from arrays alone."""

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn import emit
from compactrnn.cells import LSTM
from compactrnn.emit import structured
from compactrnn.lower import lower
from compactrnn.runtime.file import read, write
from compactrnn.runtime.inventory import inventory, parameter_count
from compactrnn.runtime.quantize import quantize
from compactrnn.weights import Matrix
from compactrnn.weights.terms import Diagonal, Selection, Sum, product
from composed import Composed
from outputs_alone import OutputsAlone


class Tokens(nn.Module):
    def __init__(self, cell, size=16):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.rnn = cr.Recurrent(cell, 6, size, input_weight=Composed(), hidden_weight=Composed(), batch_first=True)

    def forward(self, x):
        return self.rnn(self.embedding(x))[0]


@pytest.mark.parametrize("cell", [cr.MGU, LSTM])
@pytest.mark.parametrize("fold", [True, False])
def test_files_of_whole_numbers_are_close(cell, fold):
    """The matrices in them are int8, the diagonals stay float32."""
    torch.manual_seed(0)
    model = Tokens(cell)
    tokens = torch.randint(9, (1, 12))
    program = lower(model, tokens)
    exact = model(tokens)[0].detach().numpy()
    for weights, most in (("float32", 1e-5), ("int8", 0.03)):
        stored = quantize(program, weights, fold=fold)
        y = cr.Engine(write(stored)).run(tokens[0].numpy())
        assert np.abs(y - exact).max() < most
    assert {t.values.dtype.name for t in stored.tensors} == {"int8", "int32"}


def test_parts_are_named_and_counted():
    gru = cr.GRU(6, 8, input_weight=Composed(), batch_first=True)
    model, weight = OutputsAlone(gru), gru.weight_ih_l0
    program = read(write(lower(model, torch.randn(1, 9, 6))))
    rows = [row for row in inventory(program) if "weight_ih" in row["name"]]
    assert {row["name"].removeprefix("rnn.weight_ih_l0.factor"): row["parameters"] for row in rows} == {
        "2": 6,  # the columns' diagonal
        "1.part0.factor1": 12,
        "1.part0.factor0": 48,
        "1.part1.factor0": 24,
        "1.part2.part0": 144,
        "1.part2.part1.factor1": 6,
        "1.part2.part1.factor0": 24,
    }
    assert parameter_count(program) == weight.stored_parameters() + gru.weight_hh_l0.numel()


rng = np.random.default_rng(0)
A, B, C, D = (rng.normal(size=size).astype(np.float32) for size in ((5, 3), (3, 4), (5, 4), 4))
INDEX = np.array([3, -1, 0, 0, 2])
S = (INDEX[:, None] == np.arange(4)).astype(np.float32)
COMPOSED = {
    "a diagonal": ([structured.Diagonal(D)], np.diag(D)),
    "a selection": ([structured.Selection(INDEX, 4)], S),
    "a chain": ([A, B, structured.Diagonal(D)], A @ B * D),
    "a diagonal first": ([structured.Diagonal(A[:, 0]), C], A[:, :1] * C),
    "a sum": ([structured.Sum([[A, B], [C]])], A @ B + C),
    "a sum within a sum": (
        [structured.Sum([[structured.Sum([[C], [structured.Selection(INDEX, 4)]])], [A, B]])],
        C + S + A @ B,
    ),
    "a chain around a sum": ([A, structured.Sum([[B], [B, structured.Diagonal(D)]])], A @ (B + B * D)),
}


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("which", COMPOSED)
def test_arrays_alone(which, biased):
    factors, matrix = COMPOSED[which]
    bias = np.linspace(-1, 1, len(matrix), dtype=np.float32) if biased else None

    def build(steps):
        b = emit.Builder()
        x = emit.add_input(b, "x", (steps, 4), time=0)
        emit.add_output(b, "y", emit.linear(b, x, factors, bias, "fc"))
        return b

    xs = rng.normal(size=(7, 4)).astype(np.float32)
    y = cr.Engine(write(emit.for_any_length(build, "example").finish())).run(xs)
    np.testing.assert_allclose(y, xs @ matrix.T + (0 if bias is None else bias), atol=1e-5)


def test_a_diagonal_that_two_layers_share_is_stored_once():
    layer = cr.Recurrent(cr.MGU, 8, [8, 8], hidden_weight=Composed(), batch_first=True)
    first, second = (row[0] for row in layer.cells)
    second.forget = first.forget
    weights = [first.input, second.input, first.forget, first.candidate, second.candidate]
    count = parameter_count(lower(OutputsAlone(layer), torch.randn(1, 9, 8)))
    assert count == sum(weight.stored_parameters() for weight in weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_products_have_the_dtype_of_their_numbers(dtype):
    select, diagonal = Selection(torch.tensor([1, 0]), 2), Diagonal(torch.ones(2, dtype=dtype))
    both = Sum(((select, diagonal), (Matrix(torch.eye(2, dtype=dtype)),)))
    assert product((both, select)).dtype == product((select, both)).dtype == dtype
