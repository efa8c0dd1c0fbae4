"""Cells that Python code repeats lose units exactly, or keep their width outside."""

import copy
import warnings

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.compress.scatter import AbstractScattered
from compactrnn.layers import is_cell
from loops import LOOPS, WRITTEN_OUT, Attending, Stateful, Written


def output(model, x):
    y = model(x)
    return y if isinstance(y, torch.Tensor) else y[0]


def outer(model):
    """The cells as the code of the model sees them."""
    inside = {m.layer for m in model.modules() if isinstance(m, AbstractScattered)}
    found = [m for m in model.modules() if (is_cell(m) and m not in inside) or isinstance(m, AbstractScattered)]
    return [m.hidden_size for m in found]


def inner(model):
    return [m.hidden_size for m in model.modules() if is_cell(m)]


def assert_same(model, small, x, tolerance=1e-5):
    with torch.no_grad():
        a, b = output(model.eval(), x), output(small.eval(), x)
    model.train()
    small.train()
    torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)


def train(model, pruner, x, steps):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = output(model, x).square().mean() + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    return optimizer


METHODS = {
    "lasso": lambda model, x: cr.GroupLasso(model, x, keep=0.5, steps=4, decay=0.0),
    "selection": lambda model, x: cr.NeuronSelection(model, x, keep=0.5, steps=10),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", LOOPS, ids=lambda shape: shape.__name__)
def test_a_loop_over_cells_gets_smaller_and_stays_the_same(shape, method, tmp_path):
    torch.manual_seed(0)
    model, x = shape(), torch.randn(3, 3, 6)
    wide = [m.hidden_size for m in model.modules() if is_cell(m)]
    pruner = METHODS[method](model, x)
    optimizer = train(model, pruner, x, pruner.method.steps)
    plan = pruner.plan()
    small = pruner.shrink(optimizer)
    longer = torch.randn(2, 5, 6)
    for given in (x, longer, longer[:1]):
        assert_same(model, small, given)
    assert sum(inner(small)) < sum(wide)  # gates keep a half of all layers together
    if method == "lasso":
        assert outer(small) == LOOPS[shape] and inner(small) == [n // 2 for n in wide]
    assert all(type(m) in (nn.LSTMCell, nn.GRUCell, nn.RNNCell) for m in small.modules() if is_cell(m))
    assert sum(p.numel() for p in small.parameters()) == plan.parameters[1] < plan.parameters[0]

    applied = cr.PruningPlan.from_json(plan.to_json()).apply(model)
    cr.save(small, tmp_path / "once")
    again = cr.load(tmp_path / "once", shape)
    cr.save(again, tmp_path / "twice")
    for other in (applied, again, cr.load(tmp_path / "twice", shape)):
        have, wanted = dict(other.named_parameters()), dict(small.named_parameters())
        assert have.keys() == wanted.keys() and all(torch.equal(have[name], wanted[name]) for name in wanted)
        assert torch.equal(output(other.eval(), longer), output(small.eval(), longer))

    output(small.train(), x).square().mean().backward()
    optimizer.step()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in small.parameters()}


@pytest.mark.parametrize("shape", [s for s, widths in LOOPS.items() if 16 not in widths], ids=lambda s: s.__name__)
def test_a_loop_shrinks_in_place(shape):
    torch.manual_seed(1)
    model, x = shape(), torch.randn(3, 3, 6)
    pruner = cr.GroupLasso(model, x, keep=0.25, steps=6, decay=0.0)
    optimizer = train(model, pruner, x, 3)
    before = output(copy.deepcopy(model).eval(), x)
    assert pruner.shrink_(optimizer) > 0
    torch.testing.assert_close(output(copy.deepcopy(model).eval(), x), before, rtol=1e-5, atol=1e-5)
    for _ in range(3):
        output(model, x).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    small = pruner.shrink(optimizer)
    assert_same(model, small, x)
    assert sum(inner(small)) == sum(m.hidden_size for m in shape().modules() if is_cell(m)) // 4


def sizes(model, names):
    found = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        found[name] = getattr(model.get_submodule(path), attribute)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", WRITTEN_OUT, ids=lambda shape: shape.__name__)
def test_a_recurrence_that_is_written_out_gets_smaller_and_stays_the_same(shape, method, tmp_path):
    torch.manual_seed(0)
    size, wide = WRITTEN_OUT[shape]
    model, x = shape(), torch.randn(size)
    assert sizes(model, wide) == wide
    pruner = METHODS[method](model, x)
    optimizer = train(model, pruner, x, pruner.method.steps)
    plan = pruner.plan()
    small = pruner.shrink(optimizer)
    assert_same(model, small, x)
    assert_same(model, small, torch.randn(1, 5, *size[2:]))
    if method == "lasso":
        assert sizes(small, wide) == {name: n // 2 for name, n in wide.items()}
    cr.save(small, tmp_path)
    for other in (cr.PruningPlan.from_json(plan.to_json()).apply(model), cr.load(tmp_path, shape)):
        assert torch.equal(other.eval()(x), small.eval()(x)) and sizes(other, wide) == sizes(small, wide)
    small.train()(x).square().mean().backward()
    optimizer.step()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in small.parameters()}


@pytest.mark.parametrize(
    ("state", "result", "words"),
    [
        (lambda x, m: x.new_zeros(len(x), 8), lambda m, h: m.head(h), "What is cut are units of.*from an attribute"),
        (lambda x, m: x.new_zeros(len(x), m.n), lambda m, h: (m.head(h), h), "of_h: the model's output"),
        (lambda x, m: x[:, 0].repeat(1, 2)[:, : m.n], lambda m, h: m.head(h), "several uses|What is cut"),
        (lambda x, m: x.new_zeros(len(x), m.n), lambda m, h: m.head(h.softmax(1)), "of_h: the model: softmax"),
        (lambda x, m: x.new_zeros(len(x), m.n), lambda m, h: m.head(h.sort(1).values), "of_h: the model: sort"),
    ],
)
def test_a_recurrence_that_is_written_out_and_cannot_be_narrower_is_refused(state, result, words):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.n, self.of_x, self.of_h, self.head = 8, nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            h = state(x, self)
            for t in range(x.shape[1]):
                h = torch.tanh(self.of_x(x[:, t]) + self.of_h(h))
            return result(self, h)

    with pytest.raises(cr.UnsupportedModelError, match=words):
        cr.GroupLasso(Own(), torch.randn(3, 3, 6), keep=0.5, steps=1)


def test_a_long_loop_whose_states_meet_in_several_ways_is_followed_in_time():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(6, 8), nn.Linear(8, 4)
            self.scale = nn.Parameter(torch.rand(1))

        def forward(self, x):
            h = c = x.new_zeros(len(x), self.cell.hidden_size)
            for t in range(x.shape[1]):
                new, c = self.cell(x[:, t], (h, c))
                h = 0.5 * new + 0.2 * self.scale * (h * 0.3 + h * 0.7)
            return self.head(h)

    torch.manual_seed(6)
    model, x = Crossed(), torch.randn(2, 30, 6)  # 2 ** 30 paths
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1, decay=0.0)
    pruner.step()
    small = pruner.shrink()
    assert outer(small) == [4]
    assert_same(model, small, x)


