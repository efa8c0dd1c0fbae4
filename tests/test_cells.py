from functools import partial

import pytest
import torch
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells import GILR, GRU, LSTM, MGU, DuRNN, Elman, IndRNN, MinGRU
from compactrnn.testing import CellContract

CELLS = [
    LSTM,
    partial(LSTM, bias=False),
    partial(LSTM, proj_size=3),
    GRU,
    partial(GRU, bias=False),
    Elman,
    partial(Elman, nonlinearity="relu"),
    MGU,
    partial(MGU, bias=False),
    IndRNN,
    partial(IndRNN, bias=False, nonlinearity="tanh", steps=100, recurrent_init="one"),
    DuRNN,
    partial(DuRNN, bias=False, short_size=5, nonlinearity="relu", steps=100),
    partial(DuRNN, short_size=4, output="both"),
    partial(DuRNN, short_size=5, selection=False),
    partial(DuRNN, constraint="penalty"),
    partial(DuRNN, constraint=None),
    partial(DuRNN, parts="short"),
    partial(DuRNN, parts="long"),
    GILR,
    partial(GILR, bias=False),
    partial(GILR, nonlinearity="tanh", forget_bias="chrono", steps=50),
    partial(GILR, nonlinearity="relu", forget_bias=-1.0),
    MinGRU,
    partial(MinGRU, bias=False),
]


def name_of(cell):
    return cell.func.__name__ + str(cell.keywords) if isinstance(cell, partial) else cell.__name__


@pytest.mark.parametrize("make_cell", CELLS, ids=name_of)
class TestCells(CellContract):
    pass


def matrices(cell, gates):
    """W, U, b, b' of each gate."""
    zero = torch.zeros(gates * cell.hidden_size, dtype=torch.float64)
    parts = [cell.input.dense(), cell.hidden.dense()]
    parts += [zero if b is None else b for b in (cell.input_bias, cell.hidden_bias)]
    return zip(*(p.chunk(gates) for p in parts), strict=True)


def lstm_reference(cell, x, h, c):
    i, f, g, o = (W @ x + b + U @ h + d for W, U, b, d in matrices(cell, 4))
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if cell.projection is None else cell.projection.dense() @ h), c


def gru_reference(cell, x, h):
    (Wr, Ur, br, dr), (Wz, Uz, bz, dz), (Wn, Un, bn, dn) = matrices(cell, 3)
    r = (Wr @ x + br + Ur @ h + dr).sigmoid()
    z = (Wz @ x + bz + Uz @ h + dz).sigmoid()
    n = (Wn @ x + bn + r * (Un @ h + dn)).tanh()
    return ((1 - z) * n + z * h,)


def elman_reference(cell, x, h):
    ((W, U, b, d),) = matrices(cell, 1)
    total = W @ x + b + U @ h + d
    return (total.tanh() if cell.nonlinearity == "tanh" else total.clamp(min=0),)


def mgu_reference(cell, x, h):
    bias = torch.zeros(2 * cell.hidden_size, dtype=torch.float64) if cell.input_bias is None else cell.input_bias
    (Wf, Wc), (bf, bc) = cell.input.dense().chunk(2), bias.chunk(2)
    f = (Wf @ x + bf + cell.forget.dense() @ h).sigmoid()
    c = (Wc @ x + bc + cell.candidate.dense() @ (f * h)).tanh()
    return ((1 - f) * h + f * c,)


def linear(weight, bias, x, gate=0, gates=1):
    """One gate of `W x + b`."""
    total = weight.dense().chunk(gates)[gate] @ x
    return total if bias is None else total + bias.chunk(gates)[gate]


def indrnn_reference(cell, x, h):
    total = linear(cell.input, cell.input_bias, x) + cell.recurrent * h
    return (total.tanh() if cell.nonlinearity == "tanh" else total.clamp(min=0),)


