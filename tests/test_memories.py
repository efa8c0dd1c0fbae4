"""What memories of polynomials keep, and matrices that stay orthogonal in training."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.cells.polynomial_memory import step_matrices, system
from compactrnn.cells.rotations import one_sequence


def signal(window, windows):
    t = torch.arange(float(window * windows), dtype=torch.float64) / window
    return (2 * math.pi * t * 0.9).sin() + 0.5 * (2 * math.pi * t * 1.7).cos()


def kept(measure, order, window, rule, f):
    a, b = step_matrices(measure, order, window, rule)
    c = torch.zeros(order, dtype=torch.float64)
    for value in f:
        c = a @ c + b * value
    return c


def legendre(order, x):
    """P_0 ... P_(order-1) at x, by the three-term recurrence."""
    p = [torch.ones_like(x), x]
    for n in range(1, order - 1):
        p.append(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1))
    return torch.stack(p)


@pytest.mark.parametrize("rule", ["zoh", "bilinear", "backward"])
@pytest.mark.parametrize("measure", ["legt", "lmu"])
def test_a_window_can_be_read_off_the_coefficients(measure, rule):
    order, window = 12, 320 if rule == "backward" else 80  # which is of first order
    f = signal(window, 5)
    c = kept(measure, order, window, rule, f)
    age = (torch.arange(float(window), dtype=torch.float64) + 0.5) / window
    if measure == "lmu":
        found = c @ legendre(order, 2 * age - 1)
    else:
        found = ((2 * torch.arange(order) + 1).sqrt() * c) @ legendre(order, 1 - 2 * age)
    inner = slice(window // 20, -window // 20)
    assert (found - f.flip(0)[:window])[inner].abs().max() < (0.1 if rule == "backward" else 0.01)


def test_laguerre_coefficients_are_those_of_the_discounted_past():
    """c_n = the sum over the past of exp(-age) L_n(age) f, by the recurrence of the L_n."""
    window, f = 200, signal(200, 20)
    c = kept("lagt", 4, window, "bilinear", f)
    age = (torch.arange(4000.0, dtype=torch.float64) + 0.5) / window
    polynomials = [torch.ones_like(age), 1 - age]
    for n in (1, 2):
        polynomials.append(((2 * n + 1 - age) * polynomials[n] - n * polynomials[n - 1]) / (n + 1))
    weight = (-age / 2).exp() / window
    wanted = torch.stack([(weight * p * f.flip(0)).sum() for p in polynomials])
    assert_close(c, wanted, rtol=0.03, atol=0.01)


def test_both_forms_of_the_sliding_window_are_one():
    (a, b), (c, d) = system("legt", 7), system("lmu", 7)
    scale = d / b
    assert_close(scale[:, None] * a / scale, c)


@pytest.mark.parametrize("measure", ["legt", "lagt", "lmu"])
@pytest.mark.parametrize("rule", ["zoh", "bilinear", "backward"])
@pytest.mark.parametrize("order", [1, 20, 64])
def test_memories_are_stable(measure, rule, order):
    a, _ = step_matrices(measure, order, 100.0, rule)
    assert torch.linalg.eigvals(a).abs().max() < 1


@pytest.mark.parametrize("kind", ["exp", "cayley"])
def test_the_matrix_stays_orthogonal_in_training(kind):
    torch.manual_seed(0)
    layer, head = cr.Recurrent(cr.OrthogonalRNN, 2, 17, orthogonal_map=kind), nn.Linear(17, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-2)
    (cell,), before = layer.cells[0], layer.cells[0][0].transition().detach()
    for _ in range(20):
        x = torch.randn(15, 4, 2)
        loss = (head(layer(x)[0][-1]) - x[0, :, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    q = cell.transition()
    assert_close(q @ q.T, torch.eye(17), rtol=0, atol=1e-5)
    assert (q - before).norm() > 0.1


def test_a_matrix_is_made_once_for_a_sequence(monkeypatch):
    cell, made = cr.OrthogonalRNN(3, 5).double(), []
    transition = cell.transition
    monkeypatch.setattr(cell, "transition", lambda: made.append(1) or transition())
    layer = cr.Recurrent(cr.OrthogonalRNN, 3, 5).double()
    layer.cells[0][0] = cell
    layer(torch.randn(9, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert len(made) == 1
    layer(torch.randn(9, 2, 3, dtype=torch.float64))
    assert len(made) == 2
    with one_sequence():
        first = cell(torch.randn(2, 3, dtype=torch.float64))
    assert len(made) == 3 and first[0].isfinite().all()


def test_a_free_matrix_is_normalized_from_its_first_eigenvalue_above_one_on():
    torch.manual_seed(0)
    layer = cr.Recurrent(cr.ENRNN, 2, 12, short_size=5)
    (cell,), x = layer.cells[0], torch.randn(6, 3, 2)

    def radius():
        return torch.linalg.eigvals(cell.transition()[7:, 7:].detach()).abs().max().item()

    layer(x)
    assert not cell.normalized and abs(radius() - cell.radius().item()) < 1e-6
    with torch.no_grad():
        cell.short.mul_(5)
    layer.eval()(x)
    assert not cell.normalized
    layer.train()(x)[0].sum().backward()
    assert cell.normalized and abs(radius() - 1) < 1e-5 and cell.short.grad.isfinite().all()
    with torch.no_grad():
        cell.short.mul_(0.01)
    layer(x)
    assert cell.normalized and abs(radius() - 1) < 1e-5


def test_sizes_of_a_complex_evolution_stay_below_one():
    layer = cr.Recurrent(cr.URNN, 2, 8, unitary=False)
    with torch.no_grad():
        layer.cells[0][0].magnitude.fill_(1.5)
    layer(torch.randn(3, 2, 2))
    assert (layer.cells[0][0].magnitude == 1).all()


@pytest.mark.filterwarnings("ignore")  # of what int4 costs, and of states that are no outputs
@pytest.mark.parametrize(
    "cell, options",
    [
        (cr.LMU, {"order": 20}),
        (cr.ParallelLMU, {"order": 10, "memory_size": 2}),
        (cr.HiPPO, {"measure": "legt", "order": 20}),
        (cr.HiPPO, {"measure": "lagt", "order": 20, "proj_size": 8}),
        (cr.OrthogonalRNN, {}),
        (cr.OrthogonalRNN, {"orthogonal_map": "cayley", "nonlinearity": "tanh"}),
        (cr.URNN, {}),
        (cr.ENRNN, {}),
    ],
)
def test_what_is_rounded_in_a_file_does_not_add_up_over_time(cell, options, tmp_path):
    """The recurrence of a memory stays float32, whatever the type of the weights."""
    torch.manual_seed(0)
    model, x = cr.Recurrent(cell, 4, 16, batch_first=True, **options), torch.randn(1, 2000, 4)
    weights = "int8" if cell is cr.LMU else "int4"  # of which the nonlinear part has too few levels in int4
    report = cr.pack(model, tmp_path / "m.crnn", x[:, :50], weights=weights, calibration=[x[:, :50]])
    assert "float32" in report.reasons["cells.0.0.transition"]
    with torch.no_grad():
        wanted = model(x)[0][0]
    found = torch.from_numpy(cr.Engine(tmp_path / "m.crnn").run(x[0].numpy()))
    error = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=0.1)
    assert error[-200:].mean() < 0.2 and found.isfinite().all()


@pytest.mark.parametrize("kind, largest", [("exp", math.pi), ("exp", 0.5), ("cayley", math.pi / 2)])
def test_rotations_start_at_angles_up_to_the_largest(kind, largest):
    torch.manual_seed(0)
    cell = cr.cells.OrthogonalRNN(3, 200, orthogonal_map=kind, largest_angle=largest).double()
    angles = torch.linalg.eigvals(cell.transition().detach()).angle().abs()
    assert angles.max() <= largest + 1e-4 and angles.max() > 0.9 * largest and angles.min() < 0.1 * largest


@pytest.mark.parametrize("kind, angle", [("exp", 3.2), ("cayley", math.pi), ("exp", 0), ("exp", True), ("exp", "pi")])
def test_other_angles_are_refused(kind, angle):
    with pytest.raises(ValueError, match="largest_angle: expected above 0, at most pi"):
        cr.cells.OrthogonalRNN(3, 8, orthogonal_map=kind, largest_angle=angle)
