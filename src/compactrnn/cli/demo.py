"""`compactrnn demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .._errors import invalid
from .output import JsonFlag, print_json, print_line


def demo(
    out: Annotated[Path, typer.Option(help="Where models, report.json and quality.svg go.")] = Path("runs/demo"),
    train: Annotated[bool, typer.Option("--train", help="Train the models first, the long way.")] = False,
    seed: Annotated[int, typer.Option(help="For everything random, with --train.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Show the main job: a compact model against the dense one that it was learnt from, packed, evaluated and raced.

    Both are character models of the bundled text and come with the package; all of it takes less than a minute. With
    --train the demo makes them on this machine: a dense LSTM; the compact one learnt from it by removing whole units;
    and the compact sizes from scratch, for as many updates. It says first how long that will take. Stopped half-way, it
    goes on where it was.

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
