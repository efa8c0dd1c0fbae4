"""`compactrnn bench`."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import invalid
from .output import print_table

RIVALS = ("torch", "onnxruntime")


def bench(
    models: Annotated[list[Path], typer.Argument(help="A .crnn file, or a run folder, to race against others.")],
    against: Annotated[str, typer.Option(help="torch, onnxruntime, or both with a comma; for run folders.")] = "",
    steps: Annotated[str, typer.Option(help="Steps per call.")] = "1,32",
    rounds: Annotated[int, typer.Option(help="How often each contender has its turn.", min=3)] = 15,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file; - for standard output.")] = None,
) -> None:
    """Measure microseconds per time step, on one thread, the contenders taking turns in one process.

    Answers are compared before anything is timed. Times are medians over the rounds, with quartiles.

    Examples:

        compactrnn bench tiny.crnn

        compactrnn bench runs/tiny --against torch,onnxruntime --steps 1,32 --json bench.json
    """
    rivals = [name for name in against.split(",") if name]
    if unknown := set(rivals) - set(RIVALS):
        raise invalid("--against", got=", ".join(sorted(unknown)), wanted=f"some of {', '.join(RIVALS)}")
    if not all(text.isdecimal() and int(text) for text in steps.split(",")):
        raise invalid("--steps", got=repr(steps), wanted="whole numbers with commas, such as 1,32")
    counts = [int(text) for text in steps.split(",")]
    rows: list[dict[str, Any]] = []
    for model in models:
        rows += (
            _race_run(model, rivals, counts, rounds) if model.is_dir() else _time_file(model, rivals, counts, rounds)
        )
    if json is not None:
        from .._machine import describe_machine

        content = json_module.dumps({"machine": describe_machine(), "rows": rows})
        if str(json) == "-":
            typer.echo(content)
            return
        json.write_text(content + "\n", encoding="utf-8")
    shown = [
        tuple(row[k] for k in ("model", "contender", "steps", "median", "lower_quartile", "upper_quartile"))
        for row in rows
    ]
    print_table("microseconds per time step", ("model", "contender", "steps a call", "median", "from", "to"), shown)


def _time_file(path: Path, rivals: list[str], counts: list[int], rounds: int) -> list[dict[str, Any]]:
    from ..report.engine_contender import EngineContender
    from ..report.race import race
    from ..runtime.engine import Engine

    if rivals:
        raise invalid(
            "model", got=f"{path} with --against", wanted="a run folder: a .crnn file has no torch model in it"
        )
    contender = EngineContender(Engine(path))
    return _rows(path, {n: race([contender], contender.random_inputs(512), steps=n, rounds=rounds) for n in counts})


def _race_run(path: Path, rivals: list[str], counts: list[int], rounds: int) -> list[dict[str, Any]]:
    from ..report.language_model import race_run

    return _rows(path, race_run(path, rivals, counts, rounds))


def _rows(path: Path, timings: dict[int, Any]) -> list[dict[str, Any]]:
    return [
        {"model": str(path), "contender": name, "steps": steps, **timing.as_dict()}
        for steps, found in timings.items()
        for name, timing in found.items()
    ]
