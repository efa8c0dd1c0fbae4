"""Factorized models: the same outputs at full rank, the promised error below it, and the size that was asked for."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import compactrnn as cr
from compactrnn.compress.moments import input_moments
from compactrnn.compress.rank_choice import Choice, choose_ranks
from compactrnn.layers.matrices import matrices
from compactrnn.weights.low_rank import LowRankWeight, principal_factors

X = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(40, (3, 7), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Any layers over features or tokens, and a linear layer on all that the last of them gives."""

    def __init__(self, *layers, width, table=None):
        super().__init__()
        self.table = nn.Embedding(40, 12, padding_idx=table) if table is not None else None
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, 40)

    def forward(self, x):
        x = x if self.table is None else self.table(x)
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(x)


class Tied(Net):
    """The output layer has the embedding's table."""

    def __init__(self):
        super().__init__(nn.LSTM(12, 12, batch_first=True), width=12, table=0)
        self.head.weight = self.table.weight


MODELS = {
    "lstm": lambda: Net(nn.LSTM(12, 16, 2, batch_first=True), width=16),
    "gru": lambda: Net(nn.GRU(12, 16, batch_first=True), width=16, table=3),
    "rnn": lambda: Net(nn.RNN(12, 16, batch_first=True, bias=False), width=16),
    "bidirectional": lambda: Net(nn.LSTM(12, 8, 2, batch_first=True, bidirectional=True), width=16),
    "projection": lambda: Net(nn.LSTM(12, 16, batch_first=True, proj_size=12), width=12),
    "ours": lambda: Net(cr.LSTM(12, [16, 14], batch_first=True), width=14),
    "cells": lambda: Net(cr.Recurrent(cr.MGU, 12, 16, 2, batch_first=True), width=16, table=0),
    "tied": Tied,
}


