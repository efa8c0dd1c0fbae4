import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```python\n# (src/\S+\.py)\n(.*?)```\n", re.DOTALL)


EXAMPLES = dict(BLOCK.findall((ROOT / "docs" / "extending.md").read_text()))


@pytest.mark.parametrize(
    "path", sorted({"src/compactrnn/weights/kronecker.py", "src/compactrnn/cells/mgu.py", *EXAMPLES})
)
def test_worked_examples_are_the_real_files(path):
    assert EXAMPLES[path] == (ROOT / path).read_text()
