"""The demo's results on the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: dict[str, Any], console: Console) -> None:
    """Print the table, a summary and a sample of generated text."""
    rows = {row["name"]: row for row in report["rows"]}
    frameworks = [name for name in ("engine", "torch", "onnxruntime") if name in rows["dense"]["microseconds_per_step"]]
    table = Table(title="Alice in Wonderland, character by character", title_style="bold", title_justify="left")
    table.add_column("")
    for name in rows:
        table.add_column(name.replace("_", " "), justify="right")

    def line(label: str, cells: Any, style: str | None = None) -> None:
        table.add_row(label, *cells, style=style)

    line("updates", (f"{row['updates']:,}" for row in rows.values()))
    line("units per layer", (", ".join(map(str, row["hidden"])) for row in rows.values()))
    line("bits per character, torch", (f"{row['bits_per_character']:.3f}" for row in rows.values()))
    line("bits per character, engine int8", (f"{row['engine_bits_per_character']:.3f}" for row in rows.values()))
    line("parameters", (f"{row['parameters']:,}" for row in rows.values()))
    line("recurrent parameters", (f"{row['recurrent_parameters']:,}" for row in rows.values()))
    line("MACs per step", (f"{row['macs_per_step']:,}" for row in rows.values()))
    line("bytes on disk", (f"{row['bytes']:,}" for row in rows.values()))
    for framework in frameworks:
        label = {
            "engine": "engine int8",
            "torch": "torch, best configuration",
            "onnxruntime": "onnxruntime, best configuration",
        }[framework]
        line(f"µs per character, {label}", (_time(row, framework) for row in rows.values()))
    console.print(table)
    for sentence in sentences(rows):
        console.print(f"- {sentence}")
    console.print("\n[bold]The compact model writes:[/bold]")
    console.print(report["sample"], markup=False, highlight=False)


def sentences(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Summary of the figures."""
    dense, compact, scratch = rows["dense"], rows["compact"], rows.get("from_scratch")
    beside = f", and {_percent(compact, scratch)} those of the same sizes from scratch" if scratch else ""
    share = compact["recurrent_parameters"] / dense["recurrent_parameters"]
    times, own = compact["microseconds_per_step"], dense["microseconds_per_step"]
    found = [
        f"compact has {share:.1%} of the recurrent parameters of dense, its bits per character are "
        f"{_percent(compact, dense)} dense's{beside}",
        f"compact on the engine is {own['torch'] / times['engine']:.1f} times faster than dense in torch",
    ]
    for name, row in (("dense", dense), ("compact", compact)):
        for framework in ("torch", "onnxruntime"):
            if framework in row["microseconds_per_step"]:
                ratio = row["microseconds_per_step"][framework] / row["microseconds_per_step"]["engine"]
                verdict = f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower"
                found.append(f"{name}: the engine is {verdict} than {framework}")
    return found


def _percent(one: dict[str, Any], other: dict[str, Any]) -> str:
    change = one["bits_per_character"] / other["bits_per_character"] - 1
    return f"{abs(change):.1%} {'above' if change > 0 else 'below'}"


def _time(row: dict[str, Any], framework: str) -> str:
    times = row["microseconds_per_step"]
    won = times[framework] == min(times[name] for name in ("engine", "torch", "onnxruntime") if name in times)
    return f"{times[framework]:.1f}" + (" *" if won else "  ")
