"""Cells whose output, and what their recurrence reads of it, is a projection."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells import (
    FSMN,
    GILR,
    GRU,
    LSTM,
    MGU,
    AbstractCell,
    DuRNN,
    Elman,
    HiPPO,
    IndRNN,
    MinGRU,
    Projected,
    StateSpec,
    UnitSet,
)
from compactrnn.testing import CellContract
from compactrnn.weights import DENSE


class Projecting:
    """Makes a cell with a projection as `partial` makes one without."""

    def __init__(self, cell, size=3, weight=None, **options):
        self.cell, self.projection = partial(cell, **options), (size, *([] if weight is None else [weight]))
        self.__signature__ = inspect.signature(self.cell)

    def __call__(self, *sizes, **options):
        return Projected(self.cell(*sizes, **options), *self.projection)

    def __repr__(self):
        return f"{self.cell.func.__name__} {self.cell.keywords} {self.projection}"


class OutputGate(AbstractCell):
    """A cell of one's own: its output is not its state, and starts from a value that is learned."""

    states = (StateSpec("c"), StateSpec("h", init="start"))
    units = (UnitSet("h", written_by=("input", "input_bias", "hidden", "start"), read_by=("hidden",), output=True),)

    def __init__(self, input_size, hidden_size, *, input_weight=DENSE, hidden_weight=DENSE):
        super().__init__(input_size, hidden_size)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)
        self.hidden = hidden_weight.build(2 * hidden_size, hidden_size, gates=2)
        self.input_bias = nn.Parameter(torch.empty(2 * hidden_size))
        self.start = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def step(self, projected, states):
        c, h = states
        gate, new = (projected + self.hidden(h)).chunk(2, -1)
        c = 0.5 * c + torch.tanh(new)
        return torch.sigmoid(gate) * c, (c, torch.tanh(c + h))


CELLS = [
    Projecting(LSTM),
    Projecting(LSTM, bias=False),
    Projecting(LSTM, 9),
    Projecting(GRU),
    Projecting(GRU, 4, cr.LowRank(rank=2), bias=False),
    Projecting(Elman),
    Projecting(MGU),
    Projecting(cr.FastGRNN),
    Projecting(HiPPO, order=5),
    Projecting(FSMN, projection_size=5, look_back=2, look_ahead=2),
    Projecting(DuRNN, short_size=5),
    Projecting(DuRNN, parts="long"),
    Projecting(IndRNN),
    Projecting(GILR),
    Projecting(MinGRU),
    Projecting(cr.RHN, depth=2),
    Projecting(OutputGate),
]


@pytest.mark.parametrize("make_cell", [make for make in CELLS if not make.projection[1:]], ids=str)
class TestProjected(CellContract):
    pass


def plain_twin(cell, make):
    """The cell without projection whose U is `Z P`."""
    twin = make.cell(cell.input_size, cell.hidden_size).double()
    with torch.no_grad():
        for name, part in twin.named_children():
            own = getattr(cell, name).dense()
            part.from_dense_(own @ cell.projection.dense() if name in cell.readers else own)
        for name, parameter in twin.named_parameters(recurse=False):
            parameter.copy_(getattr(cell, name))
    return twin


@pytest.mark.parametrize("make", CELLS, ids=str)
def test_it_is_the_cell_whose_matrices_share_the_factor(make):
    torch.manual_seed(0)
    cell = make(4, 6).double()
    twin, x = plain_twin(cell, make), torch.randn(7, 2, 4, dtype=torch.float64)
    ahead, plain_ahead = (each.look_ahead(each.project(x)) for each in (cell, twin))
    states, plain_states = cell.initial_states(2), twin.initial_states(2)
    for row, plain_row in zip(ahead, plain_ahead, strict=True):
        y, states = cell.step(row, states)
        wanted, plain_states = twin.step(plain_row, plain_states)
        assert_close(y, wanted @ cell.projection.dense().T)
    kept = [s for s, spec in zip(plain_states, twin.states, strict=True) if not (cell.drops and spec.name == "h")]
    for state, wanted in zip(states[cell.carried is not None :], kept, strict=True):
        assert_close(state, wanted)


