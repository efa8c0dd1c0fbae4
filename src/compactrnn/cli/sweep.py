"""`compactrnn sweep`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from .errors import FAILURE
from .output import JsonFlag, print_json, print_line, print_table


def sweep(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see the folder recipes/.")],
    over: Annotated[
        list[str], typer.Option(metavar="KEY=V1,V2,...", help="An entry and its values, as for --set; repeatable.")
    ],
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default runs/sweep-NAME OF THE RECIPE.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's entry in all runs; repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time.", min=1, max=10_000, show_default="one a processor")
    ] = None,
    stop: Annotated[
        Literal["asha"] | None, typer.Option(help="End runs early that fall behind: by successive halving.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Ray cluster that is running: auto, HOST:PORT or ray://HOST:PORT.",
            show_default="one on this machine, for this sweep",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train a recipe with every combination of some of its entries, and draw the frontier of quality and size.

    Each combination is a run folder in the sweep's folder, named after its values, that every other command takes.
    Phases that several of them begin with are trained once, in the folder shared/. At the end the folder has table.md,
    sweep.json and frontier.svg.

    A KEY is one of --set, such as phases.prune.compress.keep, or its last part where only one entry is called so (seed,
    cell, hidden); budget is the target of the one phase that prunes or factorizes: keep, macs, bytes, rank or energy.
    Values are written as for --set, with commas between them.

    The same command goes on after Ctrl-C or a crash of anything: finished runs stay, others continue from their
    checkpoints. With further values it trains only what is missing.

    With --stop asha a run ends at 1/9 and at 1/3 of its updates unless it is among the best third of the runs with the
    same budget that are no larger and have come as far. Without it a run that was stopped is trained to its end.

    It runs on Ray (pip install 'compactrnn[sweep]'), one thread a run unless training.threads says otherwise. With
    --address the processes are on other machines: they need the same version of compactrnn, and the sweep's folder and
    the data under the same paths, on a file system that all share.

    Examples:

        compactrnn sweep recipes/alice-tiny.toml --over model.hidden=[48,48],[96,96] --over seed=0,1,2

        compactrnn sweep recipes/alice.toml --over budget=0.5,0.25,0.125 --over seed=0,1 --out runs/frontier

        compactrnn sweep recipes/quick-adding.toml --over cell=LSTM,GRU,MGU --over hidden=[16],[32]

        compactrnn sweep recipes/alice-tiny.toml --over learning_rate=1e-3,5e-3,2e-2 --over seed=0,1,2 --stop asha

        compactrnn sweep recipes/alice-tiny.toml --over seed=0,1,2 --address ray://head:10001 --out /shared/sweep
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from ..report.sweep.outcome import table, unfinished
    from ..report.sweep.plan import plan
    from ..report.sweep.run import sweep as run

    out = (Path("runs") / f"sweep-{recipe.stem}" if out is None else out).absolute()
    outcome = run(plan(recipe, set_ or (), over, out), out, workers=workers, address=address, asha=stop == "asha")
    if json:
        print_json({"out": str(out), **outcome})
    else:
        header, *rows = table(outcome, brief=True)
        print_table(f"{out}: {outcome['metric'] or 'no run is finished'}", header, rows)
        for text in unfinished(outcome):
            print_line(text)
    if any(row["state"].startswith("failed") for row in outcome["runs"]):
        raise typer.Exit(FAILURE)
