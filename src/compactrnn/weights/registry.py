"""Weights by name, as a recipe or a file gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import isabstract
from typing import Any

from .._errors import invalid
from .base import WeightSpec


def weight_kinds() -> dict[str, type[WeightSpec]]:
    """Every specification that `compactrnn.weights` exports, by class name.

    >>> sorted(weight_kinds())[:3]
    ['BlockCirculant', 'BlockDiagonal', 'BlockSparse']
    """
    from .. import weights

    exported = {name: getattr(weights, name) for name in vars(weights)}
    return {
        name: found
        for name, found in exported.items()
        if isinstance(found, type) and issubclass(found, WeightSpec) and not isabstract(found)
    }


def weight_spec(table: Mapping[str, Any]) -> WeightSpec:
    """The specification that a table with its `kind` and options describes; an option may be such a table itself.

    >>> weight_spec({"kind": "LowRank", "rank": 16})
    LowRank(rank=16)
    """
    options = {name: _value(value) for name, value in table.items()}
    kind = options.pop("kind", None)
    kinds = weight_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        raise invalid("weight kind", got=repr(kind), expected=f"one of {', '.join(sorted(kinds))}")
    try:
        return kinds[kind](**options)
    except TypeError as error:
        raise invalid(f"weight {kind}", got=str(options), expected=f"its own options ({error})") from error


def weight_table(spec: WeightSpec) -> dict[str, Any] | None:
    """The table that `weight_spec` reads as `spec`, of plain values; None for a kind that it does not know.

    Options that are None are left out: they are so by default.

    >>> from compactrnn.weights import LowRank
    >>> weight_table(LowRank(rank=16))
    {'kind': 'LowRank', 'rank': 16}
    """
    if weight_kinds().get(type(spec).__name__) is not type(spec):
        return None
    given = {field.name: getattr(spec, field.name) for field in fields(spec)}
    options = {name: _plain(value) for name, value in given.items() if value is not None}
    return None if _UNKNOWN in options.values() else {"kind": type(spec).__name__, **options}


_UNKNOWN = object()  # in place of a specification that has no table


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return weight_spec(value)
    return tuple(map(_value, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, WeightSpec):
        table = weight_table(value)
        return _UNKNOWN if table is None else table
    if isinstance(value, tuple):
        values = [_plain(item) for item in value]
        return _UNKNOWN if _UNKNOWN in values else values
    return value
