"""`compress_model`: within the budget, as its file runs, or with the reason why not."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import compactrnn as cr
from compactrnn.compress.sizes import counts


class Tagger(nn.Module):
    def __init__(self, layer, width):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


class Writer(nn.Module):
    """A language model whose table is also its output matrix."""

    def __init__(self):
        super().__init__()
        self.table, self.gru = nn.Embedding(40, 24), nn.GRU(24, 24, batch_first=True)
        self.output = nn.Linear(24, 40)
        self.output.weight = self.table.weight

    def forward(self, tokens):
        return self.output(self.gru(self.table(tokens))[0])


def tagging(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 12, 4, generator=generator)
    return x, lambda m: (m(x) - x[..., :3].cumsum(1).tanh()).square().mean()


def writing(model):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 40, (8, 13), generator=generator)
    return tokens[:, :-1], lambda m: cross_entropy(m(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


MODELS = {
    "LSTM": (lambda: Tagger(nn.LSTM(4, 40, 2, batch_first=True), 40), tagging, 12_000),
    "low rank": (lambda: Tagger(cr.LSTM(4, 64, batch_first=True, hidden_weight=cr.LowRank(rank=6)), 64), tagging, 7000),
    "tied": (Writer, writing, 5400),
}


def compress(model, task, **options):
    x, loss = task(model)
    options = {"steps": 20, "budget": {"bytes": 5000}, "loss_allowed": 10.0, "progress": False, **options}
    return cr.compress_model(
        model, x, **{"train_step": loss, "evaluate": lambda m: float(loss(m)), "calibration": [x], **options}
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_file_keeps_the_budget_and_gives_what_the_model_gives(name, tmp_path):
    torch.manual_seed(0)
    make, task, size = MODELS[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    result = compress(model, task, budget={"bytes": size}, weights="int8", path=tmp_path / "small.crnn")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and model.training
    assert result.sizes["bytes"][1] == (tmp_path / "small.crnn").stat().st_size and result.met, result.reason
    assert 0.9 * size < result.sizes["bytes"][1] <= size
    assert counts(result.model)[0] == result.sizes["parameters"][1] < result.sizes["parameters"][0] == counts(model)[0]
    x, loss = task(model)
    engine = cr.Engine(tmp_path / "small.crnn")
    with torch.no_grad():
        assert result.quality[1] == pytest.approx(float(loss(result.model)))
        np.testing.assert_allclose(engine.run(x[0].numpy()), result.model(x)[0].numpy(), atol=1e-2)
    assert str(result).startswith("            before") and f"{result.sizes['bytes'][1]:,}" in str(result)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(4, 24, batch_first=True, bidirectional=True), nn.Linear(48, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0])


def test_lengths_of_padded_sequences(tmp_path):
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 9, 4), torch.tensor([9, 4, 7])
    mask = torch.arange(9) < lengths[:, None]

    def loss(model):
        return (model(x, lengths) - x[..., :3].tanh())[mask].square().mean()

    result = cr.compress_model(
        Padded(), (x, lengths), train_step=loss, evaluate=lambda m: float(loss(m)), budget={"bytes": 5000}, steps=20,
        loss_allowed=10.0, calibration=[(x, lengths)], lengths=["lengths"], path=tmp_path / "a.crnn", progress=False,
    )  # fmt: skip
    assert result.met and result.model.layer.hidden_size < 24
    wanted = result.model(x[1:2, :4], torch.tensor([4]))[0].detach().numpy()
    np.testing.assert_allclose(cr.Engine(tmp_path / "a.crnn").run(x[1, :4].numpy()), wanted, atol=1e-2)


def test_multiply_accumulates_and_microseconds():
    torch.manual_seed(0)
    model = Tagger(nn.LSTM(4, 24, batch_first=True), 24)
    result = compress(model, tagging, budget={"macs": 800, "microseconds": 1e6})
    assert 0.8 * 800 < result.sizes["macs"][1] <= 800 and result.met
    assert 0 < result.sizes["microseconds"][1] < 1e6 and set(result.types.values()) == {"int8"}


def test_a_budget_that_is_kept_anyhow_costs_no_unit():
    model = Tagger(nn.LSTM(4, 24, batch_first=True), 24)
    result = compress(model, tagging, budget={"bytes": 20_000})
    assert result.sizes["parameters"] == (counts(model)[0],) * 2 and set(result.types.values()) == {"int8"}


@pytest.mark.parametrize("allowed, types", [(10.0, {"int4"}), (1e-9, {"int8"})])
def test_int4_where_it_costs_little(allowed, types):
    """`evaluate` is the distance from the outputs of the model as it was."""
    torch.manual_seed(0)
    model = Tagger(nn.LSTM(4, 64, batch_first=True), 64)
    x, _ = tagging(model)
    with torch.no_grad():
        first = model(x)

    def evaluate(m):
        return 1 + float((m(x) - first).abs().max())

    result = compress(model, tagging, evaluate=evaluate, loss_allowed=allowed, budget={"bytes": 8000})
    assert set(result.types.values()) == types


def test_types_that_are_given():
    result = compress(Tagger(nn.LSTM(4, 24, batch_first=True), 24), tagging, weights={"head": "float32", "*": "int4"})
    assert result.types == {"layer.weight_ih_l0": "int4", "layer.weight_hh_l0": "int4", "head": "float32"}
    result = compress(Tagger(nn.LSTM(4, 24, batch_first=True), 24), tagging, weights="float32")
    assert set(result.types.values()) == {"float32"} and result.met


@pytest.mark.parametrize("allowed", [0.5, 0.1])
def test_the_reason_of_a_loss_that_is_too_large(allowed):
    """`evaluate` is 0.9 for the model as it was, 0.6 for a smaller one; larger is better."""
    model, qualities = Tagger(nn.LSTM(4, 24, batch_first=True), 24), {24: 0.9}
    result = compress(
        model,
        tagging,
        evaluate=lambda m: qualities.get(m.layer.hidden_size, 0.6),
        higher_is_better=True,
        loss_allowed=allowed,
        weights="int8",
    )
    assert result.loss == pytest.approx(1 / 3) and result.met == (allowed == 0.5)
    if not result.met:
        assert "evaluate gives 0.6 (+33.33%) where 10.00% is allowed" in result.reason
        assert f"missed: {result.reason}" in str(result)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": {}}, "budget: expected a dict with some of bytes, macs, microseconds"),
        ({"budget": {"parameters": 10}}, "budget: expected a dict with some of"),
        ({"budget": {"bytes": -1}}, r"budget\['bytes'\]: expected a positive number, got -1"),
        ({"budget": {"bytes": 300}}, "budget: expected bytes of at least"),
        ({"steps": 0}, "steps: expected an int of 10 or more, got 0"),
        ({"loss_allowed": -0.1}, "loss_allowed: expected"),
        ({"clip": 0.0}, "clip: expected a positive number or None, got 0.0"),
        ({"weights": "int2"}, "weights: expected one of"),
        ({"weights": {"nowhere": "int4"}}, "the unknown name 'nowhere'"),
        ({"exclude": ["nowhere"]}, "nowhere"),
        ({"evaluate": lambda m: math.nan}, "evaluate: expected a finite number, got nan"),
        ({"train_step": lambda m: 1.0}, "train_step: expected the loss, a scalar with a gradient, got 1.0"),
        (
            {"train_step": lambda m: m(torch.zeros(1, 2, 4))},
            r"train_step: .*got a tensor of shape \(1, 2, 3\) with a gradient",
        ),
        ({"train_step": lambda m: torch.zeros(())}, "with no gradient"),
        ({"evaluate": lambda m: None}, "evaluate: expected a number, got None"),
        (
            {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)},
            "optimizer: expected a function .*got SGD",
        ),
        ({"lengths": ["n"]}, "lengths: expected a list of the one argument"),
    ],
)
def test_what_cannot_be_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compress(Tagger(nn.LSTM(4, 24, batch_first=True), 24), tagging, path=tmp_path / "x.crnn", **options)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="train_step: a loss of nan at step 0 of pruning"):
        compress(Tagger(nn.LSTM(4, 24), 24), tagging, train_step=lambda m: math.nan * m(torch.zeros(1, 2, 4)).sum())
