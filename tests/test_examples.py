"""The examples run."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import compactrnn as cr
from step_models import GRUStep

ROOT = Path(__file__).resolve().parents[1]


SCRIPTS = sorted({p.name for p in (ROOT / "examples").glob("*.py")} - {"denoise_file.py"})  # test_denoise_file.py


@pytest.mark.parametrize("script", SCRIPTS)
def test_example(script):
    done = subprocess.run([sys.executable, ROOT / "examples" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


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
