"""A run that is killed three times ends with the bytes of a run that was not."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from compactrnn.training.trainer import Trainer

RECIPE = """
[task]
data = "alice"

[model]
embedding = 8
hidden = [24, 24]
dropout = 0.2

[training]
batch_size = 16
steps = 16
shift = true
evaluate_every = 50
validation_streams = 64
checkpoint_every = 2
log_every = 10
threads = 1

[phases.train]
updates = 80
patience = 50
optimizer = { learning_rate = 5e-3, clip = 1.0 }
schedule = { name = "plateau" }

[phases.compress]
updates = 80
model = { dropout = 0.1 }
optimizer = { learning_rate = 3e-3, clip = 1.0 }
compress = { keep = 0.4, steps = 60 }

[phases.tune]
updates = 200
optimizer = { name = "SGD", learning_rate = 0.1, momentum = 0.9, clip = 1.0 }
schedule = { name = "cosine", warmup = 10 }
distill = { teacher = "train", weight = 0.5, temperature = 2.0 }
average = 0.95
"""


def start(recipe, out):
    command = [sys.executable, "-m", "compactrnn", "train", str(recipe), "--out", str(out), "--resume", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error


def place(line):
    """What is the same in every run of the recipe."""
    return tuple(line.get(name) for name in ("event", "phase", "update", "train_loss", "validation", "learning_rate"))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_stopped(recipe, stop, folder, monkeypatch):
    """A run that `stop` ends at a checkpoint, and that goes on, has the bytes of one that was not stopped."""
    train(recipe, folder / "whole")
    monkeypatch.setattr(Trainer, "checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder / "stopped", resume=True)
    monkeypatch.undo()
    train(recipe, folder / "stopped", resume=True)
    assert digest(folder / "whole/model.safetensors") == digest(folder / "stopped/model.safetensors")


def test_kill_nine_in_each_phase_changes_nothing(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(recipe, whole)
    for sign in ("checkpoint.safetensors", "phases/train.safetensors", "phases/compress.safetensors"):
        process = start(recipe, killed)
        while not (killed / sign).exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        assert not (killed / "result.json").exists()
    finish(start(recipe, killed))
    finish(uninterrupted)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert digest(whole / name) == digest(killed / name), name
    lines, again = ([place(line) for line in RunFolder(run).progress_lines()] for run in (whole, killed))
    assert lines == again and len(set(again)) == len(again), "no line of the progress is missing or there twice"
    assert json.loads((killed / "config.json").read_text())["model"]["hidden"] != [24, 24], "nothing was compressed"


def test_a_run_stopped_between_two_phases_goes_on_with_the_same_random_numbers(tmp_path, monkeypatch):
    recipe = recipe_from(tomllib.loads(RECIPE), "recipe")
    checkpoint = Trainer.checkpoint

    def stop_before_tuning(trainer, phase, run):
        checkpoint(trainer, phase, run)
        if phase == 2 and run is None:
            raise KeyboardInterrupt

    check_stopped(recipe, stop_before_tuning, tmp_path, monkeypatch)


def test_a_run_goes_on_whose_weights_have_as_many_numbers_as_chance_gave_them(tmp_path, monkeypatch):
    """Blocks at the end of a row are smaller, so their number depends on which ones a seed has drawn."""
    table = tomllib.loads(RECIPE)
    table["model"] = {"embedding": 9, "hidden": [24], "input_weight": {"kind": "BlockSparse", "keep": 0.4}}
    table["phases"] = {"train": {"updates": 60, "average": 0.9}}
    recipe, checkpoint = recipe_from(table, "recipe"), Trainer.checkpoint

    def stop(trainer, phase, run):
        checkpoint(trainer, phase, run)
        if run is not None and run.update >= 20:
            raise KeyboardInterrupt

    check_stopped(recipe, stop, tmp_path, monkeypatch)
