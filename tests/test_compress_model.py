"""`compress_model`: within the budget, as its file runs, or with the reason why not."""

import copy
import math
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import compactrnn as cr
from compactrnn._checkpoint import load_tree
from compactrnn.compress.sizes import counts
from compactrnn.training.cut_to_budget import Cutter


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
        ({"checkpoint": "x.crnn"}, "checkpoint: expected another file, got x.crnn, the path of"),
    ],
)
def test_what_cannot_be_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        compress(Tagger(nn.LSTM(4, 24, batch_first=True), 24), tagging, path=tmp_path / "x.crnn", **options)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="train_step: a loss of nan at step 0 of pruning"):
        compress(Tagger(nn.LSTM(4, 24), 24), tagging, train_step=lambda m: math.nan * m(torch.zeros(1, 2, 4)).sum())


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_compress_model import *

class Noisy(Tagger):
    def forward(self, x):
        return self.head(nn.functional.dropout(self.layer(x)[0], 0.1, self.training))

torch.manual_seed(0)
model = Noisy(nn.LSTM(4, 40, batch_first=True), 40)
x, target = torch.randn(8, 12, 4), torch.randn(8, 12, 3)

class Step:
    count = 0

    def __call__(self, m):
        self.count += 1
        return (m(x + 0.01 * torch.randn_like(x)) - (self.count % 3) * target).square().mean()

    def state_dict(self):
        return {{"count": self.count}}

    def load_state_dict(self, state):
        self.count = state["count"]

result = cr.compress_model(
    model, x, train_step=Step(), evaluate=lambda m: float((m(x) - target).square().mean()), budget={{"bytes": 5000}},
    steps=40, loss_allowed=10.0, weights="int8", optimizer=lambda p: torch.optim.Adam(p, 5e-3), path={path!r},
    checkpoint={checkpoint!r}, checkpoint_every=3, progress=False,
)
cr.save(result.model, {folder!r})
"""


def script(folder, checkpoint):
    names = {"tests": os.path.dirname(__file__), "path": str(folder / "a.crnn"), "folder": str(folder)}
    return SCRIPT.format(**names, checkpoint=checkpoint)


def test_killed_and_interrupted_it_ends_with_the_same_bits(tmp_path):
    """kill -9 in the pruning, and Ctrl-C in the tuning."""
    whole, killed, checkpoint = tmp_path / "whole", tmp_path / "killed", tmp_path / "checkpoint.safetensors"
    whole.mkdir()
    killed.mkdir()

    def start():
        command = [sys.executable, "-W", "ignore", "-c", script(killed, str(checkpoint))]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    for moment, by in (((False, 6), signal.SIGKILL), ((True, 6), signal.SIGINT)):
        process = start()
        while process.poll() is None and reached(checkpoint) < moment:
            time.sleep(0.01)
        process.send_signal(by)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == -by and not (killed / "model.safetensors").exists(), error
    process = start()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(script(whole, None), {})
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    for name in ("model.safetensors", "a.crnn"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def reached(path):
    """Whether it is the tuning, and the step; the file may be replaced while safetensors reads it, in two parts."""
    try:
        training = load_tree(path)["training"]
    except (cr.ModelFileError, OSError):
        return (False, -1)
    return (False, -1) if training is None else (training["stage"] == "tuning", training["step"])


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.manual_seed(0)
    model, path = Tagger(nn.LSTM(4, 24, batch_first=True), 24), tmp_path / "c.safetensors"
    first = compress(model, tagging, checkpoint=path)
    again = compress(model, tagging, checkpoint=path)
    assert first.quality == again.quality and first.sizes == again.sizes
    content, other = path.read_bytes(), copy.deepcopy(model)
    with torch.no_grad():
        other.head.bias[0] += 1
    refused = [
        (model, {"steps": 21}, "of a compression with steps = 20"),
        (model, {"budget": {"bytes": 4000}}, r"expected budget = {'bytes': 4000}"),
        (other, {}, r"of a model that differs in head.bias"),
        (model, {"optimizer": torch.optim.SGD}, "optimizer: expected that of .*AdamW"),
        (model, {"checkpoint_every": 0}, "checkpoint_every: expected a positive int"),
    ]
    for wrong, options, message in refused:
        with pytest.raises(ValueError, match=message):
            compress(wrong, tagging, checkpoint=path, **options)
        assert path.read_bytes() == content
    cr.save(model, tmp_path)
    with pytest.raises(cr.ModelFileError, match="not a checkpoint of compress_model"):
        compress(model, tagging, checkpoint=tmp_path / "model.safetensors")
    path.write_bytes(content[:-1])
    with pytest.raises(cr.ModelFileError):
        compress(model, tagging, checkpoint=path)


def test_several_rounds_and_an_optimizer_with_parameters_of_its_own_go_on(tmp_path, monkeypatch):
    """A second round of pruning goes on, too, and parameters of others stay in their places of the optimizer."""
    more = lambda self, m, types, parameters: int(0.7 * counts(m)[0]) if m.layer.hidden_size > 11 else None  # noqa: E731
    monkeypatch.setattr(Cutter, "again", more)
    own = nn.Parameter(torch.ones(1))

    def run(stop, path):
        torch.manual_seed(0)
        model, calls, own.data = Tagger(nn.LSTM(4, 40, batch_first=True), 40), [0], torch.ones(1)
        _, loss = tagging(model)

        def step(m):
            calls[0] += 1
            if calls[0] == stop:
                raise KeyboardInterrupt
            return loss(m) + 0 * own.sum()

        def optimizer(parameters):
            late = [p for p in parameters if p.dim() == 1]
            return torch.optim.Adam(
                [{"params": [p for p in parameters if p.dim() > 1]}, {"params": [own, *late]}], 1e-2
            )

        return compress(
            model, tagging, train_step=step, optimizer=optimizer, weights="int8", budget={"bytes": 4000}, steps=20,
            checkpoint=path, checkpoint_every=1,
        )  # fmt: skip

    whole = run(0, None)
    for stop in (10,):
        with pytest.raises(KeyboardInterrupt):
            run(stop, tmp_path / f"{stop}.safetensors")
        again = run(0, tmp_path / f"{stop}.safetensors")
        assert len(load_tree(tmp_path / f"{stop}.safetensors")["cuts"]) > 1
        assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in whole.model.state_dict().items())