def test_a_gru_with_a_projection():
    torch.manual_seed(0)
    layer = cr.Recurrent(GRU, 4, 6, proj_size=3).double()
    x, h, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 2, 4), (1, 2, 3), (1, 2, 6)))
    output, (h_n, c_n) = layer(x, (h, c))
    (cell,) = layer.cells[0]
    W, U, P = cell.input.weight, cell.hidden.weight, cell.projection.weight
    (Wr, Wz, Wn), (Ur, Uz, Un) = W.chunk(3), U.chunk(3)
    (br, bz, bn), (dr, dz, dn) = cell.input_bias.chunk(3), cell.hidden_bias.chunk(3)
    h, c = h[0], c[0]
    for t in range(5):
        r = torch.sigmoid(x[t] @ Wr.T + br + h @ Ur.T + dr)
        z = torch.sigmoid(x[t] @ Wz.T + bz + h @ Uz.T + dz)
        n = torch.tanh(x[t] @ Wn.T + bn + r * (h @ Un.T + dn))
        c = (1 - z) * n + z * c
        h = c @ P.T
        assert_close(output[t], h)
    assert_close((h_n[0], c_n[0]), (h, c))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstm_is_that_of_torch(bidirectional):
    torch.manual_seed(0)
    options = {"num_layers": 2, "batch_first": True, "bidirectional": bidirectional}
    theirs = nn.LSTM(4, 6, proj_size=3, **options)
    ours = cr.Recurrent(LSTM, 4, 6, proj_size=3, **options)
    for row, cells in zip(cr.layers.cells_of(theirs), ours.cells, strict=True):
        for cell, own in zip(row, cells, strict=True):
            own.load_state_dict(cell.state_dict(), strict=True)
    x = torch.randn(3, 9, 4)
    (y, states), (wanted, their_states) = ours(x), theirs(x)
    assert_close((y, states), (wanted, their_states))
    assert_close(ours(x, states)[0], theirs(x, their_states)[0])
    wanted, got = (torch.autograd.grad(out.sin().sum(), list(p)) for out, p in
                   ((wanted, theirs.parameters()), (y, ours.parameters())))  # fmt: skip
    assert_close(sum(g.square().sum() for g in got), sum(g.square().sum() for g in wanted))


def test_the_projection_of_an_lstm_may_be_any_weight(tmp_path):
    torch.manual_seed(0)
    fused = cr.LSTM(4, 16, 2, batch_first=True, proj_size=8, projection_weight=cr.LowRank(rank=3))
    layer, x = cr.Recurrent(LSTM, 4, 16, 2, batch_first=True, proj_size=8), torch.randn(1, 9, 4)
    for row, cells in zip(cr.layers.cells_of(fused), layer.cells, strict=True):
        for name, weight in row[0].named_children():
            getattr(cells[0], name).from_dense_(weight.dense())
        for name, bias in row[0].named_parameters(recurse=False):
            getattr(cells[0], name).data.copy_(bias)
    assert_close(fused(x), layer(x))
    assert_close(fused.to_torch()(x), layer(x))
    assert type(fused.weight_hr_l1).__name__ == "LowRankWeight" and "projection_weight=LowRank(rank=3)" in repr(fused)
    cr.pack(nn.Sequential(fused, First()), tmp_path / "model.crnn", x, weights="float32")
    error = cr.Engine(tmp_path / "model.crnn").run(x[0].numpy()) - fused(x)[0][0].detach().numpy()
    assert np.abs(error).max() < 1e-5


def test_a_size_for_each_layer():
    layer = cr.Recurrent(GRU, 4, 8, proj_size=[3, 5], bidirectional=True)
    output, (h, c) = layer(torch.randn(6, 2, 4))
    assert layer.num_layers == 2 and layer.hidden_size == [8, 8] and layer.proj_size == [3, 5]
    assert output.shape == (6, 2, 10)
    assert [s.shape[1] for s in h] == [3, 3, 5, 5] and [s.shape[1] for s in c] == [8] * 4
    assert layer.cells[1][0].input.in_features == 6
    assert "proj_size=[3, 5]" in repr(layer)


