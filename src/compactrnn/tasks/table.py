"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import invalid
from .adding import AddingTask
from .base import AbstractTask
from .connected_digits import ConnectedDigitsTask
from .copy_memory import CopyMemoryTask
from .digits import DigitsTask
from .first_symbol import FirstSymbolTask
from .forecasting import ForecastingTask
from .language_model import LanguageModelTask
from .long_series import LongSeriesTask
from .mnist import MnistTask
from .music import MusicTask
from .quality import shortened
from .reading import ReadingTask
from .series_classification import SeriesClassificationTask
from .series_regression import SeriesRegressionTask
from .speech import SpeechTask

DEFAULT = "language_model"

TASKS: dict[str, type[AbstractTask]] = {
    "adding": AddingTask,
    "classification": SeriesClassificationTask,
    "connected_digits": ConnectedDigitsTask,
    "copy_memory": CopyMemoryTask,
    "digits": DigitsTask,
    "first_symbol": FirstSymbolTask,
    "forecasting": ForecastingTask,
    "language_model": LanguageModelTask,
    "long_series": LongSeriesTask,
    "mnist": MnistTask,
    "music": MusicTask,
    "reading": ReadingTask,
    "regression": SeriesRegressionTask,
    "speech": SpeechTask,
}


def task_of(metadata: Mapping[str, Any], data: str | None = None) -> AbstractTask:
    """The task of a packed model from its file's metadata, to be evaluated on, or on other `data`.

    >>> task_of({"task": {"name": "adding", "steps": 10, "metric": "mse"}}).counts("test")
    {'sequences': 1000}
    """
    section = metadata.get("task")
    name = section.get("name", DEFAULT) if isinstance(section, Mapping) else None
    kind = TASKS.get(name) if isinstance(name, str) else None
    if section is None:
        hint = "others than `compactrnn train` made are measured by code of your own, on cr.Engine"
        raise invalid("model metadata", got="none", expected="the task of a recipe", hint=hint)
    if kind is None:
        got = f"task {shortened(section if name is None else name)}"
        raise invalid("model metadata", got=got, expected=f"one of {', '.join(TASKS)}")
    return kind.from_metadata(metadata, data)
