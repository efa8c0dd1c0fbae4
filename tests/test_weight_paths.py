"""Every layer and loop calls a weight's own product, and the engine multiplies by its terms."""

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells import GILR, GRU, LSTM, MGU
from compactrnn.layers.dense_form import is_dense_product
from compactrnn.lower import lower
from compactrnn.runtime.file import write
from compactrnn.runtime.inventory import parameter_count
from compactrnn.runtime.program import Code
from compactrnn.runtime.quantize import quantize
from compactrnn.weights import (
    AbstractWeight,
    BlockCirculant,
    BlockDiagonal,
    BlockSparse,
    Circulant,
    Dense,
    Doped,
    Hashed,
    Kronecker,
    LowRank,
    Monarch,
    Sparse,
    Sum,
    TensorTrain,
    Term,
    ToeplitzLike,
    WeightSpec,
)
from compactrnn.weights.masked import MaskedWeight
from composed import Composed
from outputs_alone import OutputsAlone


@dataclass(frozen=True)
class Masked(WeightSpec):
    def build(self, out_features, in_features, gates=1):
        weight = MaskedWeight(Kronecker(out_block=2, in_block=2).build(out_features, in_features, gates))
        return weight.scale_(out=torch.linspace(0.5, 1.5, out_features))


class Permuted(Term):
    """A term that no consumer knows: W with its columns reversed."""

    def __init__(self, matrix):
        self.matrix = matrix

    def dense(self):
        return self.matrix.flip(1)

    @property
    def shape(self):
        return tuple(self.matrix.shape)


@dataclass(frozen=True)
class Foreign(WeightSpec):
    """A weight of one's own, with a term that the core has no form for, or a term of gates that are not the cell's."""

    whole: bool = False

    def build(self, out_features, in_features, gates=1):
        return ForeignWeight(self, out_features, in_features, gates)


class ForeignWeight(AbstractWeight):
    def __init__(self, spec, out_features, in_features, gates=1):
        super().__init__(spec, out_features, in_features, gates)
        self.inner = ToeplitzLike(rank=2).build(out_features, in_features)

    def reset_parameters(self, bound=None):
        pass

    def forward(self, x):
        return self.inner(x) if self.spec.whole else self.inner(x.flip(-1))

    def dense(self):
        return self.inner.dense() if self.spec.whole else self.inner.dense().flip(1)

    def terms(self):
        return self.inner.terms() if self.spec.whole else (Permuted(self.inner.dense()),)


SPARSE = BlockSparse(keep=0.5)
SPECS = [
    Dense(),
    LowRank(rank=2),
    Kronecker(2, 2),
    Kronecker(rank=2),
    ToeplitzLike(rank=2),
    SPARSE,
    Masked(),
    Foreign(),
    Foreign(whole=True),
    Composed(),
    BlockCirculant(block=2),
    BlockDiagonal(blocks=2),
    Circulant(),
    Hashed(compression=3),
    Monarch(blocks=2),
    TensorTrain(rank=2),
    Sparse(keep=0.3),
    LowRank(rank=2) + BlockDiagonal(blocks=2),
    Doped(Monarch(blocks=2), keep=0.05),
]


STRUCTURED_TERMS = Composed | Kronecker | BlockDiagonal | Monarch | TensorTrain | Sum | Doped
STORED_AS_COUNTED = (
    STRUCTURED_TERMS | BlockCirculant | BlockSparse | Circulant | Dense | Hashed | LowRank | ToeplitzLike
)


def recurrent(cell, spec, size=6):
    return cr.Recurrent(cell, 6, size, input_weight=spec, hidden_weight=spec, batch_first=True)


def fused(kind, spec, size=6):
    return kind(6, size, input_weight=spec, hidden_weight=spec, batch_first=True)


def loop(kind):
    def run(layer, x, folder):
        with cr.time_loop(kind):
            return layer(x)[0]

    return run


def pack(layer, x, folder):
    cr.pack(OutputsAlone(layer), folder / "model.crnn", x, weights="float32")
    return torch.from_numpy(cr.Engine(folder / "model.crnn").run(x[0].numpy()))[None]


PATHS = {
    "plain": (lambda spec: recurrent(MGU, spec), loop("plain")),
    "native": (lambda spec: recurrent(MGU, spec), loop("native")),
    "the fastest": (lambda spec: recurrent(MGU, spec), loop("auto")),
    "scan": (lambda spec: cr.Recurrent(GILR, 6, 6, input_weight=spec, batch_first=True), loop("scan")),
    "LSTM": (lambda spec: fused(cr.LSTM, spec), loop("auto")),
    "LSTM, plain": (lambda spec: fused(cr.LSTM, spec), loop("plain")),
    "GRU": (lambda spec: fused(cr.GRU, spec), loop("auto")),
    "RNN": (lambda spec: fused(cr.RNN, spec), loop("auto")),
    "pack a cell": (lambda spec: recurrent(MGU, spec), pack),
    "pack an LSTM": (lambda spec: fused(cr.LSTM, spec), pack),
}
STRUCTURED = [spec for spec in SPECS if spec != Dense()]
# torch's operators read the parameters of a dense layer: there is no weight to be called
BOTH = [(spec, path) for spec in SPECS for path in PATHS if spec in STRUCTURED or path not in ("LSTM", "GRU", "RNN")]


