"""`compactrnn eval`."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .output import JsonFlag, print_json, print_record


def evaluate(
    model: Annotated[Path, typer.Argument(help="A .crnn file or a run folder.")],
    data: Annotated[
        str | None,
        typer.Option(help="Of a language model alice, ptb or a text file, of a model of your own data its file."),
    ] = None,
    part: Annotated[Literal["train", "valid", "test"], typer.Option(help="The split to evaluate on.")] = "test",
    json: JsonFlag = False,
) -> None:
    """Evaluate a model on the task that it was trained for; a lower metric is better.

    A .crnn file runs on the native engine, a run folder in torch. A text is read as one stream, the state carried from
    its first symbol to its last; separate sequences start from the initial state, each. A file of your own is divided
    as it was for the training; if that had a test file, --data names a test file, too. A run folder knows its data.

    Examples:

        compactrnn eval runs/tiny

        compactrnn eval tiny.crnn --data alice --json

        compactrnn eval pm25.crnn --data pm25.csv.gz
    """
    record = _run_folder(model, data, part) if model.is_dir() else _packed(model, data, part)
    if not math.isfinite(record["value"]):
        raise FloatingPointError(f"{model}: expected a finite value, got {record['value']} as {record['metric']}")
    if json:
        print_json(record)
    else:
        print_record(str(model), record)


def _packed(path: Path, data: str | None, part: str) -> dict[str, Any]:
    from ..runtime.engine import Engine
    from ..tasks.table import task_of

    engine = Engine(path)
    task = task_of(engine.metadata, data)
    return _record(task, task.engine_scores(engine, part), part, engine.isa)


def _run_folder(path: Path, data: str | None, part: str) -> dict[str, Any]:
    from ..training.run_folder import RunFolder

    model, task, _ = RunFolder(path).load(data)
    return _record(task, task.scores(model, part), part, "torch")


def _record(task: Any, scores: dict[str, float], part: str, runs_on: str) -> dict[str, Any]:
    record = {"metric": task.metric, "value": scores.pop(task.metric), **scores}
    if (data := task.data_name()) is not None:
        record["data"] = data
    return {**record, "part": part, **task.counts(part), "runs_on": runs_on}
