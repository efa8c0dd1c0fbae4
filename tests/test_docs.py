"""The Python that the extending page shows is text of the files that it names, or runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

import compactrnn as cr
from compactrnn.compress import surgery
from compactrnn.compress.dry_run import dry_run
from compactrnn.compress.groups import find_groups
from compactrnn.graph.follow import follow
from compactrnn.graph.trace import as_inputs
from compactrnn.graph.units import find_units
from compactrnn.weights import Dense
from shapes import Stacked, example

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```\n", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
NAMED = [found.groups() for block in BLOCKS if (found := re.match(r"# (\S+\.py)\n(.*)", block, re.DOTALL))]
OTHERS = [block for block in BLOCKS if not re.match(r"# \S+\.py\n", block)]
WHOLE = ("src/compactrnn/weights/kronecker.py", "src/compactrnn/cells/mgu.py")


def run(code):
    """The names that a block defines."""
    names = {
        "as_inputs": as_inputs,
        "cr": cr,
        "dry_run": dry_run,
        "find_groups": find_groups,
        "find_units": find_units,
        "follow": follow,
        "Kronecker": cr.Kronecker,
        "MGU": cr.MGU,
        "mgu_reference": None,
        "MyWeight": lambda size: Dense(),
        "pytest": pytest,
        "REFERENCES": {},
        "surgery": surgery,
        "torch": torch,
    }
    exec(code, names)
    return names


def test_the_page_has_both_kinds_of_blocks():
    assert {path for path, _ in NAMED} >= {*WHOLE, "examples/own_cell.py"} and OTHERS


@pytest.mark.parametrize("path, code", NAMED)
def test_a_block_with_the_name_of_a_file_is_text_of_that_file(path, code):
    text = (ROOT / path).read_text()
    assert code == text if path in WHOLE else f"\n{code}" in f"\n{text}"


@pytest.mark.parametrize("code", OTHERS)
def test_any_other_block_runs(code):
    run(code)


def test_the_compressor_shrinks():
    (code,) = (block for block in OTHERS if "class Magnitude" in block)
    model = Stacked()
    x = example(model)
    small = run(code)["Magnitude"](model, x, keep=0.5).shrink()
    assert small.lstm.hidden_size == 8
    torch.testing.assert_close(small(x), model(x), rtol=1e-5, atol=1e-5)
