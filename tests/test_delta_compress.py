"""Thresholds chosen by the share of the products that is to be left."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.cells import MGU
from compactrnn.compress.changes import measure_changes
from compactrnn.layers import cells_of


class Tagger(nn.Module):
    def __init__(self, layer=None, width=16):
        super().__init__()
        self.layer = nn.LSTM(6, 16, 2, batch_first=True) if layer is None else layer
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def data(steps=60, rows=3):
    return torch.randn(rows, steps, 6, generator=torch.Generator().manual_seed(0)).cumsum(1) / 4


def tagger(make=None, width=16):
    torch.manual_seed(0)
    return Tagger(None if make is None else make(), width)


MODELS = {
    "lstm": tagger,
    "gru": partial(tagger, partial(nn.GRU, 6, 16, batch_first=True)),
    "both ways": partial(tagger, partial(nn.GRU, 6, 8, batch_first=True, bidirectional=True)),
    "projection": partial(tagger, partial(nn.LSTM, 6, 24, proj_size=16, batch_first=True)),
    "sizes": partial(tagger, partial(cr.LSTM, 6, [12, 16], batch_first=True)),
    "mgu": partial(tagger, partial(cr.Recurrent, MGU, 6, 16, batch_first=True)),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("keep", [0.6, 0.3])
def test_the_share_is_met(model, keep):
    report = cr.Delta(model(), data(), keep=keep).report()
    assert report.share == pytest.approx(keep, rel=0.03)
    assert report.products[1] == pytest.approx(sum(v.products[1] for v in report.vectors))


def test_the_share_is_what_is_sent():
    """Counted number by number from the outputs of an LSTM, whose hidden matrix reads the output before."""
    model, x = tagger(partial(nn.LSTM, 6, 16, batch_first=True)), data(rows=1)
    delta = cr.Delta(model, x, threshold=0.3)
    of_x, of_h = cells_of(model.layer)[0][0].thresholds.numpy()
    h = model.layer(x)[0][0].detach().numpy()
    counts = []
    for rows, threshold in ((x[0].numpy(), of_x), (np.concatenate([0 * h[:1], h[:-1]]), of_h)):
        reference, sent = np.zeros_like(rows[0]), 0
        for row in rows:
            changed = np.abs(row - reference) > threshold
            reference, sent = np.where(changed, row, reference), sent + changed.sum()
        counts.append(sent / rows.size)
    report = delta.report()
    assert [v.share for v in report.vectors] == pytest.approx(counts, abs=2e-3)
    assert report.products == (64 * 22, pytest.approx(64 * (6 * counts[0] + 16 * counts[1]), rel=2e-3))
    assert str(report).splitlines()[1].startswith("layer, layer 0, input")


def test_only_the_matrix_that_is_multiplied_first_is_spared():
    layer = cr.GRU(6, 16, batch_first=True, hidden_weight=cr.LowRank(rank=2))
    report = cr.Delta(tagger(lambda: layer), data(), threshold=0.5).report()
    hidden = report.vectors[1]
    assert hidden.products[0] == 2 * 16 + 48 * 2
    assert hidden.products[1] == pytest.approx(48 * 2 + hidden.share * 2 * 16)


def trained(model, delta, x, updates):
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(updates):
        loss = model(x).square().mean() + delta.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        delta.step(optimizer)
    return optimizer


def test_thresholds_grow_while_the_model_trains():
    model, x = tagger(), data()
    before = model(x).detach()
    delta, shares = cr.Delta(model, x, keep=0.4, steps=12, interval=4), []
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    for _ in range(3):
        trained(model, delta, x, 4)
        shares.append(delta.report().share)
    assert shares[0] > shares[1] > shares[2] == pytest.approx(0.4, rel=0.03)


def test_the_state_comes_back():
    x, model = data(), tagger()
    delta = cr.Delta(model, x, threshold=0.4, steps=10, interval=5)
    trained(model, delta, x, 5)
    other = tagger()
    again = cr.Delta(other, x, threshold=0.4, steps=10, interval=5)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(delta.state_dict())
    for m, d in ((model, delta), (other, again)):
        trained(m, d, x, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="state of Delta"):
        cr.Delta(tagger(MODELS["gru"].args[0]), x, threshold=0.4).load_state_dict(delta.state_dict())


def test_shrink_is_a_copy_that_trains_packs_and_is_saved(tmp_path):
    x, model = data(), tagger()
    delta = cr.Delta(model, x, keep=0.5, steps=2)
    optimizer = trained(model, delta, x, 2)
    small = delta.shrink(optimizer)
    assert torch.equal(small(x), model(x)) and small is not model
    small(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(small(x), model(x))
    cr.save(small, tmp_path / "run")
    assert torch.equal(cr.load(tmp_path / "run", tagger())(x), small(x))
    cr.pack(small, tmp_path / "small.crnn", x[:1], weights="float32", calibration=[x])
    got = cr.Engine(tmp_path / "small.crnn").run(x[0].numpy())
    np.testing.assert_allclose(got, small(x)[0].detach().numpy(), atol=1e-4)


def test_the_share_leaves_the_model_as_it_is():
    x, model = data(), tagger()
    cr.Delta(model, x, threshold=0.3)
    model.train()
    model.head.eval()
    state = torch.get_rng_state()
    measure_changes(model, x)
    assert model.layer.training and not model.head.training
    assert torch.equal(state, torch.get_rng_state())


def test_layers_can_be_left_out():
    model = nn.Sequential(tagger(), nn.Identity())
    model[1] = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="no recurrent layer"):
        cr.Delta(model, data(), threshold=0.3, exclude=["0.layer"])
    with pytest.raises(ValueError, match="names of modules of the model, got 'rnn'"):
        cr.Delta(tagger(), data(), threshold=0.3, exclude=["rnn"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the two"),
        ({"keep": 0.5, "threshold": 0.1}, "one of the two"),
        ({"keep": 0.0}, "a share"),
        ({"threshold": -1.0}, "0 or more"),
        ({"keep": 0.5, "steps": -1}, "steps"),
        ({"keep": 0.5, "interval": 0}, "interval"),
    ],
)
def test_wrong_options_change_nothing(options, message):
    model = tagger()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        cr.Delta(model, data(), **options)
    assert type(model.layer) is nn.LSTM and model.state_dict().keys() == before.state_dict().keys()


def test_cells_that_read_ahead_are_named():
    layer = cr.Recurrent(cr.FSMN, 6, 16, batch_first=True, look_ahead=1)
    with pytest.raises(ValueError, match=r"layer: expected a cell that does not, got FSMN, .* exclude=\['layer'\]"):
        cr.Delta(tagger(lambda: layer), data(), threshold=0.1)


def test_a_share_that_cannot_be_met_is_refused():
    layer = cr.GRU(6, 16, batch_first=True, hidden_weight=cr.Kronecker(4, 4))
    with pytest.raises(ValueError, match="for this model"):
        cr.Delta(tagger(lambda: layer), data(), keep=0.05)
