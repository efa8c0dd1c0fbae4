from functools import partial

import pytest
import torch
from torch.testing import assert_close

from compactrnn.cells import GRU, LSTM, MGU, Elman
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


REFERENCES = {LSTM: lstm_reference, GRU: gru_reference, Elman: elman_reference, MGU: mgu_reference}


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
        assert_close(y[b], wanted[0])


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
