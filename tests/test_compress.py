"""Units whose outputs are not used are removed, and nothing else changes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import compactrnn as cr
from compactrnn.compress import GradualUnitPruning, Pruner
from compactrnn.compress.groups import Part
from compactrnn.testing import CompressorCase, CompressorContract
from scripts import example_module
from shapes import (
    SHAPES,
    BatchNormed,
    Bidirectional,
    Gated,
    Normed,
    Projected,
    Residual,
    Stacked,
    StepNormed,
    Tagger,
    Twice,
    example,
)

own_pruning = example_module("own_pruning")


def output(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def close(model, small, x, tolerance=1e-5):
    with torch.no_grad():
        a, b = output(copy.deepcopy(model).eval(), x), output(copy.deepcopy(small).eval(), x)
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * max(1.0, a.abs().max())


def train(model, x, pruner, steps, learning_rate=3e-3):
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    target = torch.randn_like(output(model, x))
    for _ in range(steps):
        loss = (output(model, x) - target).square().mean() + pruner.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    return optimizer, target


def sizes(report):
    return [layer.kept for layer in report.layers]


@pytest.mark.parametrize("shape", SHAPES)
def test_half_of_the_units_go_while_the_task_is_live(shape):
    torch.manual_seed(0)
    model = shape()
    x = example(model, batch=8)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=40)
    optimizer, target = train(model, x, pruner, 40)
    report = pruner.report()
    small = pruner.shrink(optimizer)
    units = sum(layer.units for layer in report.layers)
    assert sum(sizes(report)) <= 0.6 * units
    assert close(model, small, x)
    assert report.parameters[1] == sum(p.numel() for p in small.parameters()) < report.parameters[0]
    (output(small.train(), x) - target).square().mean().backward()
    optimizer.step()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in small.parameters()}


@pytest.mark.parametrize("shape", [s for s in SHAPES if s not in (Residual, Normed)])
def test_exactly_the_silenced_units_go(shape):
    """Units whose outgoing weights are zero are removed; tiny outgoing weights keep a unit."""
    torch.manual_seed(1)
    model = shape()
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    gone = {}
    for group in pruner.groups:
        silent = torch.randperm(group.count)[: group.count // 4]
        tiny = torch.randperm(group.count)[: group.count // 4]
        factors = torch.ones(group.count)
        factors[tiny] = 1e-20
        factors[silent] = 0
        group.decay_(factors)
        gone[group.name] = group.count // 4
    report = pruner.report()
    assert {layer.name: layer.units - layer.kept for layer in report.layers} == gone
    assert close(model, pruner.shrink(), x)


@pytest.mark.parametrize("shape", [Residual, Normed])
def test_units_whose_readers_are_unknown_go_only_when_written_as_zero(shape):
    model = shape()
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    (group,) = pruner.groups
    factors = torch.ones(16)
    factors[[1, 5]] = 0
    for part in group.readers:
        part.scale_(factors)
    assert sizes(pruner.report()) == [16]
    group.decay_(factors)
    assert sizes(pruner.report()) == [14]
    assert close(model, pruner.shrink(), x)


def settled(shape):
    """A model whose statistics and vectors all differ from their initial values."""
    torch.manual_seed(9)
    model = shape()
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


@pytest.mark.parametrize("shape", [BatchNormed, StepNormed])
def test_the_vectors_of_a_norm_are_cut_with_its_units(shape):
    model = settled(shape)
    x = example(model, 4)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    kept = {}
    for group in pruner.groups:
        factors = (torch.rand(group.count) > 0.5).float()
        group.decay_(factors)
        kept[group.name] = factors.bool()
    small = pruner.shrink()
    before, after = model.state_dict(), small.state_dict()
    for norm, name in (("norm", "one[0].h"), ("last_norm", "two[0].l" if shape is StepNormed else "two[0].h")):
        for vector in ("weight", "bias", "running_mean", "running_var"):
            if (key := f"{norm}.{vector}") in before:
                assert torch.equal(after[key], before[key][kept[name]])
    assert small.norm.weight.requires_grad and close(model, small, x)
    torch.testing.assert_close(small.train()(x), model.train()(x), rtol=1e-4, atol=1e-5)  # statistics are per unit


@pytest.mark.parametrize("shape", [BatchNormed, StepNormed])
def test_a_unit_that_is_zero_before_a_norm_is_still_heard_after_it(shape):
    model = settled(shape)
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    group = pruner.groups[0]
    factors = torch.ones(16)
    factors[[2, 3]] = 0
    for part in (*group.writers, *group.biases):
        part.scale_(factors)
    assert sizes(pruner.report())[0] == 16
    assert close(model, pruner.shrink(), x)


def test_a_norm_that_is_used_elsewhere_too_keeps_its_width():
    class Model(BatchNormed):
        def forward(self, x):
            return super().forward(x) + self.norm.weight.prod()

    model = settled(Model)
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    pruner.groups[0].decay_((torch.arange(16) < 8).float())
    small = pruner.shrink()
    assert small.one.layer.hidden_size == 8 and small.norm.num_features == 16
    assert close(model, small, x)


def test_a_model_that_is_not_to_shrink_stays_and_is_not_touched():
    model = Stacked()
    before = copy.deepcopy(model.state_dict())
    x = example(model)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=10)
    with pytest.warns(UserWarning, match="step 0 of 10"):
        small = pruner.shrink()
    assert sizes(pruner.report()) == [16, 16, 16]
    assert small is not model and close(model, small, x)
    assert type(model.lstm) is nn.LSTM
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_one_unit_a_layer_stays():
    model = Stacked()
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    for group in pruner.groups:
        group.decay_(torch.zeros(group.count))
    assert sizes(pruner.report()) == [1, 1, 1]
    assert close(model, pruner.shrink(), x)


def test_small_models_can_be_shrunk_again():
    torch.manual_seed(2)
    model = Residual()
    x = example(model)
    for keep in (12, 6):
        pruner = cr.GroupLasso(model, x, keep=keep / 16 if keep == 12 else keep / 12, steps=3)
        train(model, x, pruner, 3)
        small = pruner.shrink()
        assert close(model, small, x)
        model = small
    assert sizes(pruner.report()) == [6]


@given(st.integers(0, 2**31), st.sampled_from(SHAPES))
@settings(max_examples=15, deadline=None)
def test_any_set_of_silent_units_shrinks_exactly(seed, shape):
    torch.manual_seed(seed)
    model = shape()
    x = example(model)
    pruner = cr.GroupLasso(model, x, strength=0.0)
    for group in pruner.groups:
        group.decay_((torch.rand(group.count) > 0.4).float())
    assert close(model, pruner.shrink(), x)


def test_the_moments_are_cut_with_the_weights():
    torch.manual_seed(3)
    model = Tagger()
    x = example(model, 4)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=5)
    optimizer, _ = train(model, x, pruner, 5)
    old = optimizer.state[model.head.weight]["exp_avg"].clone()
    live = ~(model.head.weight == 0).all(0)
    small = pruner.shrink(optimizer)
    state = optimizer.state[small.head.weight]
    assert torch.equal(state["exp_avg"], old[:, live]) and state["step"] == 5


@pytest.mark.parametrize("spec", [cr.LowRank(rank=4), cr.Kronecker(out_block=4, in_block=2)])
@pytest.mark.parametrize("cell", ["LSTM", "MGU"])
def test_structured_weights_shrink(spec, cell):
    torch.manual_seed(4)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            if cell == "LSTM":
                self.rnn = cr.LSTM(6, 16, hidden_weight=spec, batch_first=True)
            else:
                self.rnn = cr.Recurrent(cr.MGU, 6, 16, hidden_weight=spec, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model = Model()
    x = torch.randn(4, 6, 6)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=10)
    train(model, x, pruner, 10)
    assert sizes(pruner.report()) == [8]
    assert close(model, pruner.shrink(), x)


def test_the_penalty_is_the_sum_of_group_norms():
    torch.manual_seed(5)
    lstm, head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = lstm, head

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model = Model()
    pruner = cr.GroupLasso(model, torch.randn(1, 3, 3), strength=0.7, loss_steps=35)
    wanted = 0.0
    for k in range(4):
        rows = [k, 4 + k, 8 + k, 12 + k]
        members = [lstm.weight_ih_l0[rows], lstm.weight_hh_l0[rows], lstm.weight_hh_l0[:, k], head.weight[:, k]]
        wanted = wanted + torch.cat([m.flatten() for m in members]).square().sum().sqrt()
    penalty = pruner.penalty()
    torch.testing.assert_close(penalty, 0.7 / 35 * wanted, rtol=1e-5, atol=1e-6)
    penalty.backward()
    assert lstm.bias_ih_l0.grad is None and lstm.weight_hh_l0.grad.abs().min() > 0


def test_a_strong_penalty_removes_units_as_in_the_paper():
    torch.manual_seed(6)
    model = Tagger()
    x = example(model, 8)
    pruner = cr.GroupLasso(model, x, strength=0.3, threshold=1e-2)
    train(model, x, pruner, 150, 1e-2)
    assert all(kept < 16 for kept in sizes(pruner.report()))
    assert close(model, pruner.shrink(), x)


def test_the_schedule_is_cubic_and_its_state_can_be_kept():
    torch.manual_seed(7)
    model = Stacked()
    x = example(model)
    pruner = cr.GroupLasso(model, x, keep=0.25, steps=8)
    for _ in range(4):
        pruner.step()
    assert pruner.fraction() == pytest.approx(0.25 + 0.75 * 0.5**3)
    twin = cr.GroupLasso(model, x, keep=0.25, steps=8)
    twin.load_state_dict(pruner.state_dict())
    assert twin.count == 4
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in pruner.state_dict().items())
    with pytest.raises(ValueError, match="pruner state"):
        twin.load_state_dict({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "keep"),
        ({"keep": 0.5}, "steps"),
        ({"keep": 0.0, "steps": 3}, "keep"),
        ({"keep": 0.5, "steps": 3, "strength": 1.0}, "strength"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"keep": 0.5, "steps": 3, "decay": 1.0}, "decay"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cr.GroupLasso(Twice(), example(Twice()), **options)


def test_report_names_readers_and_reasons():
    text = str(cr.GroupLasso(Bidirectional(), torch.randn(2, 5, 6), strength=0.0).report())
    assert "lstm[1].input" in text and "head.weight" in text and "recurrent parameters" in text
    assert "add" in str(cr.GroupLasso(Residual(), torch.randn(2, 5, 6), strength=0.0).report())


def test_a_part_counts_only_its_own_columns():
    part = Part(nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]])), 1, torch.tensor([1, -1, 0]))
    assert part.squares(2).tolist() == [9.0, 1.0]
    part.scale_(torch.tensor([0.0, 2.0]))
    assert part.matrix().tolist() == [[2.0, 2.0, 0.0]]


def test_gated_and_projected_layers_keep_their_width_outside():
    torch.manual_seed(8)
    for shape in (Gated, Projected):
        model = shape()
        x = example(model)
        pruner = cr.GroupLasso(model, x, keep=0.5, steps=2)
        train(model, x, pruner, 2)
        assert close(model, pruner.shrink(), x)


PRUNERS = {
    "group lasso, keep": CompressorCase(lambda m, x: cr.GroupLasso(m, x, keep=0.5, steps=5)),
    "group lasso, strength": CompressorCase(lambda m, x: cr.GroupLasso(m, x, strength=1.0, threshold=2e-2), 80, 1e-2),
    "gradual pruning": CompressorCase(lambda m, x: Pruner(m, x, GradualUnitPruning({"": 0.75, "gru": 0.25}, 5))),
    "neuron selection, keep": CompressorCase(lambda m, x: cr.NeuronSelection(m, x, keep=0.5, steps=20), 20),
    "neuron selection, bytes": CompressorCase(lambda m, x: cr.NeuronSelection(m, x, bytes=4000, steps=20), 25),
    "neuron selection, strength": CompressorCase(lambda m, x: cr.NeuronSelection(m, x, strength=0.3), 60, 5e-2),
    "magnitude": CompressorCase(lambda m, x: cr.Magnitude(m, cr.Sparse(keep=0.3), steps=5)),
    "gates": CompressorCase(lambda m, x: Pruner(m, x, own_pruning.NeuronGates(0.3)), 60, 5e-2),
}


@pytest.mark.parametrize("case", PRUNERS.values(), ids=PRUNERS)
class TestPruners(CompressorContract):
    pass
