"""Parameters that are shared before shrinking are shared after it."""

import pytest
import torch
from torch import nn

import compactrnn as cr
from cutting import assert_same, cut, kept, size


def share(one, other, names=None):
    for name in names or dict(one.named_parameters()):
        setattr(other, name, getattr(one, name))


class Both(nn.Module):
    """Two modules that hold the same parameters."""

    def __init__(self, names=None, kind="LSTM"):
        super().__init__()
        self.a, self.b = (getattr(nn, kind)(6, 16, batch_first=True) for _ in range(2))
        share(self.a, self.b, names)
        self.out = nn.Linear(32, 3)

    def forward(self, x):
        return self.out(torch.cat([self.a(x)[0], self.b(x.flip(1))[0].flip(1)], -1))


class Directions(nn.Module):
    """Both directions of a layer share their parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.GRU(6, 16, batch_first=True, bidirectional=True), nn.Linear(32, 3)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            setattr(self.a, f"{name}_reverse", getattr(self.a, name))

    def forward(self, x):
        return self.out(self.a(x)[0])


class Hidden(nn.Module):
    """One hidden-to-hidden matrix for two consecutive layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRU(6, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
        share(self.a, self.b, ["weight_hh_l0"])
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.b(self.a(x)[0])[0])


class Heads(nn.Module):
    """One matrix is applied to two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRU(6, 16, batch_first=True), nn.GRU(6, 16, batch_first=True)
        self.one, self.two = nn.Linear(16, 3), nn.Linear(16, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.one(self.a(x)[0]), self.two(self.b(x)[0])


class Structured(nn.Module):
    """Two layers share a Kronecker product, which becomes dense when units are removed."""

    def __init__(self):
        super().__init__()
        weight = cr.Kronecker(out_block=4, in_block=2)
        self.a, self.b = (cr.LSTM(6, 16, batch_first=True, hidden_weight=weight) for _ in range(2))
        self.b.weight_hh_l0 = self.a.weight_hh_l0
        self.out = nn.Linear(32, 3)

    def forward(self, x):
        return self.out(torch.cat([self.a(x)[0], self.b(x)[0]], -1))


class Tied(nn.Module):
    """The embedding is the output matrix."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(20, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 20)
        self.out.weight = self.emb.weight

    def forward(self, x):
        return self.out(self.rnn(self.emb((x[..., 0] * 5).abs().long() % 20))[0])


MODELS = [Both, lambda: Both(["weight_hh_l0"]), lambda: Both(kind="GRU"), Directions, Hidden, Heads, Tied]


def sharing(model):
    """Groups of names of shared parameters, without the position of a layer."""
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.replace("layer.", "").split(".inner")[0])
    return sorted(sorted(set(found)) for found in names.values() if len(set(found)) > 1)


@pytest.mark.parametrize("make", MODELS)
def test_what_is_shared_stays_shared_and_in_the_optimizer(make):
    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 7, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=3)
    for _ in range(4):
        outputs = model(x)
        loss = sum(y.square().mean() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step(optimizer)
    before = {tuple(names) for names in sharing(model)}
    small = pruner.shrink(optimizer)
    assert {tuple(names) for names in sharing(small)} == before
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in small.parameters()} == known
    assert all(left == units / 2 for left, units in kept(pruner).values())
    assert size(small) < size(model)
    model, small = (m.double() for m in (model, small))
    for other in (x, torch.randn(2, 3, 6)):
        old, new = (m(other.double()) for m in (model, small))
        torch.testing.assert_close(new, old, rtol=1e-6, atol=1e-6)


def test_units_of_one_parameter_go_together():
    pruner, small = cut(Both(), torch.randn(4, 7, 6))
    assert len(pruner.groups) == 1 and len(kept(pruner)) == 2
    assert small.a.weight_hh_l0 is small.b.weight_hh_l0


def test_parameters_that_would_be_cut_differently_are_named():
    """The first layer keeps all input columns, the second only those of the remaining units."""

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.rnn, self.out = nn.Linear(6, 16), nn.LSTM(16, 16, 2, batch_first=True), nn.Linear(16, 3)
            for name in ("weight_ih", "weight_hh"):
                setattr(self.rnn, f"{name}_l1", getattr(self.rnn, f"{name}_l0"))

        def forward(self, x):
            return self.out(self.rnn(self.enter(x))[0])

    with pytest.raises(cr.UnsupportedModelError, match=r"rnn\.weight_ih_l0 and rnn\.weight_ih_l1 are one parameter"):
        cr.GroupLasso(Stack(), torch.randn(4, 7, 6), strength=0.0)


@pytest.mark.parametrize("make", [Both, Structured])
def test_a_model_with_shared_parameters_is_exact(make):
    torch.manual_seed(0)
    model = make()
    _, small = cut(model, torch.randn(4, 7, 6))
    assert_same(model, small, (torch.randn(2, 3, 6),))
    assert small.a.weight_hh_l0 is small.b.weight_hh_l0


RANK = cr.LowRank(rank=4)


