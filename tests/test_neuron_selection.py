"""Neuron selection comes to the size that was asked for; its expected sizes are those of the models that are cut."""

import math
import warnings

import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.compress.expected_size import ExpectedSize
from compactrnn.compress.hard_concrete import HardConcrete
from compactrnn.compress.l0_selection import L0Selection
from compactrnn.compress.sizes import counts
from shapes import SHAPES, example


def output(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def train(model, x, pruner, steps, optimizer):
    target = torch.randn_like(output(model, x))
    for _ in range(steps):
        loss = (output(model, x) - target).square().mean() + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)


class Tower(nn.Module):
    """Layers of unequal sizes and kinds."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(6, 48, batch_first=True)
        self.second = nn.GRU(48, 32, 2, batch_first=True, bidirectional=True)
        self.third = cr.LSTM(64, 24, batch_first=True, input_weight=cr.LowRank(rank=8))
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x)[0])[0])[0])


def test_the_chance_to_be_active_is_that_of_the_samples():
    torch.manual_seed(0)
    gate = HardConcrete(4)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-3.0, -1.0, 0.5, 3.0]))
    drawn = []
    for _ in range(4000):
        gate.draw_()
        drawn.append(gate() > 0)
    found = torch.stack(drawn).float().mean(0)
    torch.testing.assert_close(found, gate.active(), rtol=0, atol=4 * math.sqrt(0.25 / 4000))
    assert gate.eval()().tolist()[0] == 0 and gate()[3] == 1


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize("make", [Tower, *SHAPES], ids=lambda make: make.__name__)
def test_expected_sizes_of_certain_units_are_those_of_the_cut_model(make, kind):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(2, 5, 6) if make is Tower else example(model)
    pruner = cr.NeuronSelection(model, x, keep=0.5, steps=1)
    groups = [g for g in pruner.groups if not g.left_alone]
    parameters, _, macs = counts(model)
    sizes = ExpectedSize(kind, groups, macs if kind == "macs" else parameters)
    kept = [torch.rand(g.count) > 0.4 for g in groups]
    for group, mask in zip(groups, kept, strict=True):
        mask[0] = True
        group.gate.settle_(mask)
    expected = float(sizes.of([mask.float() for mask in kept]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = pruner.shrink()
        scattered = any(layer.scattered for layer in pruner.plan().layers)
    after = counts(small)
    with torch.no_grad():
        torch.testing.assert_close(output(small, x), output(model, x), rtol=1e-5, atol=1e-5)
    if not scattered:  # else consumers keep their width
        assert after[2 if kind == "macs" else 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("size", [{"keep": 0.3}, {"macs": 6000}, {"bytes": 60_000}])
def test_the_size_that_is_asked_for_is_met(size, make):
    torch.manual_seed(0)
    model, x = Tower(), torch.randn(4, 8, 6)
    units = 48 + 2 * 32 + 24  # a unit of a bidirectional layer is one of each direction
    pruner = cr.NeuronSelection(model, x, **size, steps=60)
    train(model, x, pruner, 60, make(model.parameters(), 1e-2))
    parameters, _, macs = counts(pruner.shrink())
    (name, wanted), left = next(iter(size.items())), [len(u.kept) for u in pruner.plan().units]
    got = {"keep": sum(left) / units, "macs": macs, "bytes": 4 * parameters}[name]
    assert 0.97 * wanted <= got <= wanted


def test_the_size_is_met_where_gates_are_equal():
    """As those are that have come to their bound: one unit of each layer is certain to stay, not all that are equal."""
    torch.manual_seed(0)
    model, x = Tower(), torch.randn(4, 8, 6)
    pruner = cr.NeuronSelection(model, x, macs=6000, steps=1)
    for group in pruner.groups:
        group.gate.position.fill_(-9.0)
    model(x).square().mean().backward()
    pruner.step()
    assert 0.97 * 6000 <= counts(pruner.shrink())[2] <= 6000


def test_the_size_follows_the_schedule():
    torch.manual_seed(0)
    model, x = Tower(), torch.randn(4, 8, 6)
    pruner = cr.NeuronSelection(model, x, macs=6000, steps=400)
    optimizer, method = torch.optim.Adam(model.parameters(), 1e-3), pruner.method
    found = {}
    for count in range(1, 401):
        train(model, x, pruner, 1, optimizer)
        if count in (40, 280, 399):
            found[count] = float(method.expected_size(pruner.groups).detach()) / method.total
    final = 6000 / method.total
    assert found[40] > 0.85 and method.scheduled(40) == 1 and method.scheduled(280) == pytest.approx(final)
    assert found[280] == pytest.approx(final, rel=0.35) and found[399] == pytest.approx(final, rel=0.1)


def test_units_that_matter_stay():
    """The outputs are to stay what they are; half of the units have a hundredth of the others' outgoing weights."""
    torch.manual_seed(0)
    model = Tower()
    with torch.no_grad():
        model.third.weight_hh_l0[:, ::2] *= 0.01
        model.head.weight[:, ::2] *= 0.01
    x = torch.randn(16, 8, 6)
    wanted = model(x).detach()
    pruner = cr.NeuronSelection(model, x, keep=0.5, steps=200, exclude=["first", "second"])
    for _ in range(200):
        model.zero_grad()
        (model(x) - wanted).square().mean().backward()
        pruner.step()
    kept = next(unit.kept for unit in pruner.plan().units if unit.path == "third")
    assert len(kept) == 12 and sum(k % 2 for k in kept) >= 9


