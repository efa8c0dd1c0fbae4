"""Import the scripts of benchmarks/ and examples/, which are not packages."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def benchmark(name: str) -> ModuleType:
    return _script(BENCHMARKS / f"{name}.py")


def example_module(name: str) -> ModuleType:
    return _script(ROOT / "examples" / f"{name}.py")


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # where a script finds its neighbors
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
