"""`compactrnn eval`."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .._errors import invalid
from .output import JsonFlag, print_json, print_record


def evaluate(
    model: Annotated[Path, typer.Argument(help="A .crnn file or a run folder.")],
    data: Annotated[
        str | None, typer.Option(help="alice, ptb or a text file; default: what it was trained on.")
    ] = None,
    part: Annotated[Literal["train", "valid", "test"], typer.Option(help="Which part of the data.")] = "test",
    json: JsonFlag = False,
) -> None:
    """Measure the quality of a model; lower is better.

    A .crnn file runs on the native engine, a run folder in torch. A text is one continuous stream: the state
    is carried from its first symbol to its last. Of a task of many sequences, each starts from the initial state.

    Examples:

        compactrnn eval runs/tiny

        compactrnn eval tiny.crnn --data alice --json
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

    engine = Engine(path)
    task = engine.metadata.get("task")
    if isinstance(task, dict) and task.get("name", "language_model") != "language_model":
        return _packed_sequences(engine, task, data, part)
    return _packed_text(engine, data, part)


def _packed_text(engine: Any, data: str | None, part: str) -> dict[str, Any]:
    from ..data import CORPORA, load_corpus
    from ..tasks.quality import METRIC, check_fits, evaluate_engine, language_model_of, shortened

    task, vocabulary = language_model_of(engine.metadata)
    check_fits(engine, vocabulary)
    if data is None:
        data = task.get("data")
        if data not in CORPORA:  # a file may not choose what else is read on this machine
            known, got = " or ".join(CORPORA), f"{shortened(data)} in the file's metadata"
            raise invalid("data", got=got, expected=known, hint="name the text: --data PATH")
    tokens = vocabulary.encode(getattr(load_corpus(data), part))
    return {
        "metric": METRIC[task["level"]],
        "value": evaluate_engine(engine, tokens, task["level"]),
        "data": data,
        "part": part,
        "symbols": len(tokens),
        "runs_on": engine.isa,
    }


def _packed_sequences(engine: Any, section: dict[str, Any], data: str | None, part: str) -> dict[str, Any]:
    from ..tasks.table import task_of

    if data is not None:
        raise invalid("--data", got=repr(data), expected=f"none: the task {section['name']} has its own")
    task: Any = task_of(section)
    task.check_fits(engine)
    value = task.evaluate_engine(engine, part)
    return _record(task, value, part, engine.isa)


def _run_folder(path: Path, data: str | None, part: str) -> dict[str, Any]:
    from ..training.run_folder import RunFolder

    model, task, recipe = RunFolder(path).load(data)
    record = _record(task, task.evaluate(model, part), part, "torch")
    return {**record, "data": recipe.task.data} if hasattr(recipe.task, "data") else record


def _record(task: Any, value: float, part: str, runs_on: str) -> dict[str, Any]:
    return {
        "metric": task.metric,
        "value": value,
        **task.also(value),
        "part": part,
        **task.amount(part),
        "runs_on": runs_on,
    }