class OwnFactor(nn.Module):
    """Low-rank layers; the projection of the first layer's units is shared with the layer that reads them."""

    def __init__(self):
        super().__init__()
        self.a = cr.LSTM(6, 16, 2, batch_first=True, hidden_weight=RANK, input_weight=RANK)
        self.a.weight_ih_l1.right = self.a.weight_hh_l0.right
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.a(x)[0])


class HiddenFactor(nn.Module):
    """Two consecutive layers that share the right factor of their hidden-to-hidden matrices."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (cr.GRU(n, 16, batch_first=True, hidden_weight=RANK) for n in (6, 16))
        self.b.weight_hh_l0.right = self.a.weight_hh_l0.right
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.b(self.a(x)[0])[0])


class LeftFactor(nn.Module):
    """Two parallel layers that share the left factor of their input matrices."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (cr.GRU(6, 16, batch_first=True, input_weight=RANK) for _ in range(2))
        self.b.weight_ih_l0.left = self.a.weight_ih_l0.left
        self.out = nn.Linear(32, 3)

    def forward(self, x):
        return self.out(torch.cat([self.a(x)[0], self.b(x)[0]], -1))


class NextFactor(nn.Module):
    """The second layer reads the first through the first's own recurrent projection."""

    def __init__(self):
        super().__init__()
        self.a = cr.Recurrent(cr.MGU, 6, 16, batch_first=True, hidden_weight=RANK)
        self.b = cr.LSTM(16, 16, batch_first=True, input_weight=RANK)
        cell = self.a.cells[0][0]
        cell.candidate.right = cell.forget.right
        self.b.weight_ih_l0.right = cell.forget.right
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.b(self.a(x)[0])[0])


FACTORS = [OwnFactor, HiddenFactor, LeftFactor, NextFactor]


@pytest.mark.parametrize("make", FACTORS)
def test_a_shared_factor_stays_one_parameter_with_one_state(make, tmp_path):
    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 7, 6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=3)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        pruner.step(optimizer)
    before = sharing(model)
    assert before
    names = {name: parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    moments = {name: optimizer.state[parameter]["exp_avg"].clone() for name, parameter in names.items()}
    small = pruner.shrink(optimizer)
    assert sharing(small) == before
    assert all(left == units / 2 for left, units in kept(pruner).values())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in small.parameters()}
    assert len(optimizer.state) == len(list(small.parameters())) == len(list(model.parameters()))
    for name, parameter in small.named_parameters(remove_duplicate=False):
        state = optimizer.state[parameter]["exp_avg"]
        assert state.shape == parameter.shape and torch.isin(state, moments[name]).all()
    assert_same(model, small, (x,), (torch.randn(2, 3, 6),))
    cr.save(small, tmp_path)
    again = cr.load(tmp_path, make)
    assert sharing(again) == before and torch.equal(again(x), small(x))
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    assert sharing(pruner.plan().apply(fresh)) == before
    smaller = cr.GroupLasso(again, x, keep=0.5, steps=1)
    smaller.step()
    assert sharing(smaller.shrink()) == before


def test_a_shared_factor_is_scaled_once():
    model = OwnFactor()
    pruner = cr.GroupLasso(model, torch.randn(2, 3, 6), strength=0.0)
    before = model.a.weight_hh_l0.right.detach().clone()
    pruner.groups[0].decay_(torch.full((16,), 0.5))
    assert torch.equal(model.a.weight_hh_l0.right, before / 2)


def test_a_whole_weight_of_cells_that_becomes_dense_stays_shared():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            weight = cr.Kronecker(out_block=4, in_block=2)
            self.a, self.b = (cr.Recurrent(cr.MGU, 6, 16, batch_first=True, hidden_weight=weight) for _ in range(2))
            for name in ("forget", "candidate"):
                setattr(self.b.cells[0][0], name, getattr(self.a.cells[0][0], name))
            self.out = nn.Linear(32, 3)

        def forward(self, x):
            return self.out(torch.cat([self.a(x)[0], self.b(x)[0]], -1))

    torch.manual_seed(0)
    model = Model()
    _, small = cut(model, torch.randn(4, 7, 6))
    one, other = small.a.cells[0][0], small.b.cells[0][0]
    assert one.forget.weight is other.forget.weight and one.candidate.weight is other.candidate.weight
    assert_same(model, small, (torch.randn(2, 3, 6),))


def test_a_factor_of_weights_that_become_dense_is_not_shared_any_more():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            weight = cr.Kronecker(out_block=4, in_block=2)
            self.a, self.b = (cr.LSTM(6, 16, batch_first=True, hidden_weight=weight) for _ in range(2))
            self.b.weight_hh_l0.right = self.a.weight_hh_l0.right
            self.out = nn.Linear(32, 3)

        def forward(self, x):
            return self.out(torch.cat([self.a(x)[0], self.b(x)[0]], -1))

    torch.manual_seed(0)
    model = Model()
    _, small = cut(model, torch.randn(4, 7, 6))
    assert all(isinstance(m.weight_hh_l0, nn.Parameter) and m.hidden_size < 16 for m in (small.a, small.b))
    assert_same(model, small, (torch.randn(2, 3, 6),))