@pytest.mark.filterwarnings("ignore:quantization changes the outputs")
@pytest.mark.parametrize("make", CELLS, ids=str)
def test_the_engine_multiplies_with_each_factor_once(make, tmp_path):
    torch.manual_seed(0)
    (_, *weight), options = make.projection, make.cell.keywords
    given = {"projection_weight": weight[0]} if weight else {}
    layer = cr.Recurrent(make.cell.func, 4, 16, proj_size=[8, 5], batch_first=True, **given, **options)
    model, x = nn.Sequential(layer, First()), torch.randn(1, 12, 4)
    report = cr.pack(model, tmp_path / "model.crnn", x, weights="float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    wanted = model(x)[0].detach().numpy()
    assert np.abs(engine.run(x[0].numpy()) - wanted).max() < 1e-5
    cells = [cell for row in layer.rows() for cell in row]
    assert report.macs_per_step == sum(cell.macs() for cell in cells)
    products = {MGU: 2, OutputGate: 2, cr.RHN: 2}.get(
        make.cell.func, 1
    )  # of (f * h), of states within a step, of an output that is no state
    assert [cell.macs() - sum(w.macs() for w in cell.children()) for cell in cells] == [
        (products - 1) * cell.projection.macs() for cell in cells
    ]
    if any(cell.steps_ahead for cell in cells):
        return
    stream = engine.stream()
    steps = np.stack([stream.step(row) for row in x[0].numpy()])
    assert np.array_equal(steps, engine.run(x[0].numpy()))
    if make.cell.func in (LSTM, GRU):
        cr.pack(model, tmp_path / "small.crnn", x, calibration=[x], weights="int8")
        error = cr.Engine(tmp_path / "small.crnn").run(x[0].numpy()) - wanted
        assert np.square(error).sum() < 0.05**2 * np.square(wanted).sum()


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


class Tagger(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.rnn = cr.Recurrent(cell, 4, 16, 2, batch_first=True, **options)
        self.out = nn.Linear(self.rnn.cells[-1][0].output_size, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize("cell", [LSTM, GRU, MGU, Elman, IndRNN, MinGRU, DuRNN, cr.RHN])
def test_units_behind_the_projection_and_its_rows_are_pruned(cell, tmp_path):
    torch.manual_seed(0)
    model, x = Tagger(cell, proj_size=6), torch.randn(4, 7, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=3)
    for _ in range(4):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    model.eval()
    small = pruner.shrink(optimizer).eval()
    assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    for row in small.rnn.rows():
        for own in row:
            assert own.projection.in_features == own.hidden_size < 16 and own.projection.out_features <= 6
    assert small.rnn.rows()[1][0].input.in_features == small.rnn.rows()[0][0].projection.out_features
    cr.save(small, tmp_path / "small")
    again = cr.load(tmp_path / "small", Tagger(cell, proj_size=6)).eval()
    assert torch.equal(again(x), small(x)) and again.rnn.proj_size == small.rnn.proj_size
    cr.pack(small, tmp_path / "small.crnn", x[:1], weights="float32")
    wanted = small(x[:1])[0].detach().numpy()
    assert np.abs(cr.Engine(tmp_path / "small.crnn").run(x[0].numpy()) - wanted).max() < 1e-5


class Bounded(OutputGate):
    def constrain_(self):
        self.hidden.scale_()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Projected(LSTM(4, 4), -1), "proj_size: expected a positive int.*, got -1"),
        (lambda: Projected(DuRNN(4, 4, output="both"), 2), "output is one unit set.*, got DuRNN with s, l"),
        (lambda: Projected(DuRNN(4, 4, parts="short"), 2), "matrices are free.*, got DuRNN.* constrain_ .* hidden"),
        (lambda: Projected(Bounded(4, 4), 2), "matrices are free.*, got Bounded"),
        (lambda: Projected(Projected(GRU(4, 4), 2), 2), "without a projection.*, got Projected"),
        (lambda: cr.LSTM(4, 4, projection_weight=cr.LowRank(rank=2)), "projection_weight: expected it with proj_size"),
        (lambda: cr.Recurrent(GRU, 4, 4, projection_weight=cr.LowRank(rank=2)), "projection_weight: expected it with"),
        (lambda: cr.Recurrent(GRU, 4, 4, proj_size=[2, 0]), "proj_size: .*got 0"),
        (lambda: cr.Recurrent(GRU, 4, [4, 4], proj_size=[2]), r"proj_size: expected 2 sizes.*, got \[2\]"),
        (lambda: cr.Recurrent(GRU, 4, 4, proj_size=2, hidden_weight=cr.LowRank(rank=3)), "rank: expected at most 2"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
