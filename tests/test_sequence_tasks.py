"""Tasks with one target per sequence, and their models."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import compactrnn as cr
from compactrnn.models.sequence_model import SequenceModel, SequenceModelOptions
from compactrnn.models.step_norm import StepNorm
from compactrnn.tasks.adding import AddingData, AddingTask
from compactrnn.tasks.copy_memory import CopyMemoryData, CopyMemoryTask
from compactrnn.tasks.first_symbol import FirstSymbolData, FirstSymbolTask
from compactrnn.tasks.mnist import MnistData, MnistTask
from compactrnn.tasks.table import TASKS, task_of
from compactrnn.training.pack_run import pack_model

SHARED = Path(os.environ.get("COMPACTRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def adding(batch_size=8, seed=0, **data):
    return AddingTask(AddingData(**{"steps": 20, "valid": 60, "test": 70, **data}), batch_size=batch_size, seed=seed)


def first_symbol(batch_size=8, seed=0, **data):
    data = {"steps": 30, "size": 5, "valid": 20, "test": 40, **data}
    return FirstSymbolTask(FirstSymbolData(**data), batch_size=batch_size, seed=seed)


def copy_memory(batch_size=8, seed=0, **data):
    data = {"wait": 15, "valid": 60, "test": 70, **data}
    return CopyMemoryTask(CopyMemoryData(**data), batch_size=batch_size, seed=seed)


AT_LAST = [adding, first_symbol]  # answered once
GENERATED = [*AT_LAST, copy_memory]


class Knows(torch.nn.Module):
    """A stand-in for an engine that answers by `rule`."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.unused = rule, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.rule(x)


@pytest.mark.parametrize("make", GENERATED)
def test_a_batch_follows_from_seed_epoch_and_index_alone(make):
    task = make(seed=1)
    late = task.batch(7, epoch=3)
    again = make(seed=1).batch(7, epoch=3)
    assert torch.equal(late.inputs, again.inputs) and torch.equal(late.targets, again.targets)
    for other in (make(seed=2).batch(7, 3), task.batch(8, 3), task.batch(7, 4)):
        assert not torch.equal(late.inputs, other.inputs)
    assert late.inputs.transpose(0, 1).is_contiguous(), "time first in memory"


@pytest.mark.parametrize("make", GENERATED)
def test_validation_and_test_are_fixed_and_apart(make):
    def whole(task, part):
        return torch.cat([batch.inputs for batch in task.batches(part)])

    task, other = make(seed=1, batch_size=4), make(seed=2, batch_size=8)
    for part in ("valid", "test"):
        assert torch.equal(whole(task, part), whole(other, part))
        assert len(whole(task, part)) == task.counts(part)["sequences"]
    assert not torch.equal(whole(task, "valid")[:10], whole(task, "test")[:10])
    assert not torch.equal(whole(make(seed=0), "train")[:10], whole(task, "valid")[:10])


def test_the_baseline_of_adding_is_a_sixth():
    task = adding(test=4000)
    assert task.evaluate(Knows(lambda x: torch.ones(len(x), 1)), "test") == pytest.approx(1 / 6, abs=0.01)
    assert task.evaluate(Knows(lambda x: x.prod(-1).sum(1, keepdim=True)), "test") == pytest.approx(0, abs=1e-12)
    inputs = task.batch(0).inputs
    halves = inputs[..., 1].unflatten(1, (2, 10)).sum(-1)
    assert torch.equal(halves, torch.ones(8, 2))
    with pytest.raises(ValueError, match=r"adding: .*got steps 1"):
        AddingData(steps=1)


def test_the_first_symbol_is_all_that_tells():
    task = first_symbol(test=400)
    batch = task.batch(0)
    scores = torch.nn.functional.one_hot(batch.targets, 2).float()
    assert task.solved(scores, batch) and not task.solved(1 - scores, batch)
    right = Knows(lambda x: torch.stack([-x[:, 0].sum(1), x[:, 0].sum(1)], 1))
    assert task.evaluate(right, "test") == 0 and task.extra_metrics(0.0) == {"accuracy": 100.0}
    assert task.evaluate(Knows(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2)), "test") == pytest.approx(
        50, abs=8
    )
    assert ((batch.inputs != 0).sum(-1) == 1).all()


def one_hot(symbols, largest=1.0):
    return largest * torch.nn.functional.one_hot(symbols, 9).float()


