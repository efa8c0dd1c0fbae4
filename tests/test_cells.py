import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from cell_equations import EQUATIONS, OUTPUTS
from cell_table import CELLS, VARIANTS, name_of
from compactrnn.cells import (
    FSMN,
    GILR,
    GRU,
    LSTM,
    MGU,
    RHN,
    DuRNN,
    Elman,
    IndRNN,
    MinGRU,
    StateSpec,
    UnitSet,
    check_declaration,
)
from compactrnn.layers.sequence import Steps
from compactrnn.testing import CellContract

OF_LAYERS = {"proj_size", "hidden_weight"}  # tried in layers; the contract gives a cell its weights
MAKERS = [make for make in (*CELLS, *VARIANTS) if OF_LAYERS.isdisjoint(make.keywords)]


@pytest.mark.parametrize("make_cell", MAKERS, ids=name_of)
class TestCells(CellContract):
    pass


def output_of(cell, states):
    """The cell's output as a function of its states."""
    of_set = {spec.units: s for s, spec in reversed(list(zip(states, cell.states, strict=True)))}
    return torch.cat([of_set[units.name] for units in cell.output_units()])


@pytest.mark.parametrize("make_cell", MAKERS, ids=name_of)
def test_step_is_the_equations(make_cell):
    torch.manual_seed(0)
    cell = make_cell(5, 8).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    states = tuple(torch.randn_like(s) for s in cell.initial_states(2))
    y, after = cell(x, states)
    for b in range(2):
        wanted = EQUATIONS[type(cell)](cell, x[b], *(s[b] for s in states))
        assert_close(tuple(s[b] for s in after), wanted)
        if type(cell) in OUTPUTS:
            assert_close(y[b], OUTPUTS[type(cell)](cell, x[b], tuple(s[b] for s in states), wanted))
        elif not isinstance(cell, FSMN):  # whose output is not one of its states: see below
            assert_close(y[b], output_of(cell, wanted))


