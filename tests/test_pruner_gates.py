"""Trainable gates multiply units wherever they are used, in any weight, and are folded into the shrunk model."""

import copy
import warnings

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.compress import Pruner
from compactrnn.compress.gates import AbstractGate
from compactrnn.compress.groups import Part
from cutting import assert_same
from scripts import example_module
from shapes import SHAPES, Residual, Stacked, Tagger, example

NeuronGates = example_module("own_pruning").NeuronGates


def output(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


class Fixed(AbstractGate):
    """Gates of constant value."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self):
        return self.values


class Gates(NeuronGates):
    """Some units open, some closed, some half open."""

    def __init__(self):
        super().__init__(0.0)

    def new_gate(self, group):
        values = torch.rand(group.count, generator=torch.Generator().manual_seed(0)) + 0.5
        values[::3] = 0
        return Fixed(values)


class Structured(nn.Module):
    def __init__(self, hidden, given):
        super().__init__()
        self.one = cr.LSTM(6, 16, 2, batch_first=True, hidden_weight=hidden, input_weight=given)
        self.two = cr.Recurrent(cr.MGU, 16, 16, batch_first=True, hidden_weight=hidden)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.two(self.one(x)[0])[0])


STRUCTURED = {
    "low rank": lambda: Structured(cr.LowRank(rank=4), cr.LowRank(rank=3)),
    "Kronecker": lambda: Structured(cr.Kronecker(out_block=4, in_block=2), cr.Dense()),
}


class Sharing(nn.Module):
    """One hidden-to-hidden matrix for two consecutive layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRU(6, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.b.weight_hh_l0 = self.a.weight_hh_l0
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.b(self.a(x)[0])[0])


MODELS = {shape.__name__: shape for shape in SHAPES} | STRUCTURED | {"sharing": Sharing}


@pytest.mark.parametrize("name", ["Stacked", "Attention", "low rank", "sharing", "Independent"])
def test_a_gated_model_can_be_copied_at_any_time(name):
    """As it is for an average of the weights, or to keep the best model."""
    torch.manual_seed(0)
    model = MODELS[name]()
    x = example(model)
    Pruner(model, x, Gates())
    output(model, x).square().sum().backward()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    twin = copy.deepcopy(copy.deepcopy(model))
    assert torch.equal(output(twin, x), output(model, x)) and torch.equal(output(average, x), output(model, x))
    gradients = {n: p.grad for n, p in model.named_parameters()}
    twin.zero_grad()
    output(twin, x).square().sum().backward()
    for n, p in twin.named_parameters():
        torch.testing.assert_close(p.grad, gradients[n])
        p.data.zero_()
    assert output(model, x).any()


@pytest.mark.parametrize("name", MODELS)
def test_closed_units_go_and_the_others_take_their_gates_along(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    x = example(model)
    plain = copy.deepcopy(model)
    pruner = Pruner(model, x, Gates())
    known = {id(p) for p in plain.parameters()}
    assert not known & {id(p) for p in model.parameters()}
    report, small = pruner.report(), pruner.shrink()
    units = sum(layer.units for layer in report.layers)
    assert sum(layer.kept for layer in report.layers) <= 0.7 * units
    for inputs in (x, example(model, 3, 5)):
        torch.testing.assert_close(output(small.eval(), inputs), output(model.eval(), inputs), rtol=1e-5, atol=1e-5)
    assert not any("values" in n or "parametrizations" in n for n in small.state_dict())
    assert report.parameters == (sum(p.numel() for p in plain.parameters()), sum(p.numel() for p in small.parameters()))
    if name == "sharing":
        assert small.a.weight_hh_l0 is small.b.weight_hh_l0
    if name == "low rank":
        assert type(small.one.weight_hh_l0).__name__ == "LowRankWeight"
    with torch.no_grad():  # the gates matter: without them the outputs are others
        assert not torch.allclose(output(plain.eval(), x), output(small, x), atol=1e-3)


@pytest.mark.parametrize("make", [Stacked, Residual, *STRUCTURED.values(), Sharing])
def test_gates_are_trained_and_the_optimizer_goes_on(make, tmp_path):
    torch.manual_seed(0)
    model = make()
    x = example(model, 4)
    pruner = Pruner(model, x, NeuronGates(3.0))
    optimizer = torch.optim.Adam(model.parameters(), 5e-2)
    before = [g.gate.log_alpha.detach().clone() for g in pruner.groups]
    for _ in range(60):
        optimizer.zero_grad()
        ((model(x) - 1).square().mean() + pruner.penalty()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        pruner.step(optimizer)
    assert all(not torch.equal(g.gate.log_alpha, b) for g, b in zip(pruner.groups, before, strict=True))
    layers = pruner.report().layers
    assert sum(layer.kept for layer in layers) < sum(layer.units for layer in layers)
    small = pruner.shrink(optimizer)
    torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in small.parameters()}
    if make is Stacked:
        assert all(p in optimizer.state for p in small.parameters())
    cr.save(small, tmp_path)
    again = cr.load(tmp_path, make)
    ours, theirs = again.state_dict(), small.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    optimizer.zero_grad()
    small(x).square().mean().backward()
    optimizer.step()


def test_moments_of_a_gated_parameter_are_those_of_its_original():
    model = Tagger()
    x = example(model)
    pruner = Pruner(model, x, Gates())
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "values" not in n], 1e-3)
    model(x)[0].mean().backward()
    optimizer.step()
    original = model.head.parametrizations.weight.original
    kept = pruner.groups[1].gate().nonzero().flatten()
    moments = optimizer.state[original]["exp_avg"].clone()
    small = pruner.shrink(optimizer)
    assert torch.equal(optimizer.state[small.head.weight]["exp_avg"], moments[:, kept])