def test_a_stopped_training_goes_on_exactly():
    results = []
    for stop in (False, True):
        torch.manual_seed(0)
        model, x = Tower(), torch.randn(4, 8, 6)
        pruner = cr.NeuronSelection(model, x, macs=6000, steps=20)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for count in range(20):
            torch.manual_seed(count)
            if stop and count == 9:
                saved = model.state_dict(), pruner.state_dict(), optimizer.state_dict()
                model = Tower()
                pruner = cr.NeuronSelection(model, x, macs=6000, steps=20)
                optimizer = torch.optim.Adam(model.parameters(), 1e-2)
                for part, state in zip((model, pruner, optimizer), saved, strict=True):
                    part.load_state_dict(state)
                torch.manual_seed(count)
            train(model, x, pruner, 1, optimizer)
        results.append(pruner.shrink().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "expected one of keep, macs, bytes .* got none"),
        ({"keep": 0.5, "macs": 10, "steps": 3}, "got keep, macs"),
        ({"keep": 0.5}, "steps: expected steps, a positive int, with a size, got None"),
        ({"strength": 0.1, "steps": 3}, "expected no steps with a strength"),
        ({"keep": 1.5, "steps": 3}, r"keep: expected a fraction of the units in \(0, 1\]"),
        ({"keep": 0.5, "steps": 0}, "steps"),
        ({"strength": -1.0}, "strength: expected a number >= 0"),
        ({"macs": 10**9, "steps": 3}, "macs: expected less than the model has"),
        ({"macs": 1, "steps": 3}, "macs: expected at least .*, which one unit in each layer has"),
        ({"bytes": 8, "steps": 3}, "bytes: expected at least"),
        ({"keep": 0.5, "steps": 3, "exclude": ["nothing"]}, "nothing"),
    ],
)
def test_bad_arguments_change_nothing(options, message):
    model = Tower()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        cr.NeuronSelection(model, torch.randn(1, 3, 6), **options)
    assert list(model.state_dict()) == before


def test_frozen_and_excluded_layers_keep_their_units():
    torch.manual_seed(0)
    model, x = Tower(), torch.randn(2, 5, 6)
    model.third.requires_grad_(False)
    pruner = cr.NeuronSelection(model, x, keep=0.4, steps=30, exclude=["first"])
    assert isinstance(pruner.method, L0Selection)
    train(model, x, pruner, 30, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2))
    kept = {unit.path: len(unit.kept) for unit in pruner.plan().units}
    assert kept["first"] == 48 and kept["third"] == 24 and kept["second"] < 32
