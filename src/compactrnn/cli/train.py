"""`compactrnn train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, print_json, print_record


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see the folder recipes/.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME OF THE RECIPE.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's entry; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its checkpoint.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="A finished run of this recipe with fewer phases, to go on from."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Train a model by a recipe, phase by phase.

    The folder gets model.safetensors, config.json, metrics.jsonl, progress.jsonl and result.json. Ctrl-C leaves a
    checkpoint; --resume continues from it, or from the last one after a crash, and ends with the same weights bit for
    bit. --from takes the phases that a finished run has, and trains those that the recipe has beyond them. With
    training.devices greater than 1 it starts a process per device, or is started by torchrun.

    Examples:

        compactrnn train recipes/alice-tiny.toml

        compactrnn train recipes/alice-tiny.toml --out runs/wide --set model.hidden=[128,128] --set training.seed=1

        compactrnn train recipes/alice-tiny.toml --out runs/wide --set ... --resume

        compactrnn train smaller.toml --from runs/alice-tiny --out runs/smaller
    """
    # torch asks for large pages only if it finds this when it is loaded; activations of long sequences are large
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from ..training.devices import process_rank
    from ..training.progress import NullProgress, ProgressBar
    from ..training.recipe import load_recipe
    from ..training.train import train as run

    out = Path("runs") / recipe.stem if out is None else out
    checked = load_recipe(recipe, set_ or ())
    first = process_rank(checked.training.devices) == 0
    with ProgressBar() if first else NullProgress() as bar:
        result = run(checked, out, resume=resume, source=source, progress=bar)
    if not first:
        return
    if json:
        print_json({"out": str(out), **result})
        return
    names = ("test", "valid", "parameters", "recurrent_parameters", "seconds", "cpu_seconds")
    record = {f"{n} {result['metric']}" if n in ("test", "valid") else n.replace("_", " "): result[n] for n in names}
    if "ended_by" in result:
        record["ended by"] = result["ended_by"]
    print_record(str(out), {**record, "updates": result["updates"]["total"]})
