"""`compactrnn eval`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .output import JsonFlag, print_json, print_record


def evaluate(
    model: Annotated[Path, typer.Argument(help="A .crnn file or a run folder.")],
    data: Annotated[
        str | None, typer.Option(help="alice, ptb or a text file; default: what it was trained on.")
    ] = None,
    part: Annotated[Literal["train", "valid", "test"], typer.Option(help="Which part of the text.")] = "test",
    json: JsonFlag = False,
) -> None:
    """Measure the quality of a model; lower is better.

    A .crnn file runs on the native engine, a run folder in torch. The text is one continuous stream: the state is
    carried from its first symbol to its last.

    Examples:

        compactrnn eval runs/tiny

        compactrnn eval tiny.crnn --data alice --json
    """
    record = _run_folder(model, data, part) if model.is_dir() else _packed(model, data, part)
    if json:
        print_json(record)
    else:
        print_record(str(model), record)


def _packed(path: Path, data: str | None, part: str) -> dict[str, Any]:
    from ..data import load_corpus
    from ..runtime.engine import Engine
    from ..tasks.quality import METRIC, evaluate_engine, language_model_of

    engine = Engine(path)
    task, vocabulary = language_model_of(engine.metadata)
    data = data or str(task.get("data"))
    tokens = vocabulary.encode(getattr(load_corpus(data), part))
    value = evaluate_engine(engine, tokens, task["level"])
    return {
        "metric": METRIC[task["level"]],
        "value": value,
        "data": data,
        "part": part,
        "symbols": len(tokens),
        "runs_on": engine.isa,
    }


def _run_folder(path: Path, data: str | None, part: str) -> dict[str, Any]:
    from ..training.run_folder import RunFolder

    model, task, recipe = RunFolder(path).load(data)
    value = task.evaluate(model, part)
    data = data or recipe.task.data
    return {
        "metric": task.metric,
        "value": value,
        "data": data,
        "part": part,
        **task.amount(part),
        "runs_on": "torch",
    }