def durnn_reference(cell, x, *states):
    from_x = linear(cell.input, cell.input_bias, x)
    if cell.hidden is None:
        return ((from_x + cell.recurrent * states[0]).clamp(min=0),)
    s = from_x + cell.hidden.dense() @ states[0]
    s = s.tanh() if cell.nonlinearity == "tanh" else s.clamp(min=0)
    if cell.transfer is None:
        return (s,)
    if cell.gate is None:
        e = linear(cell.transfer, cell.transfer_bias, s)
    else:
        Va, We = cell.transfer.dense().chunk(2)
        a = (linear(cell.gate, cell.gate_bias, x) + Va @ s).sigmoid()
        e = a * (We @ s + (0 if cell.transfer_bias is None else cell.transfer_bias))
    return s, (e + cell.recurrent * states[1]).clamp(min=0)


def gilr_reference(cell, x, h):
    g = linear(cell.input, cell.input_bias, x, 0, 2).sigmoid()
    i = linear(cell.input, cell.input_bias, x, 1, 2)
    i = {"elu": i.clamp(min=0) + i.clamp(max=0).exp() - 1, "tanh": i.tanh(), "relu": i.clamp(min=0)}[cell.nonlinearity]
    return (g * h + (1 - g) * i,)


def mingru_reference(cell, x, h):
    z = linear(cell.input, cell.input_bias, x, 0, 2).sigmoid()
    return ((1 - z) * h + z * linear(cell.input, cell.input_bias, x, 1, 2),)


REFERENCES = {
    LSTM: lstm_reference,
    GRU: gru_reference,
    Elman: elman_reference,
    MGU: mgu_reference,
    IndRNN: indrnn_reference,
    DuRNN: durnn_reference,
    GILR: gilr_reference,
    MinGRU: mingru_reference,
}


def output_of(cell, states):
    """What the cell gives to others, from its states."""
    of_set = {spec.units: s for s, spec in reversed(list(zip(states, cell.states, strict=True)))}
    return torch.cat([of_set[units.name] for units in cell.output_units()])


@pytest.mark.parametrize("make_cell", CELLS, ids=name_of)
def test_step_is_the_equations(make_cell):
    torch.manual_seed(0)
    cell = make_cell(5, 7).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    states = tuple(torch.randn_like(s) for s in cell.initial_states(2))
    y, after = cell(x, states)
    for b in range(2):
        wanted = REFERENCES[type(cell)](cell, x[b], *(s[b] for s in states))
        assert_close(tuple(s[b] for s in after), wanted)
        assert_close(y[b], output_of(cell, wanted))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LSTM(0, 4), "input_size: got 0"),
        (lambda: LSTM(4, 4, proj_size=-1), "proj_size: got -1, wanted a positive int"),
        (lambda: Elman(4, 4, nonlinearity="sin"), "nonlinearity: got 'sin'"),
        (lambda: GRU(4, 4).select_({"c": torch.tensor([0])}), "unit set: got 'c'"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([], dtype=torch.long)}), "at least one index"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([True, False])}), "torch.bool"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([4])}), "indices 4 to 4, wanted 0 to 3"),
        (lambda: GRU(4, 4).select_({}, torch.tensor([-1])), "input columns kept"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_constrain_before_they_run():
    """What an optimiser has overshot is back in its bounds in the forward pass, in training alone."""
    torch.manual_seed(0)
    layer = cr.Recurrent(IndRNN, 3, 4, num_layers=2, steps=10, bidirectional=True)
    x, us = torch.randn(10, 2, 3), [cell.recurrent for row in layer.rows() for cell in row]
    with torch.no_grad():
        for u in us:
            u.fill_(7.0)
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    assert all((u == 7).all() for u in us)
    layer(x)
    assert all((u == torch.tensor(5 ** (1 / 10))).all() for u in us)


@pytest.mark.parametrize("cell", [IndRNN, DuRNN, partial(DuRNN, constraint="entries", rho=0.5)])
def test_constraints_leave_a_graph_alone_that_is_still_to_go_backward(cell):
    layer = cr.Recurrent(cell.func, 3, 4, **cell.keywords) if isinstance(cell, partial) else cr.Recurrent(cell, 3, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(5)
    (layer(torch.randn(6, 2, 3))[0].sum() + layer(torch.randn(6, 2, 3))[0].sum()).backward()