class Called(Exception):
    pass


@pytest.mark.filterwarnings("ignore:.*plain loop over time:UserWarning")
@pytest.mark.parametrize("spec, path", BOTH, ids=str)
def test_a_product_that_raises_is_noticed(spec, path, monkeypatch, tmp_path):
    make, run = PATHS[path]
    layer, x = make(spec), torch.randn(1, 5, 6)
    kind = type(spec.build(6, 6))

    def forward(self, x):
        raise Called("forward was called")

    monkeypatch.setattr(kind, "forward", forward)
    with pytest.raises((Called, ValueError), match="forward was called"):
        run(layer, x, tmp_path)


@pytest.mark.filterwarnings("ignore:.*(plain loop over time|runs step by step):UserWarning")
@pytest.mark.parametrize("path", [path for path in PATHS if path not in ("native", "scan")])
def test_a_product_that_is_not_that_of_dense_counts_or_is_refused(path, monkeypatch, tmp_path):
    torch.manual_seed(0)
    make, run = PATHS[path]
    layer, x = make(Kronecker(2, 2)), torch.randn(1, 5, 6)
    kind = type(Kronecker(2, 2).build(6, 6))
    monkeypatch.setattr(kind, "dense", lambda self, dense=kind.dense: 2 * dense(self))
    monkeypatch.setattr(kind, "terms", AbstractWeight.terms)
    if path.startswith("pack"):
        with pytest.raises(cr.UnsupportedModelError, match="torch"):
            run(layer, x, tmp_path)
    else:
        assert_close(run(layer, x, tmp_path), loop("plain")(layer, x, tmp_path))


@pytest.mark.filterwarnings("ignore:.*plain loop over time:UserWarning")
@pytest.mark.parametrize("make", [cr.LSTM, cr.GRU, cr.RNN])
def test_it_warns_where_it_must_run_step_by_step(make, monkeypatch):
    layer = fused(make, Kronecker(2, 2))
    kind = type(layer.weight_hh_l0)
    monkeypatch.setattr(kind, "forward", lambda self, x: x.new_zeros(*x.shape[:-1], self.out_features))
    with pytest.warns(UserWarning, match=r"weight_ih_l0 \(KroneckerWeight\): forward gives other numbers"):
        layer(torch.randn(1, 5, 6))


def test_a_product_is_compared_once_for_a_size(monkeypatch):
    weight, calls = Kronecker(2, 2).build(8, 4), []
    kind = type(weight)
    monkeypatch.setattr(kind, "dense", lambda self, dense=kind.dense: calls.append(1) or dense(self))
    assert is_dense_product(weight) and is_dense_product(weight) and len(calls) == 1
    weight.double()
    assert is_dense_product(weight) and len(calls) == 2


