"""Weights by name, as a recipe or a file gives them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isabstract
from typing import Any

from .._errors import invalid
from .base import WeightSpec


def weight_kinds() -> dict[str, type[WeightSpec]]:
    """Every specification that `compactrnn.weights` exports, by class name.

    >>> sorted(weight_kinds())[:3]
    ['Dense', 'Kronecker', 'LowRank']
    """
    from .. import weights

    exported = {name: getattr(weights, name) for name in vars(weights)}
    return {
        name: found
        for name, found in exported.items()
        if isinstance(found, type) and issubclass(found, WeightSpec) and not isabstract(found)
    }


def weight_spec(table: Mapping[str, Any]) -> WeightSpec:
    """The specification that a table with its `kind` and options describes.

    >>> weight_spec({"kind": "LowRank", "rank": 16})
    LowRank(rank=16)
    """
    options = dict(table)
    kind = options.pop("kind", None)
    kinds = weight_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        raise invalid("weight kind", got=repr(kind), expected=f"one of {', '.join(sorted(kinds))}")
    try:
        return kinds[kind](**options)
    except TypeError as error:
        raise invalid(f"weight {kind}", got=str(options), expected=f"its own options ({error})") from error
