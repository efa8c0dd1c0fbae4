"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import invalid
from .._validate import validated
from .adding import AddingTask
from .base import AbstractTask
from .first_symbol import FirstSymbolTask
from .language_model import LanguageModelTask
from .mnist import MnistTask
from .quality import shortened

DEFAULT = "language_model"

TASKS: dict[str, type[AbstractTask]] = {
    "adding": AddingTask,
    "first_symbol": FirstSymbolTask,
    "language_model": LanguageModelTask,
    "mnist": MnistTask,
}


def task_of(metadata: Mapping[str, Any]) -> AbstractTask:
    """The task of a packed model, to be evaluated on: from the entry `task` of its metadata.

    >>> task_of({"name": "adding", "steps": 10, "metric": "mse"}).amount("test")
    {'sequences': 1000}
    """
    known = dict(metadata)
    known.pop("metric", None)
    kind = TASKS.get(str(known.get("name")))
    if kind is None:
        got = f"task {shortened(known.get('name'))}"
        raise invalid("model metadata", got=got, expected=f"one of {', '.join(TASKS)}")
    data = validated(kind.data_options, known, "model metadata: task")
    return kind.build(data, batch_size=1, steps=1, shift=False, seed=0)
