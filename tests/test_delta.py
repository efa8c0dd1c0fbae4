"""Delta networks: what they compute, in torch and in the engine."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import compactrnn as cr
from cell_table import CELLS, name_of, reads_ahead
from compactrnn.cells import GRU, LSTM, MGU, DeltaCell, HiPPO
from compactrnn.layers import cells_of, delta_
from compactrnn.testing import CellContract
from outputs_alone import OutputsAlone

LAYERS = [
    partial(nn.LSTM, 6, 16, 2, batch_first=True),
    partial(nn.GRU, 6, 16, bidirectional=True),
    partial(nn.LSTM, 6, 16, proj_size=4),
    partial(nn.RNN, 6, 8),
    partial(cr.LSTM, 6, [16, 12]),
    partial(cr.Recurrent, GRU, 6, 16, num_layers=2),
]
ENGINES = [
    (partial(LSTM), "float32"),
    (partial(LSTM), "int8"),
    (partial(LSTM, proj_size=3), "float32"),
    (partial(GRU), "float32"),
    (partial(GRU, bias=False), "int8"),
    (partial(MGU, hidden_weight=cr.LowRank(rank=2)), "float32"),
    (partial(cr.DuRNN, output="both"), "int4"),
    (partial(HiPPO, order=5), "float32"),
    (partial(cr.FSMN, projection_size=5, look_back=3), "float32"),
]
CAUSAL = [make for make in CELLS if not reads_ahead(make)]


def with_thresholds(layer, value):
    for row in delta_(layer):
        for cell in row:
            cell.thresholds.fill_(value)
    return layer


def stack(make, threshold):
    """Two layers of a cell, with thresholds on all changes."""
    torch.manual_seed(0)
    return with_thresholds(cr.Recurrent(make.func, 6, 8, num_layers=2, **make.keywords), threshold)


def delta_cell(make, *sizes, **options):
    return DeltaCell(make(*sizes, **options))


def delta_lstm(x, weights, thresholds):
    """The equations of a delta LSTM, number by number; x: (T, inputs)."""
    w, u, b = (t.double().numpy() for t in weights)
    x_ref, h_ref = np.zeros(w.shape[1]), np.zeros(u.shape[1])
    h = c = np.zeros(u.shape[1])
    outputs = []
    for step in x.double().numpy():
        for j, value in enumerate(step):
            if abs(value - x_ref[j]) > thresholds[0]:
                x_ref[j] = value
        for j, value in enumerate(h):
            if abs(value - h_ref[j]) > thresholds[1]:
                h_ref[j] = value
        i, f, g, o = np.split(w @ x_ref + u @ h_ref + b, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("make_cell", [partial(delta_cell, cell) for cell in (LSTM, GRU, MGU, HiPPO)])
class TestDeltaCells(CellContract):
    """Without a threshold they are cells like others."""


def test_equations():
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 12)
    for p in lstm.parameters():
        p.data *= 3
    (cell,) = delta_(lstm)[0]
    cell.thresholds.copy_(torch.tensor([0.3, 0.1]))
    x = torch.randn(60, 5).cumsum(0) / 4
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0
    wanted = delta_lstm(x, [w.detach() for w in weights], [0.3, 0.1])
    assert_close(lstm(x[:, None])[0][:, 0].double().detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*plain loop over time")  # as a gradient of HiPPO's counter is not well conditioned
@pytest.mark.parametrize("make", CAUSAL, ids=name_of)
def test_without_thresholds_a_layer_is_the_plain_one(make):
    torch.manual_seed(0)
    plain = cr.Recurrent(make.func, 6, 8, num_layers=2, **make.keywords)
    layer, x = copy.deepcopy(plain), torch.randn(11, 3, 6)
    delta_(layer)
    assert_close([t.detach() for t in tree_leaves(layer(x))], [t.detach() for t in tree_leaves(plain(x))])
    kept = [name for name in layer.state_dict() if not name.endswith("thresholds")]
    assert kept == list(plain.state_dict())


@pytest.mark.parametrize("make", LAYERS)
def test_layers_keep_their_calls_and_names(make):
    torch.manual_seed(0)
    plain = make()
    layer, x = copy.deepcopy(plain), torch.randn(7, 5, 6)
    parameters = dict(layer.named_parameters())
    delta_(layer)
    assert dict(layer.named_parameters()) == parameters
    y, states = plain(x)
    assert_close([t.detach() for t in tree_leaves(layer(x))], [t.detach() for t in tree_leaves((y, states))])
    assert_close(layer(x, states)[0].detach(), plain(x, states)[0].detach())
    assert (with_thresholds(layer, 0.2)(x)[0] - y).abs().max() > 1e-3


@pytest.mark.parametrize("make", [partial(GRU), partial(LSTM, proj_size=3), partial(MGU)])
def test_the_native_loop_repeats_the_plain_one(make):
    layer = stack(make, 0.1)
    x = torch.randn(20, 3, 6, requires_grad=True)
    found = []
    for kind in ("plain", "native"):
        with cr.time_loop(kind):
            y, _ = layer(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_what_was_sent():
    """The input is sent at the first and the third step; the third is what the fourth sees, too."""
    layer = cr.Recurrent(GRU, 1, 1)
    with_thresholds(layer, 0.5)
    x = torch.tensor([1.0, 1.2, 2.0, 1.9], requires_grad=True)
    y, _ = layer(x[:, None, None])
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert (grad != 0).tolist() == [True, False, True, False]


def test_a_nan_is_sent_and_overcome():
    layer = with_thresholds(cr.Recurrent(MGU, 2, 3), 0.1)
    (cell,) = layer.rows()[0]
    x = torch.tensor([[1.0, float("nan")]])
    _, states = cell(x)
    assert states[1].isnan().tolist() == [[False, True]]
    _, states = cell(torch.ones(1, 2), states)
    assert states[1].tolist() == [[1.0, 1.0]]


def test_cells_that_read_ahead_are_refused():
    layer = cr.Recurrent(cr.FSMN, 6, 8, look_ahead=2)
    with pytest.raises(ValueError, match="reads no later steps, got FSMN, which reads later steps"):
        delta_(layer)
    assert not any(isinstance(cell, DeltaCell) for row in cells_of(layer) for cell in row)


def test_thresholds_of_another_number_are_refused():
    with pytest.raises(ValueError, match="2: of the input, of what hidden reads, got shape"):
        DeltaCell(GRU(4, 4), torch.zeros(3))


def test_torch_has_no_such_layer():
    with pytest.raises(ValueError, match="without, got thresholds"):
        with_thresholds(cr.LSTM(4, 4), 0.1).to_torch()


def packed(model, path, x, weights="float32"):
    report = cr.pack(model, path, x, weights=weights, calibration=[x])
    return report, cr.Engine(path)


@pytest.mark.parametrize(("make", "weights"), ENGINES)
@pytest.mark.filterwarnings("ignore:quantization changes")
def test_the_engine_runs_the_same_steps(make, weights, tmp_path):
    model, x = OutputsAlone(stack(make, 0.1)).eval(), torch.randn(50, 1, 6)
    report, engine = packed(model, tmp_path / "delta.crnn", x, weights)
    stream, rows = engine.stream(), x[:, 0].numpy()
    y = engine.run(rows)
    assert np.array_equal(np.stack([stream.step(row) for row in rows]), y)
    assert report.parity < 1e-5
    if weights == "float32":
        assert_close(torch.from_numpy(y), model(x)[:, 0].detach(), rtol=1e-5, atol=1e-5)


def test_references_are_states_of_a_stream(tmp_path):
    model, x = OutputsAlone(stack(partial(GRU), 0.1)).eval(), torch.randn(9, 1, 6)
    _, engine = packed(model, tmp_path / "delta.crnn", x)
    stream = engine.stream()
    stream.run(x[:, 0].numpy())
    _, (_, _, reference) = cells_of(model.rnn)[0][0](x[0])
    assert [s.name for s in stream.states][:3] == ["rnn.h_l0", "rnn.x_ref_l0", "rnn.hidden_ref_l0"]
    assert stream.get_state("rnn.hidden_ref_l0").shape == reference.shape[1:]


@pytest.mark.parametrize("make", [partial(nn.LSTM, 6, 16, 2), partial(cr.Recurrent, GRU, 6, 16)])
def test_it_is_saved_and_loaded(make, tmp_path):
    model = OutputsAlone(with_thresholds(make(), 0.2))
    cr.save(model, tmp_path)
    x = torch.randn(9, 2, 6)
    assert torch.equal(cr.load(tmp_path, OutputsAlone(make()))(x), model(x))