def test_a_copy_is_asked_for_after_the_wait():
    """The form of Arjovsky et al., symbol by symbol, and what is known of its metrics."""
    task, blank, go = copy_memory(wait=6), 8, 9
    x, y = task.batch(0).inputs.argmax(-1), task.batch(0).targets
    assert x.shape == y.shape == (8, 26) and x[:, :10].max() < 8
    assert (x[:, 10:15] == blank).all() and (x[:, 15] == go).all() and (x[:, 16:] == blank).all()
    assert (y[:, :16] == blank).all() and torch.equal(y[:, 16:], x[:, :10])

    def without_memory(inputs):
        """Blank until the sign to go is seen, then each symbol as likely as the others."""
        waiting = inputs[..., go].cumsum(1) - inputs[..., go] == 0
        return torch.where(waiting[..., None], one_hot(torch.tensor(blank), 50.0), -50.0 * one_hot(torch.tensor(blank)))

    def memory(inputs):
        symbols = torch.cat([torch.full((len(inputs), 16), blank), inputs[:, :10].argmax(-1)], 1)
        return one_hot(symbols, 50.0)

    scores = task.scores(Knows(without_memory), "test")
    assert scores["nats"] == pytest.approx(task.memoryless) == pytest.approx(10 * math.log(8) / 26)
    assert scores["recall_error"] == pytest.approx(87.5, abs=3)
    assert task.scores(Knows(memory), "test") == pytest.approx({"nats": 0.0, "recall_error": 0.0}, abs=1e-6)
    batch = task.batch(3)
    assert task.loss(without_memory(batch.inputs), batch) == pytest.approx(task.memoryless)
    with pytest.raises(ValueError, match=r"copy_memory: .*got wait 1, valid 0"):
        CopyMemoryData(wait=1, valid=0)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_packed_model_answers_at_every_step(weights, tmp_path):
    torch.manual_seed(0)
    task = copy_memory()
    model = task.build_model(SequenceModelOptions(cell="OrthogonalRNN", hidden=(12,))).eval()
    pack_model(model, task, tmp_path / "model.crnn", weights)
    engine = cr.Engine(tmp_path / "model.crnn")
    again = task_of(engine.metadata)
    assert again.steps == task.steps
    wanted = task.scores(model, "test")
    assert again.engine_scores(engine, "test") == pytest.approx(wanted, rel=1e-5 if weights == "float32" else 0.03)


def test_batches_of_long_sequences_are_small():
    task = first_symbol(steps=1 << 16, size=512, valid=4)
    assert next(task.batches("valid")).inputs.shape == (2, 1 << 16, 512)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "MGU"])
def test_the_model_is_its_layers_one_after_the_other(cell):
    torch.manual_seed(0)
    model = SequenceModel(3, 2, SequenceModelOptions(hidden=(6, 6), cell=cell, norm="batch", residual=True)).train()
    x = torch.randn(5, 9, 3)
    for _ in range(3):
        model(x)
    model.eval()
    one, two = model.layers
    first = model.norms[0](one(x.transpose(0, 1))[0])
    second = model.norms[1](two(first)[0]) + first
    torch.testing.assert_close(model(x), model.output(second[-1]))
    assert model.layer_sizes() == (6, 6)
    assert model.recurrent_parameters() == sum(p.numel() for p in model.layers.parameters())


def test_norm_is_torchs_over_batch_and_time():
    mine, wanted = StepNorm(4), torch.nn.BatchNorm1d(4)
    x = torch.randn(7, 5, 4) * 3 + 1
    torch.testing.assert_close(mine(x), wanted(x.permute(1, 2, 0)).permute(2, 0, 1))
    torch.testing.assert_close(mine.eval()(x), wanted.eval()(x.permute(1, 2, 0)).permute(2, 0, 1))


