import importlib.util
from pathlib import Path

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "training_page.py"


def test_the_page_has_the_committed_figures():
    spec = importlib.util.spec_from_file_location("training_page", PATH)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run: python benchmarks/training_page.py"
    assert page.filled(text.replace("| native loop |", "| another |")) == text
