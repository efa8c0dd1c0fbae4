"""Batches of sequences of several lengths: each sequence gives what it gives alone, in models and engines."""

import pytest
import torch
from torch.nn import functional

import compactrnn as cr
from compactrnn.compress import distillation_loss
from compactrnn.models import SequenceModel, SequenceModelOptions
from compactrnn.models.step_norm import StepNorm
from compactrnn.tasks.adding import AddingData, AddingTask
from compactrnn.tasks.batch import Batch
from compactrnn.tasks.table import TASKS, task_of
from compactrnn.training.pack_run import pack_run
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from running_sign import RunningSign, RunningSignData

LENGTHS = torch.tensor([3, 7, 1, 7, 5])


def built(every_step, **options):
    torch.manual_seed(0)
    return SequenceModel(2, 3, SequenceModelOptions(hidden=(6, 6), **options), every_step).double()


def padded(lengths=LENGTHS):
    x = torch.randn(len(lengths), int(lengths.max()), 2, dtype=torch.float64)
    x[torch.arange(x.shape[1]) >= lengths[:, None]] = torch.nan
    return x


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN", "MGU", "IndRNN", "DuRNN", "GILR", "MinGRU"])
def test_each_sequence_is_computed_as_if_it_were_alone(cell, every_step):
    """Outputs and gradients, with norms and a residual sum; padded inputs are NaN."""
    model = built(every_step, cell=cell, norm="batch", residual=True).eval()
    x = padded()
    got = model(x, LENGTHS)
    alone = [model(row[None, :length])[0] for row, length in zip(x, LENGTHS, strict=True)]
    found = [y[:length] for y, length in zip(got, LENGTHS, strict=True)] if every_step else list(got)
    for y, wanted in zip(found, alone, strict=True):
        torch.testing.assert_close(y, wanted)
    gradients = torch.autograd.grad(sum(y.square().sum() for y in found), list(model.parameters()))
    wanted = torch.autograd.grad(sum(y.square().sum() for y in alone), list(model.parameters()))
    torch.testing.assert_close(gradients, wanted)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("every_step", [False, True])
def test_equal_lengths_are_no_lengths(every_step):
    model, x = built(every_step, norm="batch").train(), padded(torch.tensor([7, 7, 7]))
    torch.testing.assert_close(model(x, torch.tensor([7, 7, 7])), model(x))


def test_norms_take_their_statistics_from_what_is_no_padding():
    model, x = built(True, cell="MGU", norm="batch").train(), padded()
    model(x, LENGTHS)
    rows = [model.layers[0](row[None, :length].transpose(0, 1))[0] for row, length in zip(x, LENGTHS, strict=True)]
    wanted = StepNorm(6).double()
    wanted(torch.cat([row.flatten(0, 1) for row in rows]))
    torch.testing.assert_close(model.norms[0].running_mean, wanted.running_mean)
    torch.testing.assert_close(model.norms[0].running_var, wanted.running_var)