def test_one_sample_for_each_step():
    torch.manual_seed(0)
    model = Stacked()
    x = example(model)
    pruner = Pruner(model, x, NeuronGates(0.1))
    first, again = model(x), model(x)
    assert torch.equal(first, again)
    pruner.step()
    assert not torch.equal(model(x), first)
    assert torch.equal(model.eval()(x), model(x)) and not torch.equal(model(x), first)


def test_an_optimizer_without_the_gates_is_refused():
    model = Stacked()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, example(model), NeuronGates(0.1))
    with pytest.raises(ValueError, match=r"without the gate of lstm\[0\].h.*after the pruner"):
        pruner.step(optimizer)
    assert pruner.count == 0


def test_excluded_and_frozen_layers_have_no_gate():
    model = Stacked()
    model.lstm.weight_hh_l2.requires_grad_(False)
    pruner = Pruner(model, example(model), NeuronGates(0.1), exclude=["lstm[0]"])
    assert [group.gate is not None for group in pruner.groups] == [False, True, False]
    assert [layer.left_alone for layer in pruner.report().layers] == ["excluded", "", "frozen"]


def test_importance_and_group_lasso_see_gated_weights():
    """Methods compose: the gates of one are weights to the next."""
    model = Stacked()
    x = example(model)
    gated = Pruner(model, x, Gates())
    second = cr.GroupLasso(model, x, keep=0.5, steps=1)
    group = second.groups[0]
    assert group.gate is gated.groups[0].gate and (group.importance()[::3] == 0).all()
    second.step()
    small = second.shrink()
    assert small.lstm.hidden_size == 8
    assert_same(model, small, (x,))


def test_a_gate_may_belong_to_rows_of_one_part():
    model = nn.Sequential(nn.Linear(3, 4))
    part = Part(model[0].weight, 0, torch.tensor([1, -1, 0, 1]))
    gate = Fixed(torch.tensor([2.0, 0.5]))
    before = model[0].weight.detach().clone()
    part.gate_(model, gate, torch.tensor([True, True]))
    assert torch.equal(model[0].weight, before * torch.tensor([0.5, 1, 2, 0.5])[:, None])
    model[0].weight.sum().backward()
    assert gate.values.grad is not None


def test_a_gate_on_one_of_two_weights_with_a_common_factor_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = cr.LSTM(16, 16, 2, batch_first=True, hidden_weight=cr.LowRank(rank=4))
            self.rnn.weight_hh_l1.right = self.rnn.weight_hh_l0.right
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    with pytest.raises(cr.UnsupportedModelError, match="shares a factor with another weight"):
        Pruner(Model(), torch.randn(2, 5, 16), Gates())


def test_a_gated_cell_stays_in_the_native_loop():
    torch.manual_seed(0)
    model = STRUCTURED["low rank"]()
    Pruner(model, example(model), NeuronGates(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = model(example(model))
    assert [r.kinds for r in cr.loop_report(model)][-1] == ("native",) and fast.requires_grad