def built(name, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    return model, X if model.table is None else TOKENS


def difference(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def factored(model):
    return {m.name: m.held for m in matrices(model) if isinstance(m.held, LowRankWeight)}


@pytest.mark.parametrize("name", MODELS)
def test_a_matrix_of_low_rank_is_met_in_every_layer(name):
    model, x = built(name)
    with torch.no_grad():
        for matrix in matrices(model):  # of rank 3 each
            left, _, right = principal_factors(matrix.dense())
            matrix.parameters()[0].copy_(left[:, :3] @ right[:3])
        before = model(x)
        left = cr.plan_factorization(model, cr.LowRank(rank=3), x)
        assert cr.factorize_(model, cr.LowRank(rank=3), x) is model
        assert difference(model(x), before) < 1e-5
    names = {form.name for form in left.matrices if form.spec is not None}
    assert set(factored(model)) == names == {m.name for m in matrices(model) if "weight_hr" not in m.name}
    assert all(form.energy > 1 - 1e-9 for form in left.matrices)


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_says_what_is_done(name):
    model, x = built(name)
    plan = cr.plan_factorization(model, cr.LowRank(energy=0.5), x, batches=[x])
    small = plan.apply(model, batches=[x])
    cr.factorize_(model, cr.LowRank(energy=0.5), x, batches=[x])
    assert str(small) == str(model) and torch.equal(small(x), model(x))
    assert plan.parameters[1] == sum(p.numel() for p in model.parameters())
    assert plan.bytes[1] == 4 * plan.parameters[1]
    assert any(form.weighted for form in plan.matrices)
    again = cr.FactorizationPlan.from_json(plan.to_json())
    assert again == plan and "energy" in str(plan)


def test_the_error_of_a_matrix_is_its_discarded_singular_values():
    torch.manual_seed(0)
    layer = nn.Linear(20, 30)
    before = layer.weight.detach().clone()
    s = torch.linalg.svdvals(before.double())
    cr.factorize_(layer, cr.LowRank(rank=5))
    error = (layer.weight.dense() - before).double().square().sum()
    assert error.item() == pytest.approx(s[5:].square().sum().item(), rel=1e-5)


def correlated(rows=4000, width=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.logspace(0, -3, width)
    return torch.randn(rows, width, generator=generator) @ mixing.T


def test_the_error_on_calibration_data_is_what_the_weighted_singular_values_say():
    torch.manual_seed(0)
    x, matrix = correlated(), torch.randn(30, 24)
    left, s, right = principal_factors(matrix, (x.T @ x).double() / len(x))
    error = (x @ (matrix - (left[:, :4] @ right[:4]).float()).T).square().sum(1).mean()
    assert error.item() == pytest.approx(s[4:].square().sum().item(), rel=1e-3)


def test_calibration_data_make_the_products_better_on_other_data_of_the_kind():
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 30), correlated()
    plain, aware = copy.deepcopy(layer), copy.deepcopy(layer)
    cr.factorize_(plain, cr.LowRank(rank=4))
    cr.factorize_(aware, cr.LowRank(rank=4), batches=[x[:2000]])
    errors = [difference(small(x[2000:]), layer(x[2000:])) for small in (plain, aware)]
    assert errors[1] < errors[0] / 3
    plans = [cr.plan_factorization(layer, cr.LowRank(energy=0.7), batches=data) for data in ([x], None)]
    assert plans[0].matrices[0].spec.rank < plans[1].matrices[0].spec.rank


def test_calibration_data_weight_hidden_states_and_frequent_tokens():
    model, _ = built("gru")
    tokens = torch.randint(4, (20, 9), generator=torch.Generator().manual_seed(1))  # of 40
    plain, aware = copy.deepcopy(model), copy.deepcopy(model)
    cr.factorize_(plain, {"table": cr.LowRank(rank=2)})
    cr.factorize_(aware, {"table": cr.LowRank(rank=2)}, batches=[tokens])
    assert difference(aware.table(tokens), model.table(tokens)) < 0.8 * difference(
        plain.table(tokens), model.table(tokens)
    )
    seen = input_moments(model, [tokens])
    states = model.layers[0](model.table(tokens))[0].double()
    last = torch.cat([torch.zeros(20, 1, 16), states[:, :-1]], 1).flatten(0, 1).double()
    torch.testing.assert_close(seen["layers.0.weight_hh_l0"], last.T @ last / len(last), rtol=0.1, atol=2e-3)


@pytest.mark.parametrize("name", ["lstm", "cells", "tied", "projection"])
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_a_fraction_of_the_parameters_is_met(name, keep):
    model, x = built(name)
    before = sum(p.numel() for p in model.parameters())
    cr.factorize_(model, None, x, keep=keep)
    assert 0.93 * keep <= sum(p.numel() for p in model.parameters()) / before <= keep


def test_sizes_of_a_larger_model_are_met_within_3_percent():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(n, m) for n, m in ((40, 96), (96, 64), (64, 128), (128, 10))))
    plans = [cr.plan_factorization(model, keep=keep) for keep in (0.2, 0.5, 0.8)]
    assert all(0.97 * k <= p.parameters[1] / p.parameters[0] <= k for k, p in zip((0.2, 0.5, 0.8), plans, strict=True))
    plan = cr.plan_factorization(model, bytes=30_000)
    assert 29_000 <= plan.bytes[1] <= 30_000
    plan = cr.plan_factorization(model, {"3": None}, macs=8_000)
    assert 7_760 <= plan.macs[1] <= 8_000 and plan.matrices[3].spec is None
    weights = [matrix.held for matrix in matrices(plan.apply(model))]
    assert sum(w.macs() if isinstance(w, LowRankWeight) else w.numel() for w in weights) == plan.macs[1]


def test_ranks_are_the_best_for_their_size():
    generator = torch.Generator().manual_seed(0)
    errors = [
        torch.cat([torch.ones(1), 1 - torch.rand(5, generator=generator).sort(descending=True).values.cumsum(0)])
        for _ in range(2)
    ]
    errors = [(e - e[-1]) / (e[0] - e[-1]) for e in errors]
    choices = [Choice(e.double().numpy(), each=7, dense=40) for e in errors]
    for budget in (14, 30, 50, 69):
        ranks = choose_ranks(choices, budget)
        every = [(a, b) for a in (1, 2, 3, 4, 5, None) for b in (1, 2, 3, 4, 5, None)]

        def cost(pair):
            return sum(c.cost(r) for c, r in zip(choices, pair, strict=True))

        def error(pair):
            return sum(0 if r is None else c.errors[r] for c, r in zip(choices, pair, strict=True))

        best = min(error(pair) for pair in every if cost(pair) <= budget)
        assert cost(ranks) <= budget and error(ranks) <= best + max(choices[0].errors[:-1] - choices[0].errors[1:])


