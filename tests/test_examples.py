"""The examples run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import compactrnn as cr
from scripts import example_module
from step_models import GRUStep

ROOT = Path(__file__).resolve().parents[1]


SHARED = Path(os.environ.get("COMPACTRNN_DATA") or ROOT.parent / "shared" / "data")
APART = {"attention_over_depth.py", "denoise_file.py"}  # below, and in test_denoise_file.py
SCRIPTS = sorted({p.name for p in (ROOT / "examples").glob("*.py")} - APART)


@pytest.mark.parametrize("script", SCRIPTS)
def test_example(script):
    done = subprocess.run([sys.executable, ROOT / "examples" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_cell_is_the_attention_of_all_blocks():
    torch.manual_seed(0)
    network = example_module("attention_over_depth").ResidualNetwork(32, 3, attention=True).eval()
    x, seen = torch.rand(2, 1, 28, 28), []
    network.attention.register_forward_hook(lambda cell, given, result: seen.append((given, result)))
    network(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.attention.parameters())
    assert [given[1] is None for given, _ in seen] == [True, False, False]
    state, inner = network.stem(x), None
    for block, ((pooled, states), (weights, inner_after)) in zip(network.blocks, seen, strict=True):
        assert states is inner and bool(((0 < weights) & (weights < 1)).all())
        torch.testing.assert_close(pooled, block(state).mean((2, 3)))
        state, inner = torch.relu(state + block(state) * weights[:, :, None, None]), inner_after
    torch.testing.assert_close(network(x), network.head(state.mean((2, 3))))


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="no MNIST in the data folder")
def test_attention_over_depth_compares_both_networks():
    given = ["--images", "256", "--epochs", "1", "--blocks", "1", "--channels", "4", "--seeds", "0"]
    command = [sys.executable, ROOT / "examples/attention_over_depth.py", *given]
    environment = os.environ | {"COMPACTRNN_DATA": str(SHARED)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "without attention",
        "with DIALSTM over depth",
    ]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_example_in_c_starts_from_the_given_state(tmp_path):
    program, model = tmp_path / "stateful", tmp_path / "m.crnn"
    core = sorted((ROOT / "native").glob("cr_*.c"))
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{ROOT / 'native'}"]
    subprocess.run(["cc", *flags, ROOT / "examples/stateful.c", *core, "-lm", "-o", program], check=True)
    torch.manual_seed(0)
    cr.pack(GRUStep(), model, (torch.randn(1, 6), torch.zeros(1, 16)), weights="float32", states=["h"])
    stream, h, x = cr.Engine(model).stream(), np.float32(np.random.randn(16)), np.float32(np.random.randn(9, 6))
    given = " ".join(f"{v:.9g}" for v in (*h, *x.ravel()))
    (state,) = stream.states
    done = subprocess.run([program, model, str(state.buffer)], input=given, capture_output=True, text=True, check=True)
    *ys, after = [np.array(line.split(), np.float32) for line in done.stdout.splitlines()]
    stream.reset(h=h)
    assert np.array_equal(np.stack(ys), stream.run(x)) and np.array_equal(after, stream.get_state("h"))
    for arguments, words in (
        ([model], "MODEL.crnn BUFFER"),
        ([model, "0"], "no state"),
        ([ROOT / "README.md", "0"], "file"),
    ):
        wrong = subprocess.run([program, *arguments], input="", capture_output=True, text=True)
        assert wrong.returncode == 1 and words in wrong.stderr
