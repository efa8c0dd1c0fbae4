"""What the examples show, runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_example(script):
    done = subprocess.run([sys.executable, ROOT / "examples" / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