@pytest.mark.parametrize("make_cell", [make for make in MAKERS if name_of(make).startswith("FSMN")], ids=name_of)
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_fsmn_is_a_depthwise_convolution_between_two_layers(make_cell, steps):
    torch.manual_seed(0)
    cell = make_cell(5, 7).double()
    x = torch.randn(steps, 2, 5, dtype=torch.float64)
    got, _ = cr.layers.scan(cell, Steps(x, None, 2), cell.initial_states(2))
    p = x @ cell.input.dense().T + (0 if cell.input_bias is None else cell.input_bias)
    size = p.shape[-1]
    future = [] if cell.future is None else list(cell.future.view(-1, size).flip(0))
    kernel = torch.stack([*future, torch.ones(size, dtype=x.dtype), *cell.past.view(-1, size)]).flip(0)
    pads = (cell.look_back * cell.stride, cell.steps_ahead)
    padded = nn.functional.pad(p.permute(1, 2, 0), pads)
    m = nn.functional.conv1d(padded, kernel.T[:, None], dilation=cell.stride, groups=size).permute(2, 0, 1)
    y = m @ cell.output.dense().T + (0 if cell.output_bias is None else cell.output_bias)
    assert_close(got, {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[cell.nonlinearity](y))


def spectral_norm(cell):
    return torch.linalg.matrix_norm(cell.hidden.dense().detach(), 2)


@given(
    steps=st.none() | st.integers(1, 10**6),
    magnitude=st.floats(0.5, 100),
    cell=st.sampled_from([IndRNN, DuRNN]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_recurrent_weights_stay_within_magnitude_to_the_one_over_steps(steps, magnitude, cell, seed):
    torch.manual_seed(seed)
    cell = cell(3, 8, steps=steps, magnitude=magnitude).double()
    bound = 1.0 if steps is None else magnitude ** (1 / steps)
    with torch.no_grad():
        cell.recurrent.normal_(0, 2)
    wanted = cell.recurrent.detach().clamp(-bound, bound)
    cell.constrain_()
    assert torch.equal(cell.recurrent, wanted)


@pytest.mark.parametrize("hidden_weight", [cr.Dense(), cr.LowRank(rank=7)], ids=str)
@pytest.mark.parametrize("parts", ["both", "short"])
def test_the_spectral_norm_stays_below_rho_while_an_optimizer_pushes(hidden_weight, parts):
    torch.manual_seed(0)
    cell = DuRNN(3, 24, rho=0.8, parts=parts, hidden_weight=hidden_weight)
    assert spectral_norm(cell) <= 0.8 * 1.001
    optimizer = torch.optim.Adam(cell.hidden.parameters(), 1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        (-cell.hidden.dense().square().sum()).backward()
        optimizer.step()
        cell.constrain_()
        assert spectral_norm(cell) <= 0.8 * 1.01
    assert spectral_norm(cell) > 0.75
    with torch.no_grad():
        cell.hidden.scale_(out=torch.full((24,), 0.1))
    before = cell.hidden.dense().detach().clone()
    cell.constrain_()
    assert torch.equal(cell.hidden.dense(), before)


def test_a_fused_optimizer_does_not_push_the_norm_above_rho_either():
    torch.manual_seed(0)
    layer = cr.Recurrent(DuRNN, 3, 12, rho=0.5)
    (cell,) = layer.cells[0]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(20):
        optimizer.zero_grad()
        layer(torch.randn(5, 2, 3))[0].sum().neg().backward()
        assert spectral_norm(cell) <= 0.5 * 1.05
        optimizer.step()
    assert spectral_norm(cell) > 0.5 * 1.05


def test_the_vector_of_the_power_method_finds_a_new_norm_in_a_few_calls_and_survives_zeros():
    torch.manual_seed(0)
    cell = DuRNN(3, 40, rho=0.5)
    for matrix in (torch.zeros(40, 40), torch.randn(40, 40)):
        cell.hidden.from_dense_(matrix)
        for _ in range(30):
            cell.constrain_()
            with torch.no_grad():
                cell.hidden.weight.mul_(1.0)  # as an optimizer would
        assert spectral_norm(cell) <= 0.5 * 1.01


def test_entries_stay_below_rho_over_the_size():
    cell = DuRNN(3, 6, short_size=10, constraint="entries", rho=0.5)
    with torch.no_grad():
        cell.hidden.weight.mul_(100)
    cell.constrain_()
    assert cell.hidden.weight.abs().max() == torch.tensor(0.05) and spectral_norm(cell) <= 0.5


def test_the_penalty_is_what_the_norm_exceeds_rho_by_squared():
    torch.manual_seed(0)
    cell = DuRNN(3, 12, constraint="penalty", rho=0.5, penalty_weight=3).double()
    for _ in range(60):
        penalty = cell.penalty()
    matrix = cell.hidden.weight.detach().clone().requires_grad_()
    wanted = 3 * (torch.linalg.matrix_norm(matrix, 2) - 0.5).clamp(min=0).square()
    assert_close(penalty, wanted)
    penalty.backward()
    wanted.backward()
    assert_close(cell.hidden.weight.grad, matrix.grad, rtol=1e-3, atol=1e-4)
    before = cell.hidden.weight.detach().clone()
    cell.constrain_()
    assert torch.equal(cell.hidden.weight, before)
    cell.hidden.from_dense_(before * 0.01)
    assert cell.penalty() == 0
    assert DuRNN(3, 12).penalty() is None


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("constraint", ["spectral", "entries"])
@pytest.mark.parametrize("rho", [0.5, 0.9, 1.0])
def test_the_short_memory_forgets_at_least_as_fast_as_rho(nonlinearity, constraint, rho):
    """The norm of ds_T/ds_t is at most rho ** (T - t)."""
    torch.manual_seed(0)
    cell = DuRNN(3, 8, short_size=10, nonlinearity=nonlinearity, constraint=constraint, rho=rho).double()
    with torch.no_grad():
        cell.hidden.weight.mul_(30)
    for _ in range(20):
        cell.constrain_()
        with torch.no_grad():
            cell.hidden.weight.mul_(1.0)
    xs, long = torch.randn(6, 1, 3, dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
    for steps in (1, 3, 6):

        def run(short, steps=steps):
            states = (short[None], long)
            for x in xs[:steps]:
                _, states = cell(x, states)
            return states[0][0]

        jacobian = torch.autograd.functional.jacobian(run, torch.rand(10, dtype=torch.float64))
        assert 0 < torch.linalg.matrix_norm(jacobian, 2) <= rho**steps * 1.01


def test_the_long_memory_carries_gradients_by_u_alone():
    """dl_T/dl_t = diag(u ** (T - t)) where units are active."""
    torch.manual_seed(0)
    cell = DuRNN(3, 5, short_size=4, recurrent_init=(0.5, 1.0)).double()
    xs, short = torch.randn(6, 1, 3, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)

    def run(long):
        states = (short, long[None])
        for x in xs:
            _, states = cell(x, states)
        return states[1][0]

    jacobian = torch.autograd.functional.jacobian(run, torch.full((5,), 100.0, dtype=torch.float64))
    assert_close(jacobian, torch.diag(cell.recurrent.detach() ** 6))


def test_recurrent_weights_start_where_they_are_told():
    torch.manual_seed(0)
    u = IndRNN(3, 1000).recurrent
    assert u.min() >= 0 and u.max() <= 1 and 0.45 < u.mean() < 0.55
    assert (IndRNN(3, 4, recurrent_init="one").recurrent == 1).all()
    u = DuRNN(3, 1000, short_size=2, recurrent_init=(0.9, 1.1), steps=100).recurrent
    assert u.min() >= 0.9 and 1.0 < u.max() <= 5 ** (1 / 100)
    cell = IndRNN(30, 1000)
    assert cell.input.weight.abs().max() <= 0.3 * 30**-0.5 and (cell.input_bias == 0).all()


def test_deep_indrnn_starts_with_outputs_of_one_size():
    torch.manual_seed(0)
    layer = cr.Recurrent(IndRNN, 1, 64, num_layers=6, steps=300)
    h, sizes = torch.randn(300, 4, 1), []
    with torch.no_grad():
        for (cell,) in layer.rows():
            states, ys = cell.initial_states(4), []
            for projected in cell.project(h):
                y, states = cell.step(projected, states)
                ys.append(y)
            h = torch.stack(ys)
            sizes.append(float(h.square().mean().sqrt()))
    assert 0.02 < sizes[-1] / sizes[0] < 20


def test_gates_start_where_they_are_told():
    torch.manual_seed(0)
    for cell, sign in ((GILR, 1), (MinGRU, -1)):
        assert (cell(3, 4, forget_bias=2.5).input_bias == torch.tensor([sign * 2.5] * 4 + [0.0] * 4)).all()
        bias = cell(3, 4000, forget_bias="chrono", steps=100).input_bias.detach()
        lengths = (sign * bias[:4000]).exp()
        assert lengths.min() >= 1 and lengths.max() <= 99 and 47 < lengths.mean() < 53
        assert (bias[4000:] == 0).all()
    cell = RHN(3, 4, depth=2, transform_bias=-3.0)
    assert all((bias == torch.tensor([0.0] * 4 + [-3.0] * 4)).all() for bias in (cell.input_bias, cell.bias_2))


def test_a_cut_durnn_goes_on_within_its_bounds():
    torch.manual_seed(0)
    cell = DuRNN(3, 6, short_size=8)
    cell.select_({"s": torch.tensor([1, 2, 5]), "l": torch.tensor([0, 3])})
    assert cell.direction.shape == (3,) and cell.recurrent.shape == (2,)
    with torch.no_grad():
        cell.hidden.weight.mul_(50)
    for _ in range(20):
        cell.constrain_()
        with torch.no_grad():
            cell.hidden.weight.mul_(1.0)
    assert spectral_norm(cell) <= 0.9 * 1.01
    twin = DuRNN(3, 2, short_size=3)
    twin.load_state_dict(cell.state_dict(), strict=True)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LSTM(0, 4), r"input_size: .*got 0"),
        (lambda: Elman(4, 4, nonlinearity="sin"), r"nonlinearity: .*got 'sin'"),
        (lambda: IndRNN(4, 4, nonlinearity="elu"), "nonlinearity: expected 'relu' or 'tanh'.*, got 'elu'"),
        (lambda: IndRNN(4, 4, steps=0), "steps: expected a positive int.*, got 0"),
        (lambda: IndRNN(4, 4, magnitude=0), "magnitude: expected a number above 0.*, got 0"),
        (lambda: IndRNN(4, 4, recurrent_init="two"), r"recurrent_init: .*got 'two'"),
        (lambda: IndRNN(4, 4, recurrent_init=(1, 0)), r"recurrent_init: .*got .1, 0."),
        (lambda: DuRNN(4, 4, parts="none"), "parts: expected one of 'both', 'short', 'long'.*, got 'none'"),
        (lambda: DuRNN(4, 4, rho=1.5), r"rho: .*got 1.5"),
        (lambda: DuRNN(4, 4, constraint="norm"), r"constraint: .*got 'norm'"),
        (lambda: DuRNN(4, 4, short_size=0), "short_size: expected a positive int.*, got 0"),
        (lambda: DuRNN(4, 4, short_size=5, parts="short"), "short_size: expected hidden_size=4.*, got 5"),
        (lambda: DuRNN(4, 4, penalty_weight=0), "penalty_weight: expected a number above 0.*, got 0"),
        (
            lambda: DuRNN(4, 4, hidden_weight=cr.Kronecker(2, 2)),
            r"hidden_weight: expected .*Dense or LowRank.*, got Kronecker",
        ),
        (
            lambda: DuRNN(4, 4, hidden_weight=cr.LowRank(rank=2), constraint="entries"),
            "hidden_weight: expected Dense.*, got LowRank.rank=2.",
        ),
        (lambda: GILR(4, 4, nonlinearity="sin"), r"nonlinearity: .*got 'sin'"),
        (lambda: GILR(4, 4, forget_bias="long"), "forget_bias: expected a number or 'chrono'.*, got 'long'"),
        (lambda: GILR(4, 4, forget_bias="chrono"), "steps: expected an int of at least 3.*, got None"),
        (lambda: RHN(4, 4, depth=0), "depth: expected a positive int.*, got 0"),
        (lambda: RHN(4, 4, transform_bias=math.nan), "transform_bias: expected a number, got nan"),
        (lambda: RHN(4, 4, transform_bias=0, bias=False), "transform_bias: expected none with bias=False, got 0"),
        (lambda: MinGRU(4, 4, steps=9), "steps: expected None.*, got 9"),
        (lambda: MinGRU(4, 4, bias=False, forget_bias=2.0), "forget_bias: expected none with bias=False.*, got 2.0"),
        (
            lambda: cr.Recurrent(IndRNN, 4, 4, hidden_weight=cr.LowRank(2)),
            r"options of IndRNN: .*got hidden_weight=Low",
        ),
        (
            lambda: cr.Recurrent(GRU, 4, 4, forget_bias=1.0),
            "options of GRU: expected input_weight.*, got forget_bias=1.0",
        ),
        (lambda: GRU(4, 4).select_({"c": torch.tensor([0])}), r"unit set: .*got 'c'"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([], dtype=torch.long)}), "at least one index"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([True, False])}), "torch.bool"),
        (lambda: GRU(4, 4).select_({"h": torch.tensor([4])}), "expected 0 to 3, got indices 4 to 4"),
        (lambda: GRU(4, 4).select_({}, torch.tensor([-1])), "input columns kept"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_constrain_before_they_run():
    """Parameters that an optimizer moved out of bounds are clamped in the forward pass, in training only."""
    torch.manual_seed(0)
    layer = cr.Recurrent(IndRNN, 3, 4, num_layers=2, steps=10, bidirectional=True)
    x, us = torch.randn(10, 2, 3), [cell.recurrent for row in layer.rows() for cell in row]
    with torch.no_grad():
        for u in us:
            u.fill_(2.0)
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    assert all((u == 2).all() for u in us)
    layer(x)
    assert all((u == torch.tensor(5 ** (1 / 10))).all() for u in us)


@pytest.mark.parametrize("cell", [IndRNN, DuRNN, partial(DuRNN, constraint="entries", rho=0.5)])
def test_constraints_leave_a_graph_alone_that_is_still_to_go_backward(cell):
    layer = cr.Recurrent(cell.func, 3, 4, **cell.keywords) if isinstance(cell, partial) else cr.Recurrent(cell, 3, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(5)
    (layer(torch.randn(6, 2, 3))[0].sum() + layer(torch.randn(6, 2, 3))[0].sum()).backward()


READ, WRITTEN = ("forget", "candidate"), ("input", "input_bias", "forget", "candidate")


@pytest.mark.parametrize(
    "states, units, message",
    [
        (StateSpec("h"), None, r"states: .*got StateSpec"),
        (None, (UnitSet("x", WRITTEN, READ, output=True),), "units of the state 'h': expected one of.*, got 'h'"),
        (None, (UnitSet("h", WRITTEN, READ),), "no set with output=True"),
        (None, (UnitSet("h", "input", READ, output=True),), "written_by: expected a tuple of names.*, got 'input'"),
        (None, (UnitSet("h", (*WRITTEN, "candidat"), READ, output=True),), "expected the name of.*, got 'candidat'"),
        (None, (UnitSet("h", (*WRITTEN, "scale"), READ, output=True),), "'scale': expected a weight.*, got Parameter"),
        (None, (UnitSet("h", (), (), output=True),), "expected a weight or a vector among them"),
        (None, (UnitSet("h", ("input_bias",), READ, output=True),), "'forget': expected 12, got 6 columns"),
        (None, (UnitSet("h", (*WRITTEN, "odd"), READ, output=True),), "'odd': expected 6 per gate.*, got 5 numbers"),
        (None, (UnitSet("h", WRITTEN, (*READ, "input"), output=True),), "'input': expected 6.*, got 4 columns"),
        (None, (UnitSet("h", WRITTEN[:-1], READ, output=True),), "no unit of the 6 rows of 'candidate'"),
        (None, (UnitSet("h", WRITTEN, READ[:-1], output=True),), "no reader of the 6 columns of 'candidate'"),
    ],
)
def test_a_declaration_that_does_not_fit_the_cell(states, units, message):
    cell = MGU(4, 6)
    cell.scale, cell.odd = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(5))
    cell.states, cell.units = states or cell.states, units or cell.units
    with pytest.raises(ValueError, match=message):
        check_declaration(cell)


def test_a_matrix_of_too_many_rows_is_no_set_of_gates():
    class Wide(MGU):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.forget = cr.Dense().build(2 * hidden_size, hidden_size)

    with pytest.raises(ValueError, match=r"'forget': expected 6 .*, got 12 rows per gate.*gates=gates"):
        cr.Recurrent(Wide, 4, 6)