def test_what_is_shared_stays_shared():
    model, x = built("tied")
    cr.factorize_(model, cr.LowRank(rank=3), x)
    assert model.table.weight is model.head.weight
    assert not model.table.weight.dense()[0].requires_grad or model.table.padding_idx == 0
    model(x).square().mean().backward()
    assert model.head.weight.left.grad.abs().sum() > 0


def test_a_padding_row_stays_zero():
    model, _ = built("gru")
    cr.factorize_(model, {"table": cr.LowRank(rank=3)})
    assert not model.table(torch.tensor([3])).any()
    model(TOKENS).square().sum().backward()
    assert not model.table.weight.left.grad[3].any()


@pytest.mark.parametrize("spec", [cr.Kronecker(4, 3), cr.ToeplitzLike(1), cr.BlockSparse(block=(16, 4), keep=0.34)])
def test_any_weight_takes_the_place_of_a_matrix(spec):
    model, x = built("lstm")
    cr.factorize_(model, {"layers.0.weight_ih_l0": spec, "layers.0.weight_hh_l1": cr.Kronecker(4, 4)}, x)
    layer = model.layers[0]
    assert layer.weight_ih_l0.spec == spec and isinstance(layer.weight_hh_l0, nn.Parameter)
    before, _ = built("lstm")
    fitted = spec.build(64, 12, 4).from_dense_(before.layers[0].weight_ih_l0)
    error = (fitted.dense() - before.layers[0].weight_ih_l0).norm()
    assert (layer.weight_ih_l0.dense() - before.layers[0].weight_ih_l0).norm() <= 1.1 * error


def test_names_choose_and_the_longest_counts():
    model, x = built("lstm")
    wishes = {"*": cr.LowRank(rank=2), "layers.0": None, "layers.0.weight_hh_*": cr.LowRank(rank=4), "head": None}
    cr.factorize_(model, wishes, x)
    assert {n: w.rank for n, w in factored(model).items()} == {"layers.0.weight_hh_l0": 4, "layers.0.weight_hh_l1": 4}


