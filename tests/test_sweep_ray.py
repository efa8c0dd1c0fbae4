"""A sweep on Ray: workers, one of which is killed, Ctrl-C, a cluster by its address. It starts a dozen processes."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

import pytest

from compactrnn.training.recipe import load_recipe
from compactrnn.training.run_folder import RunFolder
from compactrnn.training.train import train
from run_folders import invoke

pytest.importorskip("ray", reason="needs Ray: pip install '.[sweep]'")

RECIPE = """
[task]
name = "adding"
steps = 16
valid = 50
test = 50
[model]
hidden = [8]
[training]
batch_size = 16
evaluate_every = 100
checkpoint_every = 10
threads = 1
[phases.dense]
updates = 40
[phases.prune]
updates = 400
compress = { method = "magnitude", keep = 0.5, steps = 40 }
"""
TWELVE = ("--over", "budget=0.5,0.25", "--over", "cell=LSTM,GRU", "--over", "seed=0,1,2", "--workers", "2")
LONGEST = 240  # seconds


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def environment(token):
    return {**os.environ, **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})}


def start(recipe, out, *options, token=None):
    """The command as a process that Ctrl-C reaches; `token` is that of a cluster."""
    command = [sys.executable, "-m", "compactrnn", "sweep", str(recipe), "--out", str(out), "--json", *options]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(token)
        )
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process, code=0):
    """Standard output as JSON if there is any, standard error in one line."""
    output, error = process.communicate(timeout=LONGEST)
    assert process.returncode == code and "Traceback" not in error, error
    return json.loads(output) if output else None, " ".join(error.split())


def wait_for(found, process=None):
    """What `found` gives, as soon as it is not empty."""
    until = time.monotonic() + LONGEST
    while not (value := found()) and time.monotonic() < until and (process is None or process.poll() is None):
        time.sleep(0.005)
    assert value, process and process.communicate(timeout=LONGEST)
    return value


def listens(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def training(out):
    """Process and folder of a point that is being trained and has a checkpoint."""
    for path in out.glob("cell=*/.lock"):
        folder = RunFolder(path.parent)
        try:
            last, pid = folder.last_progress(), int(path.read_text() or 0)
        except (FileNotFoundError, ValueError):
            continue
        if pid and last and last["phase"] == "prune" and folder.checkpoint.exists() and not folder.result.exists():
            return pid, path.parent
    return None


def goes_on(folder, pid):
    """Whether another process than `pid` trains in the folder."""
    try:
        return int((folder / ".lock").read_text() or pid) != pid
    except FileNotFoundError:
        return False


def results(out):
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cell=*/result.json")}


@pytest.fixture
def head():
    """The address and the token of a Ray cluster."""
    token = secrets.token_hex(32)
    folder = tempfile.mkdtemp()  # that of the test is too long for the paths of sockets
    with socket.socket() as one, socket.socket() as another:
        for free in (one, another):
            free.bind(("127.0.0.1", 0))
        port, client = (free.getsockname()[1] for free in (one, another))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [
        f"--ray-client-server-port={client}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--object-store-memory=80000000",
    ]
    command += ["--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(token))
    try:
        yield f"127.0.0.1:{port}", token
    finally:
        process.terminate()
        process.wait(LONGEST)
        shutil.rmtree(folder)


def test_twelve_runs_survive_a_killed_worker_and_ctrl_c_and_go_on_elsewhere(recipe, tmp_path, head):
    out = tmp_path / "out"
    process = start(recipe, out, *TWELVE)
    pid, killed = wait_for(lambda: training(out), process)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: goes_on(killed, pid), process)
    wait_for(lambda: len(results(out)) >= 3, process)
    process.send_signal(signal.SIGINT)
    output, error = finish(process, 130)
    assert output is None and f"{killed.name}: its process has ended" in error and "the same command" in error
    before = results(out)
    assert 3 <= len(before) < 12 and not (out / "sweep.json").exists() and not list(out.glob("**/.lock"))

    address, token = head
    wait_for(lambda: listens(address))
    outcome, error = finish(start(recipe, out, *TWELVE, "--address", address, token=token))
    assert len(outcome["runs"]) == 12 and all(row["state"] == "finished" for row in outcome["runs"])
    after = results(out)
    assert {name: after[name] for name in before} == before and f"{next(iter(before))}:" not in error
    values = dict(part.split("=") for part in killed.name.split(","))
    settings = [f"training.seed={values['seed']}", f"model.cell={values['cell']}"]
    train(load_recipe(recipe, [*settings, f"phases.prune.compress.keep={values['keep']}"]), tmp_path / "whole")
    for name in ("model", "metrics"):
        whole, swept = (getattr(RunFolder(folder), name) for folder in (tmp_path / "whole", killed))
        assert whole.read_bytes() == swept.read_bytes(), "as if nothing had been killed"
    assert len(list((out / "shared").iterdir())) == 6, "the dense phase is trained once for each cell and seed"
    assert json.loads((out / "sweep.json").read_text()) == {k: v for k, v in outcome.items() if k != "out"}
    configurations = outcome["configurations"]
    assert len(configurations) == 4 and all(row["count"] == 3 for row in configurations)
    assert configurations[0]["frontier"] and configurations[0]["name"] in (out / "frontier.svg").read_text()
    assert ElementTree.parse(out / "frontier.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nobody_listens(recipe, tmp_path, address):
    result = invoke("sweep", recipe, "--over", "seed=0,1", "--out", tmp_path / "out", "--address", address)
    assert result.exit_code == 2 and "--address: expected auto, HOST:PORT" in result.stderr, result.exception
    assert address in result.stderr and not (tmp_path / "out").exists()
