"""Doping: the sparse part of a sum is dense at first and has few entries in the end."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.runtime.file import read
from compactrnn.runtime.inventory import parameter_count

SPEC = cr.Doped(cr.LowRank(rank=2), keep=0.05)


class Model(nn.Module):
    def __init__(self, spec=SPEC, size=20):
        super().__init__()
        self.lstm = cr.LSTM(6, size, batch_first=True, hidden_weight=spec)
        self.head = nn.Linear(size, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])

    @property
    def weight(self):
        return self.lstm.weight_hh_l0


def biases(model):
    return [p for name, p in model.named_parameters() if "bias" in name]


def train(model, doping, steps, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        x = torch.randn(4, 9, 6)
        loss = (model(x) - x[..., :3].cumsum(1).tanh()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doping.step(optimizer)
    return optimizer


def test_opening_changes_nothing():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 5, 6)
    wanted = model(x)
    doping = cr.Doping(model, steps=10, dropout=0)
    assert model.weight.parts[1].values.shape == (80, 20)
    assert_close(model(x), wanted)
    doping.finish()
    assert_close(model(x), wanted)
    assert model.weight.stored_parameters() == 2 * 100 + 80


@pytest.mark.parametrize("spec", [SPEC, cr.Doped(cr.Kronecker(5, 4), keep=0.1), cr.Sparse(keep=0.1)], ids=str)
@pytest.mark.parametrize("layer", [nn.LSTM, cr.LSTM])
def test_a_factorized_model_begins_as_the_trained_one(spec, layer):
    torch.manual_seed(0)
    model = Model()
    model.lstm = layer(6, 20, 2, batch_first=True, bidirectional=True)
    model.head = nn.Linear(40, 3)
    x, trained = torch.randn(2, 5, 6), copy.deepcopy(model)
    cr.factorize_(model, {"lstm.weight_hh_*": spec})
    assert (model(x) - trained(x)).abs().max() > 1e-3
    doping = cr.Doping(model, steps=10, dropout=0, trained=trained)
    assert_close(model(x), trained(x), rtol=1e-5, atol=1e-6)
    train(model, doping, 10)
    doping.finish()
    numbers = spec.build(80, 20, 4).stored_parameters()
    assert [w.stored_parameters() for name, w in model.lstm.named_modules() if name.endswith("weight_hh_l1")] == [
        numbers
    ]


def test_the_schedule_is_cubic_and_ends_at_the_specification(tmp_path):
    torch.manual_seed(0)
    model = Model()
    doping = cr.Doping(model, steps=20, interval=5)
    sparse, left = model.weight.parts[1], []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        train(model, doping, 1, optimizer)
        left.append(int((sparse.values != 0).sum(1).max()))
    share = [0.05 + 0.95 * (1 - t / 20) ** 3 for t in (5, 10, 15, 20)]
    assert left[4::5] == [round(20 * s) for s in share] + [1]
    assert left == sorted(left, reverse=True)
    state = optimizer.state[sparse.values]["exp_avg"].clone()
    matrix = model.eval().weight.dense().detach().clone()
    doping.finish(optimizer)
    assert_close(model.weight.dense(), matrix)
    assert_close(optimizer.state[sparse.values]["exp_avg"], state.gather(1, sparse.index))
    assert model.weight.stored_parameters() == cr.LSTM(6, 20, hidden_weight=SPEC).weight_hh_l0.stored_parameters()
    train(model.train(), doping, 2, optimizer)
    x = torch.randn(1, 9, 6)
    report = cr.pack(model.eval(), tmp_path / "model.crnn", x, weights="float32")
    stored = parameter_count(read((tmp_path / "model.crnn").read_bytes()))
    assert stored == sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in biases(model))
    y = cr.Engine(tmp_path / "model.crnn").run(x[0].numpy())
    assert np.abs(y - model(x)[0].detach().numpy()).max() < 1e-5 and report.made_dense == ()
    again = Model()
    again.load_state_dict(model.state_dict(), strict=True)
    assert_close(again(x), model(x))


def test_a_row_loses_one_of_its_contributions_and_the_mean_is_the_matrix():
    torch.manual_seed(0)
    model = Model()
    doping = cr.Doping(model, steps=10**6, dropout=0.6)
    with torch.no_grad():
        model.weight.parts[1].values.normal_()
    exact, structure, sparse = (w.dense().detach() for w in (model.weight.eval(), *model.weight.parts))
    model.train()
    mean, kinds = torch.zeros_like(exact), torch.zeros(3)
    for _ in range(2000):
        doping._drop()
        drawn = model.weight.dense().detach()
        mean += drawn / 2000
        factors = model.weight.row_factors[1]
        assert_close(drawn, (2 - factors)[:, None] * structure + factors[:, None] * sparse)
        kinds += torch.stack([(factors == value).float().mean() for value in (0, 1, 2)]) / 2000
    assert_close(mean, exact, atol=0.15, rtol=0)
    assert_close(kinds, torch.tensor([0.3, 0.4, 0.3]), atol=0.01, rtol=0)


@pytest.mark.parametrize("make", [cr.LSTM, cr.GRU, lambda *a, **k: cr.Recurrent(cr.MGU, *a, **k)])
def test_every_loop_drops_the_same_rows(make):
    """Dropped rows stay the same through a sequence, and within a step of training."""
    torch.manual_seed(0)
    layer, x = make(6, 16, hidden_weight=SPEC), torch.randn(7, 3, 6)
    cr.Doping(layer, steps=10)
    found = {}
    for kind in ("plain", "auto"):
        with cr.time_loop(kind):
            y = layer(x)[0]
        found[kind] = [y, *torch.autograd.grad(y.sin().sum(), list(layer.parameters()))]
    assert_close(found["plain"], found["auto"], rtol=1e-4, atol=2e-5)
    assert not torch.equal(layer.eval()(x)[0], found["plain"][0])


def test_it_goes_on_where_it_stopped():
    torch.manual_seed(0)
    model = Model()
    doping = cr.Doping(model, steps=20, interval=3)
    optimizer = train(model, doping, 7)
    twin = Model()
    again = cr.Doping(twin, steps=20, interval=3)
    twin.load_state_dict(model.state_dict(), strict=True)
    other = torch.optim.Adam(twin.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(copy.deepcopy(doping.state_dict()))
    ends = []
    for m, d, o in ((model, doping, optimizer), (twin, again, other)):
        torch.manual_seed(1)
        d._drop()
        train(m, d, 13, o)
        d.finish(o)
        ends.append(m.weight.eval().dense())
    assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cr.Doping(nn.LSTM(3, 4), steps=5), "model: expected one or more, got no weight with a sparse part"),
        (lambda: cr.Doping(Model(), steps=0), "steps: expected a positive int, got 0"),
        (lambda: cr.Doping(Model(), steps=5, interval=2.0), "interval: .*got 2.0"),
        (lambda: cr.Doping(Model(), steps=5, dropout=1.5), "dropout: .*got 1.5"),
        (
            lambda: cr.Doping(Model(), steps=5, trained=nn.Linear(3, 3)),
            r"trained: expected the matrix lstm.weight_hh_l0 of shape \(80, 20\), got a model without lstm.",
        ),
        (
            lambda: cr.Doping(Model(), steps=5, trained=Model(size=8)),
            r"trained: expected .* of shape \(80, 20\), got lstm.weight_hh_l0 of shape \(32, 8\)",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_optimizer_made_too_early_is_noticed():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    doping = cr.Doping(model, steps=5)
    for call in (doping.step, doping.finish):
        with pytest.raises(ValueError, match="optimizer: expected an optimizer that was made after Doping"):
            call(optimizer)
