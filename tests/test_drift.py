"""States of all cells over long inputs: they do not creep away, and nothing overflows where gates saturate."""

import pytest
import torch

import compactrnn as cr
from cell_table import CELLS, name_of
from compactrnn.layers.loop.select import own_loops

STEPS = 5000


def states_over_time(make, steps, spread, scale):
    """The states of a layer's one cell at all steps, (steps, width), and its outputs."""
    torch.manual_seed(0)
    cell = cr.Recurrent(make.func, 4, 6, **make.keywords).cells[0][0]
    assert "native" in cr.loop_report(cell)[0].kinds  # found out with the parameters of the start
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(scale)
        cell.constrain_()
        projected = cell.look_ahead(cell.project(spread * torch.randn(steps, 1, 4)))
        start = cell.initial_states(1)
        found, _ = own_loops(cell, projected, start)
        (output, *states), _ = found.run("states", cell, projected, start)
    return cell, output[:, 0], [s[:, 0] for s in states]


@pytest.mark.parametrize("make", CELLS, ids=name_of)
def test_states_stay_where_they_are_over_many_steps(make):
    cell, output, states = states_over_time(make, STEPS, 1.0, 1.0)
    numbers = [s for s, spec in zip(states, cell.states, strict=True) if spec.role != "counter"]
    for values in (output, *numbers):
        assert values.isfinite().all()
        early, late = (part.abs().max() for part in (values[STEPS // 10 : STEPS // 2], values[-STEPS // 2 :]))
        assert late <= (3.0 if drifts(cell) else 1.5) * early + 1e-3


def drifts(cell):
    """What an orthogonal or unitary matrix and modReLU keep is summed up, as the docstrings say: linearly at most."""
    return isinstance(cell, cr.OrthogonalRNN | cr.URNN | cr.ENRNN) and getattr(cell, "nonlinearity", "") != "tanh"


# all but h' = relu(... + U h), a free matrix and no bound
BOUNDED = [make for make in CELLS if (make.func, make.keywords.get("nonlinearity")) != (cr.cells.Elman, "relu")]


@pytest.mark.parametrize("make", BOUNDED, ids=name_of)
def test_saturated_gates_overflow_nowhere(make):
    _, output, states = states_over_time(make, 1000, 100.0, 10.0)
    assert all(values.isfinite().all() for values in (output, *states))


@pytest.mark.parametrize("make", CELLS, ids=name_of)
def test_gradients_of_saturated_gates_are_finite(make):
    torch.manual_seed(0)
    layer = cr.Recurrent(make.func, 4, 6, **make.keywords)
    x = (100 * torch.randn(50, 2, 4)).requires_grad_()
    layer(x)[0].tanh().sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()) if t.grad is not None)
