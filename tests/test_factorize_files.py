"""Factorized models are packed with their factors, saved, loaded and pruned like any other."""

import warnings

import pytest
import torch
from torch import nn

import compactrnn as cr
from test_factorize import MODELS, Net, X, built, difference, factored


def packed(model, x, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cr.pack(model, path, x[:1], weights="float32", fold=False)


class Large(nn.Module):
    """Of sizes that a file needs no padding for."""

    def __init__(self, tied=False):
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(96, 64), nn.LSTM(64, 64, batch_first=True), nn.Linear(64, 96)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.lstm(self.table(tokens))[0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_packed_model_stores_the_factors(tied, tmp_path):
    torch.manual_seed(0)
    model, x = Large(tied).eval(), torch.randint(96, (1, 7))
    before = packed(model, x, tmp_path / "dense.crnn")
    plan = cr.plan_factorization(model, cr.LowRank(rank=16), x)
    cr.factorize_(model, cr.LowRank(rank=16), x)
    report = packed(model, x, tmp_path / "small.crnn")
    assert report.parity < 1e-5 and report.made_dense == ()
    assert report.macs_per_step == before.macs_per_step - plan.macs[0] + plan.macs[1]
    saved = plan.bytes[0] - plan.bytes[1]
    if tied:  # of the factors the lookup multiplies with the right one transposed, which is stored beside it
        saved -= 4 * 16 * 64
    assert before.bytes - report.bytes == pytest.approx(saved, abs=2048)
    if not tied:
        names = {f"{n}.factor{i}" for n in factored(model) for i in (0, 1)}
        assert names == {n for n in report.types if "factor" in n}
    y = cr.Engine(tmp_path / "small.crnn").run(x[0].numpy())
    assert difference(torch.from_numpy(y), model(x)[0]) < 1e-5


@pytest.mark.parametrize("spec", [cr.ToeplitzLike(1), cr.Kronecker(4, 4), cr.BlockSparse(block=(8, 4), keep=0.5)])
def test_a_linear_layer_on_any_weight_packs(spec, tmp_path):
    model, x = built("lstm")
    cr.factorize_(model, {"head": spec, "layers.0.weight_hh_l0": spec}, x)
    report = packed(model, x, tmp_path / "model.crnn")
    assert report.parity < 1e-5
    assert set(report.made_dense) in (set(), {"head", "layers.0.weight_hh_l0"})
    cr.save(model, tmp_path)
    assert torch.equal(cr.load(tmp_path, MODELS["lstm"]).eval()(x), model(x))


class Step(nn.Module):
    """One time step, whose state is an argument."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(12, 16), nn.Linear(16, 12)

    def forward(self, x, h):
        h = self.cell(x, h)
        return self.head(h), h


def test_a_model_of_one_step_packs(tmp_path):
    torch.manual_seed(0)
    model = Step().eval()
    example = torch.randn(1, 12), torch.zeros(1, 16)
    cr.factorize_(model, cr.LowRank(rank=3), example)
    report = cr.pack(model, tmp_path / "step.crnn", example, weights="float32", states=["h"])
    assert {"head.factor0", "head.factor1"} <= set(report.types) and report.parity < 1e-5


@pytest.mark.parametrize("name", ["lstm", "gru", "bidirectional", "cells", "tied"])
def test_a_factorized_model_comes_back_into_the_code_of_the_dense_one(name, tmp_path):
    model, x = built(name)
    cr.factorize_(model, cr.LowRank(energy=0.6), x)
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, MODELS[name]).eval()
    assert str(again) == str(model) and torch.equal(again(x), model(x))
    assert list(again.state_dict()) == list(model.state_dict())
    if name == "tied":
        assert again.head.weight.left is again.table.weight.left


def test_a_folder_of_another_model_is_refused(tmp_path):
    model, x = built("lstm")
    cr.factorize_(model, {"head": cr.LowRank(rank=3)}, x)
    cr.save(model, tmp_path)
    other, _ = built("lstm")
    other.head = nn.Identity()
    with pytest.raises(ValueError, match="head: expected a layer as it was saved, Linear, got Identity"):
        cr.load(tmp_path, other)
    other.head = nn.Linear(16, 39)
    with pytest.raises(ValueError, match=r"head: expected \(40, 16\), or more columns"):
        cr.load(tmp_path, other)


def cut(model, x):
    """Half of the units of every layer, and the outputs with them at zero."""
    pruner = cr.GroupLasso(model, x, strength=0.0)
    for group in pruner.groups:
        group.decay_((torch.arange(group.count) % 2).float())
    return pruner.shrink(), model(x)


@pytest.mark.parametrize("name", ["lstm", "gru", "bidirectional", "cells"])
def test_pruning_and_factorizing_in_either_order(name, tmp_path):
    model, x = built(name)
    cr.factorize_(model, cr.LowRank(rank=3), x)
    small, expected = cut(model, x)
    assert difference(small(x), expected) < 1e-5
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    cr.save(small, tmp_path)
    assert torch.equal(cr.load(tmp_path, MODELS[name]).eval()(x), small(x))

    model, x = built(name)
    small, _ = cut(model, x)
    wider = small(x)
    cr.factorize_(small, cr.LowRank(energy=1 - 1e-12), x)  # what is of lower rank than its size allows
    assert difference(small(x), wider) < 1e-5
    cr.factorize_(small, cr.LowRank(rank=2), x)
    assert factored(small) and small(x).isfinite().all()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_factor_shared_between_recurrence_and_next_layer(kind, tmp_path):
    torch.manual_seed(0)
    model = Net(kind(12, 16, 3, batch_first=True), width=16).eval()
    layer, before = model.layers[0], model(X)
    stacked = torch.cat([layer.weight_hh_l0, layer.weight_ih_l1]).detach().double()
    s = torch.linalg.svdvals(stacked)
    arguments = {"spec": cr.LowRank(rank=5), "example_inputs": X, "shared": True}
    plan = cr.plan_factorization(model, **arguments)
    pairs = [("layers.0.weight_hh_l0", "layers.0.weight_ih_l1"), ("layers.0.weight_hh_l1", "layers.0.weight_ih_l2")]
    assert [form.names for form in plan.matrices if form.joined] == pairs
    assert torch.equal(plan.apply(model)(X), cr.factorize_(model, **arguments)(X))
    assert sum(p.numel() for p in model.parameters()) == plan.parameters[1]
    assert layer.weight_hh_l0.right is layer.weight_ih_l1.right and layer.weight_hh_l1.right is layer.weight_ih_l2.right
    now = torch.cat([layer.weight_hh_l0.dense(), layer.weight_ih_l1.dense()]).detach().double()
    assert (now - stacked).square().sum().item() == pytest.approx(s[5:].square().sum().item(), rel=1e-4)
    assert difference(model(X), before) < 1 and "over" in str(plan)
    assert packed(model, X, tmp_path / "model.crnn").parity < 1e-5
    cr.save(model, tmp_path)
    again = cr.load(tmp_path, Net(kind(12, 16, 3, batch_first=True), width=16)).eval()
    assert torch.equal(again(X), model(X)) and again.layers[0].weight_hh_l0.right is again.layers[0].weight_ih_l1.right
    small, expected = cut(model, X)
    assert difference(small(X), expected) < 1e-5
    assert small.layers[0].weight_hh_l0.right is small.layers[0].weight_ih_l1.right


def test_sharing_meets_a_size_and_is_refused_where_nothing_can_be_shared():
    torch.manual_seed(0)
    model = nn.LSTM(12, 16, 3)
    plan = cr.plan_factorization(model, keep=0.5, shared=True, batches=[X])
    assert 0.94 <= plan.parameters[1] / plan.parameters[0] / 0.5 <= 1
    again = cr.FactorizationPlan.from_json(plan.to_json())
    assert sum(p.numel() for p in again.apply(model, batches=[X]).parameters()) == plan.parameters[1]
    for other in (nn.LSTM(12, 16), nn.LSTM(12, 16, 2, bidirectional=True), cr.Recurrent(cr.MGU, 12, 16, 2)):
        with pytest.raises(ValueError, match="shared: expected an LSTM, GRU or RNN of several layers"):
            cr.factorize_(other, cr.LowRank(rank=2), shared=True)


def test_a_factorized_model_trains_on():
    model, x = built("gru")
    cr.factorize_(model, cr.LowRank(rank=3), x)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3 and {w.rank for w in factored(model).values()} == {3}
