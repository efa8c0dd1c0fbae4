"""`compactrnn demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .._errors import invalid
from .output import JsonFlag, print_json, print_line


def demo(
    out: Annotated[Path, typer.Option(help="Output folder: models, report.json and quality.svg.")] = Path("runs/demo"),
    train: Annotated[bool, typer.Option("--train", help="Train the models first.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed, with --train.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Compare a compact model with the dense one that it was pruned from: quality, size and speed.

    Both are character-level language models of the bundled text and come with the package; packing, evaluation and
    timing take less than a minute. With --train the demo trains them on this machine: a dense LSTM, the compact one by
    pruning whole units of it, and the compact sizes from scratch for the same number of updates. It estimates the time
    first; an interrupted demo is resumed by the same command.

    Examples:

        compactrnn demo

        compactrnn eval runs/demo/compact.crnn --data alice

        compactrnn demo --train --out runs/trained
    """
    if seed and not train:
        raise invalid(
            "--seed", got=seed, expected="no seed without --train", hint="the models of the package are trained"
        )
    from rich.console import Console

    from ..report.demo import demo_recipe, estimated_seconds, run, run_training
    from ..report.demo.show import show

    if train:
        recipe, scratch = (demo_recipe(name, [f"training.seed={seed}"]) for name in ("compact", "from_scratch"))
        minutes = estimated_seconds(recipe, scratch) / 60
        done = f"; what {out} holds of it is not done again" if (out / "runs").exists() else ""
        print_line(f"training takes about {max(1, round(minutes))} minutes on this machine{done}", err=True)
        report = run_training(out, recipe, scratch)
    else:
        report = run(out)
    if json:
        print_json(report)
        return
    show(report, Console())
    names = ", ".join(f"{row['name']}.crnn" for row in report["rows"])
    typer.echo()
    print_line(f"written to {out}: {names}, report.json, quality.svg")
    if not train:
        typer.echo("these models came with the package; to train them here: compactrnn demo --train --out FOLDER")