def test_a_state_may_be_given_back_in_its_old_width():
    torch.manual_seed(2)
    model, x = Stateful(), torch.randn(3, 4, 6)
    pruner = cr.GroupLasso(model, x, keep=0.25, steps=1, decay=0.0)
    pruner.step()
    small = pruner.shrink()
    given = torch.randn(3, 16), torch.randn(3, 16)
    for state in (None, given):
        wanted, (h, c) = model(x, state)
        first, last = small(x[:, :1], state)
        rest, (h_small, c_small) = small(x[:, 1:], last)
        for a, b in ((torch.cat([first, rest], 1), wanted), (h_small, h), (c_small, c)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    alone = small(x[0, 0][None, None], (given[0][:1], given[1][:1]))[0]
    torch.testing.assert_close(alone, model(x[:1, :1], (given[0][:1], given[1][:1]))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keeps_width", [False, True])
def test_a_shrunk_loop_is_packed_as_one_step(keeps_width, tmp_path):
    class Step(nn.Module):
        def __init__(self, loop):
            super().__init__()
            self.loop = loop

        def forward(self, x, h, c):
            h, c = self.loop.cell(x, (h, c))
            return self.loop.head(h), h, c

    torch.manual_seed(5)
    model, x = (Stateful if keeps_width else Written)(), torch.randn(1, 7, 6)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1, decay=0.0)
    pruner.step()
    small = pruner.shrink().eval()
    zeros = torch.zeros(1, small.cell.hidden_size)
    cr.pack(Step(small), tmp_path / "step.crnn", (x[:, 0], zeros, zeros), weights="float32", states=["h", "c"])
    ys = torch.from_numpy(cr.Engine(tmp_path / "step.crnn").run(x[0].numpy()))
    torch.testing.assert_close(ys[None], output(model.eval(), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_cell_alone_keeps_its_width(kind, batch):
    torch.manual_seed(3)
    cell, x, h = kind(6, 8), torch.randn(*batch, 6), torch.randn(*batch, 8)
    state = (h, torch.randn_like(h)) if kind is nn.LSTMCell else h
    pruner = cr.GroupLasso(cell, (x, state), keep=0.5, steps=1, decay=0.0)
    pruner.step()
    small = pruner.shrink()
    assert small.layer.hidden_size == 4
    for given in ((x, state), (x,)):
        torch.testing.assert_close(small(*given), cell(*given), rtol=1e-5, atol=1e-6)


def test_single_weights_are_pruned_around_a_cell_and_the_report_says_so():
    torch.manual_seed(4)
    model, x = Attending(), torch.randn(3, 3, 6)
    before = [p.clone() for p in model.cell.parameters()]
    pruner = cr.Magnitude(model, cr.Sparse(keep=0.5), steps=4)
    pruner.step()
    for _ in range(3):
        pruner.step()
    report = {row.names: row for row in pruner.report().matrices}
    assert "nn.LSTMCell takes plain matrices only; nn.LSTM" in report["cell.weight_hh",].reason
    assert report["query",].reason == ""
    small = pruner.shrink()
    assert_same(model, small, x)
    assert all(map(torch.equal, small.cell.parameters(), before))
    with pytest.raises(ValueError, match=r"cell.weight_ih.*must stay: nn.LSTMCell takes plain matrices only"):
        cr.Magnitude(Attending(), {"cell.weight_ih": cr.Sparse(keep=0.5)}, steps=4)


def test_what_a_loop_starts_from_is_left_whole_where_it_is_frozen_or_used_otherwise():
    class Fixed(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.start, self.cell, self.head = nn.Linear(6, 16), nn.GRUCell(6, 16), nn.Linear(16, 4)
            self.shared = shared
            self.start.requires_grad_(shared)

        def forward(self, x):
            h = self.start(x[:, 0])
            other = self.start(x[:, 1]).softmax(-1) if self.shared else 0.0
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.head(h) + (other.sum() if self.shared else 0.0)

    for shared in (True, False):
        model, x = Fixed(shared), torch.randn(3, 3, 6)
        pruner = cr.GroupLasso(model, x, keep=0.5, steps=1, decay=0.0)
        pruner.step()
        small = pruner.shrink()
        assert small.start.out_features == 16 and inner(small) == [8] and outer(small) == [16]
        assert_same(model, small, x)


def test_a_width_that_code_reads_for_two_things_stays():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.n, self.cell, self.head = 16, nn.GRUCell(6, 16), nn.Linear(16, 4)

        def forward(self, x):
            h = x.new_zeros(len(x), self.n)
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return self.head(h) / self.n**0.5

    model, x = Scaled(), torch.randn(3, 3, 6)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1, decay=0.0)
    pruner.step()
    small = pruner.shrink()
    assert small.n == 16 and inner(small) == [8] and outer(small) == [16]
    assert_same(model, small, x)


def test_what_is_noted_of_a_loop_does_not_grow_with_its_steps():
    from compactrnn.graph.follow import follow
    from compactrnn.graph.units import find_units

    model = Attending()
    found = []
    for steps in (3, 9):
        traced = follow(model, torch.randn(2, steps, 6))
        units = find_units(traced, traced.example.tensors)
        found.append([len(u) for u in (units.uses, units.makers, units.layer_inputs, units.scalings)])
    assert found[0] == found[1]


def test_a_model_of_other_sizes_is_not_filled(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, x = Attending(), torch.randn(3, 3, 6)
        pruner = cr.GroupLasso(model, x, keep=0.5, steps=1, decay=0.0)
        pruner.step()
        cr.save(pruner.shrink(), tmp_path)
    with pytest.raises(ValueError, match=r"h0.out_features: expected 16, as its code built it, got 20"):
        cr.load(tmp_path, lambda: Attending(20))
