"""List every text that a user or a newcomer reads: python tests/wording.py [PATH...].

First lines of docstrings, texts of errors and warnings, help texts of the command line, headings of the documents, each
with its place. Placeholders of f-strings are shown as written.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CALLS = re.compile(r"(Error|Warning|Exit|Exception|NotTraceable|invalid|warn|echo|Option|Argument|missing_extra)$")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def text_of(node: ast.AST) -> str:
    """The text of a string, an f-string or a sum of them; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(v) if isinstance(v, ast.Constant) else ast.unparse(v) for v in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return text_of(node.body) + " | " + text_of(node.orelse) if isinstance(node, ast.IfExp) else ""


def texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, kind and text."""
    if path.suffix == ".md":
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("#"):
                yield number, "heading", line
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DOCUMENTED) and (doc := ast.get_docstring(node)):
            yield node.body[0].lineno, "docstring", doc.splitlines()[0]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if CALLS.search(name):
                parts = [text_of(a) for a in [*node.args, *(k.value for k in node.keywords)]]
                if any(parts):
                    yield node.lineno, name, " / ".join(p for p in parts if p)


def main() -> None:
    """Print the list."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in listed:
        if len(sys.argv) == 1 or any(name.startswith(given) for given in sys.argv[1:]):
            for line, kind, text in sorted(texts(ROOT / name)):
                print(f"{name}:{line}: {kind}: {' '.join(text.split())}")


if __name__ == "__main__":
    main()
