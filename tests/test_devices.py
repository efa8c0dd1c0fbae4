"""Two processes train as one does, write files once, stop together and resume where they stopped."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib

import pytest

from compactrnn._checkpoint import load_tree, load_weights
from compactrnn.training import check
from compactrnn.training.recipe import recipe_from
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TEXT = """
[task]
data = "alice"
[model]
embedding = 8
hidden = [12, 8]
[training]
batch_size = 8
steps = 12
shift = true
evaluate_every = 10
validation_streams = 64
checkpoint_every = 5
log_every = 5
threads = 1
[phases.train]
updates = 20
optimizer = { learning_rate = 1e-2, clip = 1.0 }
[phases.compress]
updates = 20
optimizer = { learning_rate = 3e-3, clip = 0.1 }
compress = { keep = 0.5, steps = 15 }
distill = { teacher = "train", weight = 0.5 }
"""
SEQUENCES = """
[task]
name = "adding"
steps = 12
shortest = 3
valid = 20
test = 20
[model]
cell = "MGU"
hidden = [8]
[training]
batch_size = 6
evaluate_every = 10
log_every = 100
threads = 1
[phases.train]
updates = 20
average = 0.9
optimizer = { name = "SGD", learning_rate = 0.1, momentum = 0.9 }
"""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def start(recipe, out, *more, launcher=()):
    command = [sys.executable, *launcher, "-m", "compactrnn", "train", str(recipe), "--out", str(out), "--json", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(process):
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, error
    return json.loads(out)  # the other process prints nothing


def compare(one, two):
    lines, others = RunFolder(one).evaluations(), RunFolder(two).evaluations()
    assert [(a["phase"], a["update"]) for a in lines] == [(b["phase"], b["update"]) for b in others]
    for a, b in zip(lines, others, strict=True):
        for name in a.keys() - {"phase"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), (name, a, b)
    first, second = load_weights(one / "model.safetensors"), load_weights(two / "model.safetensors")
    assert {n: t.shape for n, t in first.items()} == {n: t.shape for n, t in second.items()}
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) < 1e-3, name


def train_in_two(recipe, out):
    """Two processes of one run, forked: torch is loaded already."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}

    def run(rank):
        os.environ |= {**settings, "LOCAL_RANK": str(rank)}
        table = tomllib.loads(recipe)
        table["training"]["devices"] = 2
        train(recipe_from(table), out)

    processes = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return train_in_two(TEXT, tmp_path_factory.mktemp("devices") / "two")


def test_two_processes_train_like_one(two, tmp_path):
    """Carried states, shifts, a teacher and a pruner."""
    train(recipe_from(tomllib.loads(TEXT)), tmp_path / "one")
    compare(tmp_path / "one", two)
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    lines = [(line["event"], line["phase"], line["update"]) for line in RunFolder(two).progress_lines()]
    assert len(lines) == len(set(lines)) == 2 * (1 + 4 + 2 + 1), "written once"


def test_sequences_of_several_lengths_count_by_their_targets(tmp_path):
    train(recipe_from(tomllib.loads(SEQUENCES)), tmp_path / "one")
    compare(tmp_path / "one", train_in_two(SEQUENCES, tmp_path / "two"))


def test_processes_are_started_stop_together_and_continue(two, tmp_path):
    """Started by the command, stopped by SIGTERM, continued under torchrun: the bytes of a run that never stopped."""
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(TEXT)
    settings = ("--set", "training.devices=2")
    process = start(recipe, run, *settings)
    while not (run / "checkpoint.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # the first process alone: both stop after the same update
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 130
    tree = load_tree(run / "checkpoint.safetensors")
    assert tree["phase"] < 2 and len(tree["generators"][0]) == 2
    result = finish(start(recipe, run, *settings, "--resume", launcher=TORCHRUN))
    assert result["recipe"]["training"]["devices"] == 2 and result["updates"]["total"] == 40
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (run / name).read_bytes() == (two / name).read_bytes(), name


def test_a_run_ends_when_one_of_its_processes_is_killed(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(TEXT)
    settings = ("--set", "training.devices=2", "--set", "phases.train.updates=100000")
    process = start(recipe, tmp_path / "run", *settings)
    while not (tmp_path / "run" / "checkpoint.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    (child,) = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    os.kill(int(child), signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "another process of the run has ended" in error, error
    assert not (tmp_path / "run" / "result.json").exists()
    load_tree(tmp_path / "run" / "checkpoint.safetensors")


def table(**training):
    return {"task": {"name": "adding"}, "training": training, "phases": {"train": {"updates": 1}}}


def test_devices_that_cannot_be_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"training: devices: expected a divisor of the batch_size 6, got 4"):
        recipe_from(table(batch_size=6, devices=4))
    with pytest.raises(ValueError, match=r"training: devices: .*batch_size 2, got 3"):
        recipe_from(table(batch_size=2, devices=3))
    with pytest.raises(ValueError, match=r"training\.devices: expected at most \d+ on cpu.*got 4096"):
        train(recipe_from(table(batch_size=4096, devices=4096)), tmp_path / "run")
    monkeypatch.setattr(check, "launched_processes", lambda: (2, 2))
    for devices in (1, 4):
        with pytest.raises(
            ValueError, match=rf"training\.devices: expected 2, the processes of torchrun, got {devices}"
        ):
            train(recipe_from(table(batch_size=4, devices=devices)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
