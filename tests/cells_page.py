"""Write docs/cells.md: python tests/cells_page.py"""

import inspect
import json
import re
from pathlib import Path

import compactrnn as cr
from compactrnn.cells import AbstractCell
from compactrnn.models.recurrent_layers import known_cells
from scripts import benchmark

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cells.md"
STEPS = ROOT / "benchmarks" / "results" / "native_step.json"
QUALITY = ROOT / "benchmarks" / "results" / "cell_quality.json"
INPUTS, UNITS = 64, 128
HEAD = f"""# Cells

Every cell of the package, made by `python tests/cells_page.py` from the code. Sizes are those of {INPUTS} inputs and
{UNITS} units with all options as they are by default: numbers that are learned, multiply-accumulates of the products
of one step, and numbers that a stream keeps. A cell runs in the native loop over time, step after step, or by a scan
over all times at once as well, where it is linear in its states, or in each of them given those before; "newton" is
for those whose units see their own states alone, if you ask for it ([training.md](training.md)). Where units are not
pruned, the section of the cell says why. Equations and sources are those of the docstrings, which say what each option
does.

"Step" is the time of a step of the packed layer, in float32 and in int8, relative to that of the LSTM in float32: 128
units on 40 inputs, called from Python, all from one run of `python benchmarks/native_step.py`; a cell without a figure
is not in it yet. "Int8" is what storing in int8 adds to the nats of a layer of 64 units on the engine, in percent:
Bach's chorales, a short training, one seed, `python benchmarks/cell_quality.py`; those of int4 are in
[cell_quality.json](../benchmarks/results/cell_quality.json).
"Here" is the cell's best result on each task of [long-sequences.md](long-sequences.md), of any size.

`cr.Recurrent(cr.MGU, 8, 16)` makes a layer of a cell; models and recipes take its name (`cell = "MGU"`). All cells pack
in float32, int8 and int4, and take any [weight](weights.md) for their matrices of input and state: with
`cr.Convolution` a GRU is a ConvGRU, an LSTM a ConvLSTM, and so on.

"""


def parts(text: str) -> tuple[str, str, str]:
    """The summary, the equations and the sources of a docstring."""
    paragraphs = text.split("\n\n")
    summary = " ".join(paragraphs[0].split())
    block = next((p for p in paragraphs[1:3] if all(line.startswith("    ") for line in p.splitlines())), "")
    sources = [p for p in paragraphs if re.match(r"Sources?: ", p)]
    equations = "\n".join(line[4:] for line in block.splitlines())
    return summary, equations, " ".join(" ".join(sources).split())


def cell_of(kind: type[AbstractCell]) -> AbstractCell:
    return kind(INPUTS, UNITS)


def step_times() -> dict[str, str]:
    """Of each cell that was measured, its step in float32 and int8 over the LSTM's in float32."""
    rows = {one["cell"]: one["microseconds"] for one in json.loads(STEPS.read_text())["rows"]}
    lstm = rows["LSTM"]["float32"]
    return {
        cell: " / ".join(f"{times[kind] / lstm:.2f}" for kind in ("float32", "int8")) for cell, times in rows.items()
    }


def int8_costs() -> dict[str, str]:
    """Of each cell that was trained for it, what int8 adds to the error, in percent."""
    rows = json.loads(QUALITY.read_text())["rows"]
    return {one["cell"]: f"{100 * one['engine']['int8']['cost']:+.3f}" for one in rows}


def results_of(name: str) -> list[str]:
    """The best published result of a cell on each task."""
    bench = benchmark("long_sequences")
    best = {}
    for one in bench.load():
        task = bench.task_label(one)
        if one["recipe"]["model"]["cell"] == name and one["test"] <= best.get(task, one)["test"]:
            best[task] = one
    return [f"{task}: {bench.quality(one)} ({one['parameters']:,} parameters)" for task, one in best.items()]


def row(name: str, kind: type[AbstractCell]) -> str:
    """A row of the table."""
    cell = cell_of(kind)
    (report,) = cr.loop_report(cell)
    numbers = sum(p.numel() for p in cell.parameters())
    states = ", ".join(f"{s.name} {n}" for s, n in zip(cell.states, cell.state_sizes(), strict=True))
    pruned = "no" if any(u.fixed for u in cell.active_units()) else "yes"
    what = [f"[{name}](#{name.lower()})", f"{numbers:,}", f"{cell.macs():,}", states, ", ".join(report.kinds), pruned]
    return f"| {' | '.join([*what, step_times().get(name, ''), int8_costs().get(name, '')])} |\n"


def section(name: str, kind: type[AbstractCell]) -> str:
    """Equations and source of a cell."""
    summary, equations, source = parts(inspect.getdoc(kind) or "")
    block = f"\n```text\n{equations}\n```\n" if equations else ""
    fixed = "".join(f"\nNot pruned: {u.fixed}.\n" for u in cell_of(kind).active_units() if u.fixed)
    here = "; ".join(results_of(name))
    here = f"\nHere: {here}.\n" if here else ""
    return f"\n## {name}\n\n{summary}\n{block}{fixed}{here}\n{source}\n"


def page() -> str:
    """The whole page."""
    cells = sorted(known_cells().items(), key=lambda item: item[0].lower())
    head = "| cell | parameters | MACs | states | loops | pruned | step | int8 |\n|---|---|---|---|---|---|---|---|\n"
    return HEAD + head + "".join(row(*c) for c in cells) + "".join(section(*c) for c in cells)


if __name__ == "__main__":
    PAGE.write_text(page())