def test_numbers_of_the_random_generator_modes_and_frozen_weights_stay():
    model, x = built("lstm")
    model.head.weight.requires_grad_(False)
    model.layers[0].train()
    state = torch.get_rng_state()
    cr.factorize_(model, {"head": cr.LowRank(rank=2), "layers.0.weight_hh_l0": cr.Kronecker(4, 4)}, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.layers[0].training and not model.head.training
    assert not any(p.requires_grad for p in model.head.weight.parameters()) and model.head.bias.requires_grad


class Reads(nn.Module):
    """Its code reads the weight of a linear layer by itself."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 12)

    def forward(self, x):
        return nn.functional.linear(self.lstm(x)[0], self.head.weight)


def test_what_must_stay_is_left_with_the_reason():
    torch.manual_seed(0)
    model = Reads()
    plan = cr.plan_factorization(model, cr.LowRank(rank=2), X)
    assert "reads it by itself" in plan.matrices[2].reason and plan.matrices[0].spec is not None
    with pytest.raises(ValueError, match=r"head: expected one to factorize, got .* reads it by itself"):
        cr.factorize_(model, {"head": cr.LowRank(rank=2)}, X)
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(12, 12)), nn.Linear(12, 30))
    assert "computed from other parameters" in cr.plan_factorization(normed, cr.LowRank(rank=2)).matrices[0].reason
    assert "computed" in cr.plan_factorization(normed, cr.LowRank(rank=2), X).matrices[0].reason
    tables = nn.Sequential(nn.Embedding(30, 12, max_norm=1.0), nn.Linear(12, 30))
    assert "max_norm" in cr.plan_factorization(tables, cr.LowRank(rank=2)).matrices[0].reason
    owner = nn.Linear(12, 30)
    owner.other = owner.weight
    assert "used elsewhere" in cr.plan_factorization(owner, cr.LowRank(rank=2)).matrices[0].reason
    small = cr.plan_factorization(nn.Sequential(nn.Linear(3, 3), nn.Linear(12, 30)), cr.LowRank(rank=2))
    assert small.matrices[0].reason == "rank 2 has 12 numbers in place of 9"
    tables = cr.plan_factorization(nn.Sequential(nn.Embedding(40, 12), nn.Linear(12, 40)), cr.Kronecker(4, 4))
    assert "low rank only" in tables.matrices[0].reason and tables.matrices[1].spec == cr.Kronecker(4, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "spec: expected a weight such as"),
        ({"spec": {"hed": cr.LowRank(rank=2)}}, "unknown name 'hed'"),
        ({"spec": {"head": 3}}, r"spec\['head'\]: expected a weight"),
        ({"spec": cr.LowRank(rank=2), "keep": 0.5}, "and a size"),
        ({"keep": 0.5, "macs": 100}, "expected one of keep, bytes and macs"),
        ({"keep": 1.5}, "between 0 and 1"),
        ({"keep": 0.01}, r"expected at least 0\.\d+, with all"),
        ({"bytes": 10**9}, "less than the model has"),
        ({"macs": 3}, r"expected at least \d+, with all"),
        ({"spec": cr.LowRank(rank=2), "batches": []}, "batches: expected at least one"),
        ({"spec": cr.LowRank(rank=2), "batches": X}, "batches: expected a list"),
        ({"spec": cr.LowRank(rank=2), "example_inputs": X[..., :5]}, "example_inputs: expected what the model runs on"),
        ({"spec": {"head": cr.Kronecker(7, 7)}}, "head: expected one to factorize, got .*multiple of"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(arguments, message):
    model, _ = built("lstm")
    before = str(model)
    with pytest.raises(ValueError, match=message):
        cr.factorize_(model, **arguments)
    assert str(model) == before


def test_a_plan_is_for_its_model():
    model, x = built("lstm")
    plan = cr.plan_factorization(model, cr.LowRank(rank=2), batches=[x])
    other, _ = built("lstm", seed=1)
    with pytest.raises(ValueError, match="other values"):
        plan.apply(other, batches=[x])
    with pytest.raises(ValueError, match="batches: expected those that the plan was made with"):
        plan.apply(model)
    assert len(factored(plan.apply(other, batches=[x], same_weights=False))) == 5
    with pytest.raises(ValueError, match=r"lacks|no "):
        plan.apply(nn.LSTM(12, 16), batches=[x])
    text = plan.to_json()
    for old, new in (('"rank": 2', '"rank": -2'), ('"energy": 0.', '"energy": "0.'), ("LowRank", "LowRnk")):
        with pytest.raises(ValueError):
            cr.FactorizationPlan.from_json(text.replace(old, new, 1))


def test_a_smaller_rank_follows_a_larger_one():
    model, x = built("lstm")
    cr.factorize_(model, cr.LowRank(rank=6), x)
    twice = copy.deepcopy(model)
    cr.factorize_(twice, cr.LowRank(rank=3), x)
    assert {w.rank for w in factored(twice).values()} == {3}
    once, _ = built("lstm")
    cr.factorize_(once, cr.LowRank(rank=3), x)
    assert difference(twice(x), once(x)) < 1e-4


class Checked(nn.LSTM):
    def check_input(self, input, batch_sizes):
        """Nothing."""


def test_a_layer_that_cannot_be_converted_is_refused_and_nothing_is_changed():
    model = nn.ModuleList([nn.LSTM(12, 16), Checked(12, 16)])
    with pytest.raises(cr.UnsupportedModelError, match="with its own check_input"):
        cr.factorize_(model, cr.LowRank(rank=2))
    assert type(model[0]) is nn.LSTM and not factored(model)


def test_half_precision_keeps_its_type():
    model, x = built("rnn")
    cr.factorize_(model.double(), cr.LowRank(rank=3), x.double())
    assert model(x.double()).dtype == torch.double == model.head.weight.left.dtype
