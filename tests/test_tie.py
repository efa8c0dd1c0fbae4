"""Parts of a model that are one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.layers import cells_of
from compactrnn.lower import lower
from compactrnn.models.series_front_end import SeriesFrontEnd
from compactrnn.models.series_model import SeriesModel, SeriesModelOptions
from outputs_alone import OutputsAlone

LOW = cr.LowRank(rank=3)


def lstm(**options):
    return cr.LSTM(6, 16, 2, batch_first=True, **options)


MODELS = {
    "the factor of recurrence and next layer": (
        lambda: lstm(input_weight=LOW, hidden_weight=LOW),
        ("weight_hh_l0.right", "weight_ih_l1.right"),
    ),
    "one factor for the matrices of a cell": (
        lambda: cr.Recurrent(cr.MGU, 6, 16, batch_first=True, hidden_weight=LOW),
        ("cells.0.0.forget.right", "cells.0.0.candidate.right"),
    ),
    "a weight of two layers": (lambda: lstm(hidden_weight=cr.ToeplitzLike(rank=2)), ("weight_hh_l0", "weight_hh_l1")),
    "a matrix of two layers": (lstm, ("weight_hh_l0", "weight_hh_l1")),
    "the weight of two layers of cells": (
        lambda: cr.Recurrent(cr.MGU, 16, 16, 3, batch_first=True, input_weight=LOW),
        ("cells.0.0.input", "cells.1.0.input", "cells.2.0.input"),
    ),
    "two projections": (
        lambda: cr.Recurrent(cr.cells.GRU, 6, 16, 2, batch_first=True, proj_size=4),
        ("cells.0.0.projection", "cells.1.0.projection"),
    ),
}


def size(part):
    return part.numel() if isinstance(part, torch.Tensor) else part.stored_parameters()


@pytest.mark.parametrize("make, names", MODELS.values(), ids=MODELS)
def test_it_is_trained_counted_and_stored_once(make, names, tmp_path):
    torch.manual_seed(0)
    model = OutputsAlone(make())
    names = [f"rnn.{name}" for name in names]
    x = torch.randn(1, 7, model.rnn.input_size)
    numbers, stored = sum(p.numel() for p in model.parameters()), sum(t.values.size for t in lower(model, x).tensors)
    assert cr.tie_(model, *names) is model
    part = (
        model.get_parameter(names[0]) if names[0] in dict(model.named_parameters()) else model.get_submodule(names[0])
    )
    saved = (len(names) - 1) * size(part)
    assert sum(p.numel() for p in model.parameters()) == numbers - saved
    assert sum(t.values.size for t in lower(model, x).tensors) == stored - saved
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == numbers - saved
    loss = model(x).square().sum()
    loss.backward()
    optimizer.step()
    assert model(x).square().sum() < loss
    cr.pack(model, tmp_path / "model.crnn", x, weights="float32")
    wanted = model(x)[0].detach().numpy()
    assert np.abs(cr.Engine(tmp_path / "model.crnn").run(x[0].numpy()) - wanted).max() < 1e-5


@pytest.mark.filterwarnings("ignore:.*plain loop over time")
@pytest.mark.parametrize("make, names", MODELS.values(), ids=MODELS)
def test_the_gradient_is_the_sum_of_those_of_all_places(make, names):
    torch.manual_seed(0)
    apart, x = make(), torch.randn(1, 7, 16)
    x = x[..., : apart.input_size]
    tied = make()
    tied.load_state_dict(apart.state_dict())
    cr.tie_(tied, *names)
    apart.load_state_dict(tied.state_dict())
    for model in (apart, tied):
        model(x)[0].sin().sum().backward()
    grads = {name: p.grad for name, p in apart.named_parameters()}
    for name, parameter in tied.named_parameters():
        shared = f"{name}.".startswith(f"{names[0]}.")
        places = [name.replace(names[0], place) for place in names] if shared else [name]
        assert_close(parameter.grad, sum(grads[place] for place in places), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "names, message",
    [
        (("weight_hh_l0", "weight_hh_l9"), "weight_hh_l9: expected a parameter or a weight.*, got LSTM has no such"),
        (("weight_hh_l0", "weight_ih_l0"), r"weight_ih_l0: expected as weight_hh_l0: .*, got .*\(64, 6\)"),
        (("training", "weight_hh_l0"), "training: expected a parameter or a weight.*, got bool"),
        (("nothing.at.all",), "nothing.at.all: expected a parameter"),
    ],
)
def test_errors_say_what_is_wrong(names, message):
    model = lstm()
    before = dict(model.named_parameters())
    with pytest.raises(ValueError, match=message):
        cr.tie_(model, *names)
    assert all(p is before[name] for name, p in model.named_parameters())


def test_weights_of_two_kinds_are_not_tied():
    model = nn.ModuleList([lstm(hidden_weight=LOW), lstm(hidden_weight=cr.LowRank(rank=4))])
    with pytest.raises(ValueError, match=r"1.weight_hh_l0: expected as 0.weight_hh_l0: .*rank=3.*, got .*rank=4"):
        cr.tie_(model, "0.weight_hh_l0", "1.weight_hh_l0")


BOTH_WAYS = {
    "LSTM": lambda **o: cr.LSTM(6, 16, **o),
    "GRU of low rank": lambda **o: cr.GRU(6, 16, hidden_weight=LOW, **o),
    "hashed": lambda **o: cr.RNN(6, 16, hidden_weight=cr.Hashed(compression=4), **o),
    "LSTM with a projection": lambda **o: cr.LSTM(6, 16, proj_size=5, **o),
    "MGU": lambda **o: cr.Recurrent(cr.MGU, 6, 16, input_weight=LOW, **o),
    "MGU with a projection": lambda **o: cr.Recurrent(cr.MGU, 6, 16, proj_size=5, **o),
}


@pytest.mark.parametrize("make", BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_tied_directions_are_one_network(make, tmp_path):
    torch.manual_seed(0)
    model, x = OutputsAlone(make(bidirectional=True, batch_first=True)), torch.randn(1, 7, 6)
    numbers = sum(p.numel() for p in model.parameters())
    assert cr.tie_directions_(model.rnn) is model.rnn
    assert sum(p.numel() for p in model.parameters()) == numbers / 2
    forwards, backwards = model(x).chunk(2, -1)
    assert_close(model(x.flip(1)).flip(1), torch.cat([backwards, forwards], -1))
    both, one = (lower(m, x).tensors for m in (model, OutputsAlone(make(batch_first=True))))
    assert sum(t.values.size for t in both) == sum(t.values.size for t in one)
    cr.pack(model, tmp_path / "model.crnn", x, weights="float32")
    wanted = model(x)[0].detach().numpy()
    assert np.abs(cr.Engine(tmp_path / "model.crnn").run(x[0].numpy()) - wanted).max() < 1e-5


def test_one_direction_cannot_be_tied():
    for layer, got in ((lstm(), "a LSTM of one direction"), (nn.Linear(3, 4), "a Linear")):
        with pytest.raises(ValueError, match=f"tie_directions_: expected .* bidirectional=True, got {got}"):
            cr.tie_directions_(layer)


@pytest.mark.parametrize("cell", ["GRU", "MGU"])
def test_tied_directions_stay_so_when_they_are_cut_factorized_and_loaded(cell):
    options = SeriesModelOptions(hidden=(16,), cell=cell, bidirectional="tied", answer="mean")
    torch.manual_seed(0)
    model, x = SeriesModel(SeriesFrontEnd([0] * 6), 3, options), torch.randn(4, 9, 6)
    pruner = cr.GroupLasso(model, x, keep=0.5, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    model(x).square().sum().backward()
    optimizer.step()
    pruner.step(optimizer)
    small = cr.factorize_(pruner.shrink(), {"*_hh_*" if cell == "GRU" else "*.forget": cr.LowRank(rank=2)})
    assert small.sequence_model.layer_sizes() == (8,)
    again = SeriesModel(SeriesFrontEnd([0] * 6), 3, replace(options, **small.size_options()))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))
    for model in (small, again):
        forwards, backwards = cells_of(model.sequence_model.layers[0])[0]
        assert "LowRank" in str(forwards)
        assert all(p is q for p, q in zip(forwards.parameters(), backwards.parameters(), strict=True))