def test_dropout_leaves_out_the_same_units_at_every_step():
    model = SequenceModel(3, 2, SequenceModelOptions(hidden=(8, 8), dropout=0.5)).train()
    seen = []
    model.layers[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    model(torch.randn(4, 6, 3))
    zero = seen[0] == 0
    assert torch.equal(zero, zero[:1].expand_as(zero)) and 0 < zero.float().mean() < 1
    model.adjust(SequenceModelOptions(dropout=0.0))
    model(torch.randn(4, 6, 3))
    assert not (seen[1] == 0).any()


def test_model_options():
    for options, words in (
        ({"cell": "Transformer"}, r"model.cell: .*got 'Transformer'"),
        ({"cell": "MGU", "cell_options": {"speed": 3}}, r"options of MGU: .*got speed=3"),
        ({"cell": "LSTM", "cell_options": {"speed": 3}}, "expected options of LSTM"),
        ({"hidden": ()}, "model.hidden"),
        ({"hidden": (3, 4), "residual": True}, "model.residual"),
    ):
        with pytest.raises(ValueError, match=words):
            SequenceModel(3, 2, SequenceModelOptions(**options))
    low = SequenceModelOptions(hidden=(16,), hidden_weight={"kind": "LowRank", "rank": 2})
    assert (
        SequenceModel(3, 2, low).recurrent_parameters()
        < SequenceModel(3, 2, SequenceModelOptions(hidden=(16,))).recurrent_parameters()
    )
    last = SequenceModelOptions(cell="MGU", hidden=(4, 4), last_cell_options={"bias": False})
    first, second = SequenceModel(3, 2, last).layers
    assert first.cells[0][0].input_bias is not None and second.cells[0][0].input_bias is None


@pytest.mark.parametrize("make", AT_LAST)
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_packed_model_streams_and_is_evaluated_like_torch(make, weights, tmp_path):
    torch.manual_seed(0)
    task = make()
    model = task.build_model(SequenceModelOptions(cell="MGU", hidden=(8, 8), norm="batch", residual=True, dropout=0.1))
    model.train()
    for index in range(20):
        task.forward(model, task.batch(index), None)
    pack_model(model, task, tmp_path / "model.crnn", weights)
    engine = cr.Engine(tmp_path / "model.crnn")
    again = task_of(engine.metadata)
    assert again.counts("test") == task.counts("test")
    assert again.evaluate_engine(engine, "test") == pytest.approx(task.evaluate(model, "test"), rel=0.03)
    x = next(task.batches("valid")).inputs[0]
    stream = engine.stream()
    with torch.no_grad():
        for steps, row in enumerate(x.numpy(), 1):
            y = stream.step(np.ascontiguousarray(row))
            wanted = model.eval()(x[None, :steps])[0].numpy()
            np.testing.assert_allclose(y, wanted, atol=1e-5 if weights == "float32" else 0.05)


def test_metadata_of_a_packed_model_names_the_task():
    for name, kind in TASKS.items():
        assert kind.data_options().name == name
    with pytest.raises(ValueError, match=r"model metadata: .*got task"):
        task_of({"task": {"name": "chess"}})
    with pytest.raises(ValueError, match="model metadata: task: speed"):
        task_of({"task": {"name": "adding", "speed": 3}})


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no MNIST in the data folder")
class TestMnist:
    @pytest.fixture(autouse=True)
    def _data(self, monkeypatch):
        monkeypatch.setenv("COMPACTRNN_DATA", str(SHARED))

    def test_parts(self):
        task = MnistTask(MnistData(), batch_size=100)
        assert [task.counts(p)["sequences"] for p in ("train", "valid", "test")] == [55_000, 5_000, 10_000]
        assert task.updates_per_epoch() == 550
        labels = np.concatenate([task.parts[p][1] for p in ("train", "valid")])
        published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert np.bincount(labels).tolist() == published
        batch = next(task.batches("test"))
        inputs, targets = batch.inputs, batch.targets
        assert inputs.shape == (500, 784, 1) and targets[:4].tolist() == [7, 2, 1, 0]
        assert inputs.min() == 0 and inputs.max() == 1

    def test_each_epoch_shows_every_image_once_in_another_order(self):
        task = MnistTask(MnistData(train=200), batch_size=50, seed=3)
        epochs = [torch.cat([task.batch(i, e).inputs for i in range(4)])[..., 0] for e in (0, 1)]
        images = task.parts["train"][0]
        assert not torch.equal(*epochs)
        for epoch in epochs:
            assert sorted(map(bytes, (255 * epoch).round().byte().numpy())) == sorted(map(bytes, images))
        assert torch.equal(task.batch(2, 0).inputs[..., 0], epochs[0][100:150]), (
            "an earlier epoch can be asked for again"
        )

    def test_permuted_images_are_permuted_alike(self):
        rows = MnistTask(MnistData(), batch_size=4)
        permuted = MnistTask(MnistData(order="permuted", permutation_seed=5), batch_size=4)
        order = np.random.RandomState(5).permutation(784)
        for part in ("train", "test"):
            assert np.array_equal(rows.parts[part][0][:, order], permuted.parts[part][0])
        with pytest.raises(ValueError, match="batch_size"):
            MnistTask(MnistData(train=10), batch_size=11)


def test_settled_statistics_are_those_of_the_weights():
    torch.manual_seed(0)
    model = SequenceModel(2, 3, SequenceModelOptions(hidden=(6, 5), cell="IndRNN", norm="batch", dropout=0.5))
    batches = [torch.randn(16, 9, 2) for _ in range(4)]
    model(batches[0])
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.mul_(1.3)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    model.eval()
    model.update_statistics((x,) for x in batches)
    assert not model.training and model.dropout == 0.5 and model.norms[0].momentum == 0.1
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    with torch.no_grad():
        outputs = [model.layers[0](x.transpose(0, 1))[0] for x in batches]
    assert_close(model.norms[0].running_mean, torch.stack([y.mean((0, 1)) for y in outputs]).mean(0))
    assert_close(model.norms[0].running_var, torch.stack([y.flatten(0, 1).var(0) for y in outputs]).mean(0))
