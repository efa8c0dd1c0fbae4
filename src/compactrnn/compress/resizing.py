"""Sizes that modules keep as attributes, changed with what they count."""

from __future__ import annotations

import dis
import itertools
from collections.abc import Collection, Iterator
from types import CodeType
from typing import Any

from torch import nn

from .._errors import invalid
from .plan import SizeCut

_BEFORE = "_sizes_before"  # of a module: its changed attributes, and what they were as its code built it


def resize_(module: nn.Module, name: str, size: int) -> None:
    """Set a size of a module, and remember what it was."""
    before = dict(vars(module).get(_BEFORE, {}))
    before.setdefault(name, getattr(module, name))
    vars(module)[_BEFORE] = before
    setattr(module, name, size)


def describe_sizes(model: nn.Module) -> list[dict[str, Any]]:
    """The changed sizes of all modules, as plain values."""
    return [
        {"path": path, "name": name, "before": before, "after": getattr(module, name)}
        for path, module in model.named_modules()
        for name, before in vars(module).get(_BEFORE, {}).items()
    ]


def restore_sizes_(model: nn.Module, sizes: list[dict[str, Any]]) -> set[str]:
    """Change the sizes of `model`, as its code built it; returns the paths of the modules.

    Raises:
        ValueError: a module has another size, or none.
    """
    modules = dict(model.named_modules())
    for size in sizes:
        module = modules.get(size["path"])
        got = vars(module).get(size["name"]) if module is not None else None
        if module is None or got != size["before"]:
            where = f"{size['path'] or type(model).__name__}.{size['name']}"
            raise invalid(where, got=got, expected=f"{size['before']}, as its code built it")
        resize_(module, size["name"], size["after"])
    return {size["path"] for size in sizes}


def possible_sizes(
    model: nn.Module, ran: Collection[CodeType], changed: dict[int, int]
) -> Iterator[tuple[SizeCut, ...]]:
    """Sizes that modules of the user's may have to change with widths, `{before: after}`: all at once, then each alone.

    They are plain attributes with these values that code in `ran` reads.
    """
    read = {name for code in ran for name in _read(code)}
    found = [
        SizeCut(path, name, value, changed[value])
        for path, module in model.named_modules()
        if not type(module).__module__.startswith(("torch.", "compactrnn."))
        for name, value in vars(module).items()
        if type(value) is int and value in changed and name in read
    ]
    if found:
        yield tuple(found)
    if 1 < len(found) <= _MOST:
        for count in range(1, len(found)):
            yield from itertools.combinations(found, count)


_MOST = 3  # attributes of which every selection is tried


def _read(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _read(inner)
