"""The tasks by name."""

from __future__ import annotations

from .base import AbstractTask
from .language_model import LanguageModelTask

DEFAULT = "language_model"

TASKS: dict[str, type[AbstractTask]] = {
    "language_model": LanguageModelTask,
}
