"""Entries of a recipe given on the command line: `section.key=value`."""

from __future__ import annotations

import tomllib
from typing import Any

from .._errors import invalid


def parse_override(override: str, option: str = "--set") -> tuple[list[str], Any]:
    """The path and the value of an override; what is no TOML is a plain word.

    >>> parse_override("model.hidden=[64, 64]"), parse_override("model.cell=GRU")
    ((['model', 'hidden'], [64, 64]), (['model', 'cell'], 'GRU'))
    """
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise invalid(option, got=repr(override), expected="section.key=value, such as training.seed=1")
    try:
        return path, tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return path, text


def override_(table: dict[str, Any], override: str) -> None:
    """Put what an override says into the plain values of a recipe.

    Raises:
        ValueError: it is none, or goes into what is no section.
    """
    (*path, last), value = parse_override(override)
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise invalid("--set", got=repr(override), expected=f"{part} to be a section, it is a value")
        table = inner
    table[last] = value
