"""Write docs/operations.md: python tests/operations_page.py"""

from pathlib import Path

from compactrnn.runtime.operations import OPERATIONS, Function, Operand, Operation

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
HEAD = """# The operations of a model file

What a program can do at each step. The page is made by `python tests/operations_page.py` from
`src/compactrnn/runtime/operations.py`, which a test compares with the core's own list, `native/cr_operations.h`;
[file-format.md](file-format.md) says what else is in a file.

An operation has sizes n and k, operands a, b, c and d, and writes n numbers at dst where nothing else is said. P is n
rounded up to a multiple of 16, Q is k: gates in blocks of 16 units. "In place" means that an operand may be the very
place of dst; else it does not overlap it. "All steps" means that it is read at other steps than this: it is an input or
a sequence of an earlier segment. W and U are the matrix of the operation, n rows (of LSTM 4P, of GRU 3P, over rows 4Q
and 3Q) and k columns. Of MATMUL n is a multiple of the rows, and k, but for WINDOWS, the same multiple of the columns.

"""


def operand(name: str, is_: Operand) -> str:
    """A name and a width, and what else the operand may be."""
    words = {"in place": is_.in_place, "optional": is_.optional, "updated": is_.updated, "all steps": is_.all_steps}
    return ", ".join([f"{name}[{is_.width}]", *(word for word, true in words.items() if true)])


def row(name: str, is_: Operation) -> str:
    """A row of the table."""
    sizes = f"; {is_.k}" if is_.k not in ("", "k") else ""
    operands = "; ".join(operand(*item) for item in is_.operands.items()) + sizes
    writes = "" if is_.writes == "n" else f" Writes dst[{is_.writes}]."
    return f"| `{name}` | {operands} | {is_.tensor} | {is_.text}.{writes} |\n"


def functions(name: str, of: type[Function]) -> str:
    """The functions of an operation."""
    lines = [f"| `{fn.name}` | {fn.text.replace('|', '&#124;')} |\n" for fn in of]
    return f"\n## Functions of `{name}`\n\n| function | value |\n|---|---|\n{''.join(lines)}"


def page() -> str:
    """The whole page."""
    rows = "".join(row(code.name, is_) for code, is_ in OPERATIONS.items())
    tables = [functions(code.name, is_.functions) for code, is_ in OPERATIONS.items() if is_.functions]
    return f"{HEAD}| operation | operands and sizes | tensor | dst |\n|---|---|---|---|\n{rows}{''.join(tables)}"


if __name__ == "__main__":
    PAGE.write_text(page())
