"""Polyphonic music: the file, the task, and a model of it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import compactrnn as cr
from compactrnn.data import load_polymusic
from compactrnn.models.sequence_model import SequenceModelOptions
from compactrnn.tasks.music import MusicData, MusicTask
from compactrnn.tasks.table import task_of
from compactrnn.training.pack_run import pack_model

SHARED = Path(os.environ.get("COMPACTRNN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
LENGTHS = {"train": [5, 2, 9, 4, 7], "valid": [6, 3], "test": [4, 8, 2]}


def arrays(**changes):
    random = np.random.default_rng(0)
    made = {}
    for part, lengths in LENGTHS.items():
        rows = random.random((sum(lengths), 88)) < 0.05
        made[f"JSB_Chorales/{part}/bits"] = np.packbits(rows, axis=1)
        made[f"JSB_Chorales/{part}/len"] = np.array(lengths)
    return {**made, **changes}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    (tmp_path / "polymusic").mkdir()
    return lambda **changes: np.savez(tmp_path / "polymusic" / "polymusic.npz", **arrays(**changes))


def test_every_step_but_the_first_is_predicted_from_those_before(write):
    write()
    pieces = load_polymusic("JSB_Chorales").train
    assert [len(piece) for piece in pieces] == LENGTHS["train"]
    task = MusicTask(MusicData(), batch_size=2)
    assert task.counts("train") == {"sequences": 5, "steps": 22} and task.updates_per_epoch() == 2 and task.steps == 8
    (whole,) = task.batches("train")
    for number, piece in enumerate(pieces):
        steps = len(piece) - 1
        assert whole.lengths[number] == steps
        assert np.array_equal(whole.inputs[number, :steps].numpy(), piece[:-1].astype(np.float32))
        assert np.array_equal(whole.targets[number, :steps].numpy(), piece[1:].astype(np.float32))
    seen = [tuple(task.batch(index, 3).lengths.tolist()) for index in (0, 1)]
    assert seen == [tuple(MusicTask(MusicData(), batch_size=2).batch(index, 3).lengths.tolist()) for index in (0, 1)]


def test_the_metric_is_the_mean_over_all_steps_of_the_sum_over_the_keys(write):
    write()
    task = MusicTask(MusicData(), batch_size=5)
    (batch,) = task.batches("test")
    logits = torch.randn(3, 7, 88, generator=torch.Generator().manual_seed(0))
    answers = task.answers(logits, batch)
    total = 0.0
    for piece, row in zip(load_polymusic("JSB_Chorales").test, logits.double().numpy(), strict=True):
        likelihood = 1 / (1 + np.exp(-row[: len(piece) - 1]))
        total -= np.log(np.where(piece[1:], likelihood, 1 - likelihood)).sum()
    found, count = task.errors(answers, batch)["nats"]
    assert count == 11 and found == pytest.approx(total) and task.loss(logits, batch) == pytest.approx(total / 11)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_packed_model_is_evaluated_like_torch(write, weights, tmp_path):
    write()
    torch.manual_seed(0)
    task = MusicTask(MusicData(), batch_size=2)
    model = task.build_model(SequenceModelOptions(cell="GRU", hidden=(12,))).eval()
    pack_model(model, task, tmp_path / "model.crnn", weights)
    engine = cr.Engine(tmp_path / "model.crnn")
    wanted = task.evaluate(model, "test")
    assert task_of(engine.metadata).evaluate_engine(engine, "test") == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"JSB_Chorales/valid/bits": np.zeros((9, 10), np.uint8)}, r"uint8 \(9, 10\), lengths"),
        ({"JSB_Chorales/valid/bits": np.zeros((9, 11))}, r"float64 \(9, 11\)"),
        ({"JSB_Chorales/valid/len": np.array([6, 4])}, "as long together"),
        ({"JSB_Chorales/valid/len": np.array([8, 1])}, "two steps or more"),
        ({"JSB_Chorales/valid/len": np.array([6.0, 3.0])}, "lengths float64"),
        ({"JSB_Chorales/valid/len": np.array([], int)}, "lengths"),
    ],
)
def test_other_files_are_refused(write, changes, message):
    write(**changes)
    with pytest.raises(ValueError, match=f"polyphonic music: .*{message}"):
        load_polymusic("JSB_Chorales")


def test_what_is_not_there_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"no polymusic.npz in .*compactrnn data list"):
        load_polymusic("Nottingham")
    write()
    with pytest.raises(ValueError, match="polyphonic music: expected arrays"):
        load_polymusic("Nottingham")
    with pytest.raises(ValueError, match="expected one of JSB_Chorales"):
        load_polymusic("Jazz")
    with pytest.raises(ValueError, match="batch_size: expected at most the 5 training pieces, got 6"):
        MusicTask(MusicData(), batch_size=6)
    file = tmp_path / "polymusic" / "polymusic.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"polyphonic music: expected an .npz file of plain arrays"):
        load_polymusic("JSB_Chorales")


@pytest.mark.skipif(not (SHARED / "polymusic").is_dir(), reason="no music in the data folder")
def test_the_corpora_are_those_that_are_known(monkeypatch):
    monkeypatch.setenv("COMPACTRNN_DATA", str(SHARED))
    music = load_polymusic("JSB_Chorales")
    assert [len(part) for part in (music.train, music.valid, music.test)] == [229, 76, 77]
    assert [sum(map(len, part)) for part in (music.train, music.valid, music.test)] == [13_807, 4_602, 4_725]
    assert len(load_polymusic("Nottingham").train) == 694