# whose own product is one with matrices, which the loop has
PLAIN = Dense | LowRank | BlockSparse | Hashed | Sparse | TensorTrain
NATIVE = {str(spec): () if isinstance(spec, PLAIN) else ("forget", "candidate") for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_native_loop_trains_any_weight_and_says_which_are_dense(spec):
    torch.manual_seed(0)
    layer, x = cr.Recurrent(MGU, 6, 16, input_weight=Dense(), hidden_weight=spec), torch.randn(7, 3, 6)
    assert cr.loop_report(layer)[0].dense == NATIVE[str(spec)]
    found = []
    for kind in ("native", "plain"):
        with cr.time_loop(kind):
            y = layer(x)[0]
        found.append([y, *torch.autograd.grad(y.sin().sum(), list(layer.parameters()))])
    assert_close(*found, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("spec", STRUCTURED, ids=str)
def test_a_sequence_makes_the_matrix_dense_once(spec, monkeypatch):
    """Not at every step, in the forward or backward pass."""
    kind = type(spec.build(8, 8))
    for layer in (fused(cr.LSTM, spec, 8), recurrent(MGU, spec, 8)):
        x = torch.randn(1, 40, 6)
        layer(x)
        calls = []
        with monkeypatch.context() as patch:
            patch.setattr(kind, "dense", lambda self, made=kind.dense, calls=calls: calls.append(1) or made(self))
            layer(x)[0].sum().backward()
        assert len(calls) <= 4  # of input and hidden weights, of MGU's two hidden ones


@pytest.mark.parametrize("cell", [LSTM, GRU, MGU])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_engine_does_what_the_weights_say(spec, cell):
    torch.manual_seed(0)
    layer, x = recurrent(cell, spec, 16), torch.randn(1, 9, 6)
    model = OutputsAlone(layer)
    program = lower(model, x)
    (cell,) = layer.cells[0]
    assert program.macs_per_step() == cell.macs()
    weights = [child for child in cell.children() if isinstance(child, AbstractWeight)]
    stored = parameter_count(program)
    assert stored == sum(term.stored for weight in weights for term in weight.terms())
    if isinstance(spec, STORED_AS_COUNTED) and not isinstance(spec, Doped):  # of so few columns it stores lines
        assert stored == sum(weight.stored_parameters() for weight in weights)
    y = cr.Engine(write(quantize(program, "float32"))).run(x[0].numpy())
    assert np.abs(y - model(x)[0].detach().numpy()).max() < 1e-5
    steps = {op.code for op in program.ops} & {Code.LSTM, Code.GRU, Code.LSTM_CELL, Code.GRU_CELL}
    # rows that the kernels cannot have in their order
    elementwise = (isinstance(spec, Foreign) and spec.whole) or isinstance(spec, STRUCTURED_TERMS | Sparse)
    assert len(steps) == (cell.kernel != "") and all(("CELL" in code.name) == elementwise for code in steps)


def test_a_large_toeplitz_like_matrix_costs_what_the_core_executes():
    """It multiplies by polynomials from some size on, with far fewer operations."""
    for size, fewer in ((64, False), (512, True)):
        layer = cr.LSTM(8, size, batch_first=True, hidden_weight=ToeplitzLike(rank=4))
        program, hidden = lower(OutputsAlone(layer), torch.randn(1, 5, 8)), layer.weight_hh_l0
        assert program.macs_per_step() == 4 * size * 8 + hidden.macs()
        assert (hidden.macs() < 4 * size * size) == (hidden.runtime_parameters() < 4 * size * size) == fewer


def test_the_report_names_what_is_stored_dense(tmp_path):
    names = {}
    for spec in (ToeplitzLike(2), LowRank(2), SPARSE, Kronecker(2, 2), Foreign()):
        layer = cr.LSTM(6, 8, batch_first=True, hidden_weight=spec)
        report = cr.pack(OutputsAlone(layer), tmp_path / "model.crnn", torch.randn(1, 5, 6), weights="float32")
        names[str(spec)] = report.made_dense
    assert names == {
        "ToeplitzLike(rank=2)": (),
        "LowRank(rank=2)": (),
        str(SPARSE): (),
        "Kronecker(out_block=2, in_block=2)": (),
        "Foreign(whole=False)": ("rnn.weight_hh_l0",),
    }


def shared_factor():
    """A projection of the hidden state shared by its own layer and the next one, as in Lu et al., 2016."""
    lstm = cr.LSTM(6, 8, 2, batch_first=True, input_weight=LowRank(rank=3), hidden_weight=LowRank(rank=3))
    lstm.weight_ih_l1.right = lstm.weight_hh_l0.right
    return lstm


def shared_weight(spec):
    def make():
        lstm = cr.LSTM(8, 8, 2, batch_first=True, hidden_weight=spec)
        lstm.weight_hh_l1 = lstm.weight_hh_l0
        return lstm

    return make


@pytest.mark.parametrize("spec", [LowRank(rank=3), ToeplitzLike(rank=2), Kronecker(2, 2)], ids=str)
def test_a_weight_of_two_layers_stays_one(spec):
    torch.manual_seed(0)
    lstm = shared_weight(spec)()
    x = torch.randn(1, 7, 8)
    theirs = lstm.to_torch()
    assert type(theirs) is nn.LSTM and theirs.weight_hh_l0 is theirs.weight_hh_l1
    assert_close(theirs(x), lstm(x))
    twin = copy.deepcopy(cr.convert_(OutputsAlone(lstm)))
    assert twin.rnn.weight_hh_l0 is twin.rnn.weight_hh_l1
    program = lower(OutputsAlone(lstm), x)
    one, two = ({op.tensor for op in program.ops if f"weight_hh_l{layer}" in op.name} for layer in (0, 1))
    factors = 5 if isinstance(spec, Kronecker) else len(lstm.weight_hh_l0.terms())  # A of all gates, B of each
    assert one == two and len(one) == factors


def test_a_factor_of_two_weights_stays_one():
    torch.manual_seed(0)
    lstm = shared_factor()
    x = torch.randn(1, 7, 6)
    twin = copy.deepcopy(cr.convert_(OutputsAlone(lstm)))
    assert twin.rnn.weight_ih_l1.right is twin.rnn.weight_hh_l0.right
    program = lower(OutputsAlone(lstm), x)
    products = [op for op in program.ops if op.name.endswith((".weight_ih_l1.factor1", ".weight_hh_l0.factor1"))]
    assert len(products) == 2 and len({op.tensor for op in products}) == 1
    lstm(x)[0].sum().backward()
    assert lstm.weight_hh_l0.right.grad is lstm.weight_ih_l1.right.grad is not None


def test_a_weight_that_a_cell_uses_twice_gets_both_gradients():
    torch.manual_seed(0)
    for spec in (LowRank(rank=3), ToeplitzLike(rank=2)):
        layer, x = cr.Recurrent(MGU, 6, 16, hidden_weight=spec), torch.randn(7, 3, 6)
        (cell,) = layer.cells[0]
        cell.candidate = cell.forget
        found = []
        for kind in ("native", "plain"):
            with cr.time_loop(kind), warnings.catch_warnings():
                found.append(torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters())))
        assert_close(*found, rtol=1e-4, atol=2e-5)
