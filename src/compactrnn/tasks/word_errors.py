"""Errors of recognized words and characters, counted by jiwer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._errors import invalid


def word_errors(references: Sequence[str], recognized: Sequence[str]) -> tuple[int, int]:
    """Substitutions, deletions and insertions, and the number of words of the references.

    >>> word_errors(["GO", "A B"], ["GO", "A C D"])
    (2, 3)
    """
    return _errors(jiwer().process_words(list(references), list(recognized)))


def character_errors(references: Sequence[str], recognized: Sequence[str]) -> tuple[int, int]:
    """The same of characters, spaces between words included.

    >>> character_errors(["GO"], ["NO"])
    (1, 2)
    """
    return _errors(jiwer().process_characters(list(references), list(recognized)))


def _errors(found: Any) -> tuple[int, int]:
    missed = found.substitutions + found.deletions
    return missed + found.insertions, missed + found.hits


def jiwer() -> Any:
    """The package; `ValueError` where it is not installed."""
    try:
        import jiwer
    except ImportError as error:
        hint = "pip install 'compactrnn[speech]'"
        raise invalid(
            "speech task", got="no jiwer, which counts word errors", expected="it installed", hint=hint
        ) from error
    return jiwer
