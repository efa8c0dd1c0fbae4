"""Validate values from files and users; every error names the place and the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

_SHOWN = 3  # problems at most


def validated(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`, or a `ValueError` that names `where` and the keys.

    >>> validated(dict[str, int], {"a": 1, "b": "x"}, "config.json")
    Traceback (most recent call last):
    ValueError: config.json: b: input should be a valid integer, unable to parse string as an integer, got 'x'
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}: {problems(error)}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # which takes a tenth of a second for a recipe


def problems(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    found = error.errors()
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(_sentence(problem) for problem in found[:_SHOWN]) + more


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").partition(" or instance of")[0]
    given = problem["input"]
    shown = not (isinstance(given, (Mapping, BaseModel)) or is_dataclass(given))
    text = repr(given) if shown else ""
    text = text if len(text) <= 80 else text[:77] + "..."
    return (f"{key}: " if key else "") + message[0].lower() + message[1:] + (f", got {text}" if shown else "")