def test_dropout_drops_the_same_units_at_every_step_of_a_sequence():
    model, x, seen = built(True, dropout=0.5).train(), padded(), []
    model.layers[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    model(x, LENGTHS)
    zero, lengths = torch.nn.utils.rnn.pad_packed_sequence(seen[0], batch_first=True, padding_value=torch.nan)
    for row, length in zip(zero == 0, lengths, strict=True):
        assert torch.equal(row[:length], row[:1].expand(length, -1))
    assert len({tuple((row[0] == 0).tolist()) for row in zero}) > 1, "another choice for each sequence"


def test_batches_say_what_is_wrong_with_their_lengths():
    x, y = torch.zeros(3, 4, 2), torch.zeros(3)
    for lengths, words in (
        (torch.tensor([1, 4, 0]), r"lengths: expected 1 to 4.*got 0 to 4"),
        (torch.tensor([1, 5, 2]), r"got 1 to 5"),
        (torch.tensor([1, 2]), r"expected torch\.int64 \(3,\) on cpu, got torch\.int64 \(2,\)"),
        (torch.tensor([1.0, 2.0, 3.0]), r"got torch\.float32"),
    ):
        with pytest.raises(ValueError, match=words):
            Batch(x, y, lengths)
    with pytest.raises(ValueError, match=r"batch: expected a target each, got 3 inputs and 2 targets"):
        Batch(x, y[:2])
    part = Batch(x, y, torch.tensor([1, 4, 2])).rows(1, 3)
    assert part.steps() == 6 and part.lengths is not None and part.lengths.tolist() == [4, 2]
    assert Batch(x, y).steps() == 12


def test_losses_errors_and_teachers_see_no_padding():
    task = RunningSign(RunningSignData(), batch_size=9)
    batch = task.batch(0)
    assert batch.lengths is not None
    model = task.build_model(SequenceModelOptions(hidden=(5,)))
    outputs = task.forward(model, batch, None)[0]
    kept = [(o[:n], t[:n]) for o, t, n in zip(outputs, batch.targets, batch.lengths, strict=True)]
    answers, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
    torch.testing.assert_close(task.loss(outputs, batch), functional.cross_entropy(answers, targets))
    teacher = torch.randn_like(outputs)
    wanted = distillation_loss(answers, torch.cat([t[:n] for t, n in zip(teacher, batch.lengths, strict=True)]))
    got = distillation_loss(task.answers(outputs, batch), task.answers(teacher, batch))
    torch.testing.assert_close(got, wanted)
    wrong = [
        (model(row[None, :n])[0].argmax(-1) != t[:n]).double()
        for batch in task.batches("test")
        for row, t, n in zip(batch.inputs, batch.targets, batch.lengths, strict=True)
    ]
    assert task.evaluate(model, "test") == pytest.approx(100 * float(torch.cat(wrong).mean()))


def test_adding_draws_lengths_and_marks_within_them():
    task = AddingTask(AddingData(steps=30, shortest=4), batch_size=200)
    batch = task.batch(3)
    assert batch.lengths is not None
    assert batch.lengths.min() >= 4 and batch.lengths.max() <= 30 and len(batch.lengths.unique()) > 15
    for x, target, n in zip(batch.inputs, batch.targets, batch.lengths.tolist(), strict=True):
        assert not x[n:].any() and x[: n // 2, 1].sum() == 1 and x[n // 2 : n, 1].sum() == 1
        assert float(x.prod(-1).sum()) == pytest.approx(float(target))
    with pytest.raises(ValueError, match=r"adding: shortest: expected 2 to 30, the steps, got 31"):
        AddingData(steps=30, shortest=31)


RECIPES = {
    "adding": {"name": "adding", "steps": 12, "shortest": 2, "valid": 40, "test": 60},
    "running sign": {"name": "running_sign", "steps": 12},
}


@pytest.mark.parametrize("name", RECIPES)
def test_from_the_recipe_to_the_engine(name, tmp_path, monkeypatch):
    """Trained, shrunk, distilled from the large model, packed, and evaluated on the engine as in torch."""
    monkeypatch.setitem(TASKS, "running_sign", RunningSign)
    adam = {"learning_rate": 1e-2, "clip": 1.0}
    recipe = {
        "task": RECIPES[name],
        "model": {"cell": "GRU", "hidden": [12, 8]},
        "training": {"batch_size": 16, "evaluate_every": 50, "threads": 1},
        "phases": {
            "train": {"updates": 150, "optimizer": adam},
            "compress": {"updates": 40, "compress": {"keep": 0.5, "steps": 30}, "optimizer": adam},
            "tune": {"updates": 50, "distill": {"teacher": "train", "weight": 0.5}, "optimizer": adam},
        },
    }
    if name == "adding":  # numbers, no logits
        with pytest.raises(ValueError, match=r"tune\.distill\.weight: expected 0 with adding.* no logits, got 0\.5"):
            recipe_from(recipe)
        del recipe["phases"]["tune"]["distill"]
    result = train(recipe_from(recipe), tmp_path / "run")
    model, task, _ = RunFolder(tmp_path / "run").load()
    assert model.layer_sizes() == (6, 4)
    assert result["test"] < (0.1 if name == "adding" else 25), "a constant gets 0.167 and 50"
    pack_run(tmp_path / "run", tmp_path / "model.crnn", "float32")
    engine = cr.Engine(tmp_path / "model.crnn")
    again = task_of(engine.metadata)
    assert again.evaluate_engine(engine, "test") == pytest.approx(result["test"], rel=1e-4)
    assert task.evaluate(model, "test") == result["test"]
