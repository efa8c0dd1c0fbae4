"""`compactrnn demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, print_json


def demo(
    out: Annotated[Path, typer.Option(help="Where models, report.json and quality.svg go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="For everything random.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Show the main job in five minutes: train a model, learn a compact one from it, pack and race them.

    Trained on the bundled text: a dense LSTM; the compact one learnt from it by removing whole units; and the compact
    sizes from scratch, for as many updates. Stopped half-way, it goes on where it was.

    Examples:

        compactrnn demo

        compactrnn eval runs/demo/compact.crnn --data alice
    """
    from rich.console import Console

    from ..report.demo import demo_recipe, run
    from ..report.demo.show import show

    recipe, scratch = (demo_recipe(name, [f"training.seed={seed}"]) for name in ("compact", "from_scratch"))
    report = run(out, recipe, scratch)
    if json:
        print_json(report)
    else:
        show(report, Console())
        typer.echo(f"\nwritten to {out}: dense.crnn, compact.crnn, from_scratch.crnn, report.json, quality.svg")
