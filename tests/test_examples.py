"""What the documentation shows, runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compactrnn.compress import surgery
from compactrnn.compress.groups import find_groups
from compactrnn.graph.trace import as_inputs, trace
from compactrnn.graph.units import find_units
from shapes import Stacked, example

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_example(script):
    done = subprocess.run([sys.executable, ROOT / "examples" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_compressor_of_the_extending_page():
    page = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(class Magnitude:.*?)```", page, re.DOTALL)
    names = {
        "torch": torch,
        "as_inputs": as_inputs,
        "trace": trace,
        "find_units": find_units,
        "find_groups": find_groups,
        "surgery": surgery,
    }
    exec(code, names)
    model = Stacked()
    x = example(model)
    small = names["Magnitude"](model, x, keep=0.5).shrink()
    assert small.lstm.hidden_size == 8
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
