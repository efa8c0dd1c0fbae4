"""Parsing and validation of plans from untrusted JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
import typing
from typing import Any, TypeVar

from .._errors import invalid
from ..graph.rows import ROWS
from ..graph.table import COLUMNS
from ..weights.base import WeightSpec
from ..weights.registry import weight_spec

T = TypeVar("T")

_MOST = 2**31  # no size in a plan is larger


def plan_from(kind: type[T], text: str, form: str, what: str = "pruning plan") -> T:
    """The value of dataclass `kind` in `text`, of which every type has been checked."""
    if not isinstance(text, str):
        raise invalid(what, got=f"a {type(text).__name__}", expected="JSON text")
    try:
        tree = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        raise invalid(what, got=f"{type(error).__name__}: {error}", expected="JSON that to_json wrote") from None
    if not isinstance(tree, dict) or tree.pop("format", None) != form:
        raise invalid(what, got="another JSON text", expected=f"an object with format {form!r}")
    return _read(kind, tree, "plan")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := _twice([key for key, _ in pairs]):
        raise ValueError(f"the key {twice[0]!r} occurs twice")
    return dict(pairs)


def _twice(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, tuple, dict, str, int, bool, finite float, weight, or one of these or None."""
    if kind is WeightSpec:
        if not isinstance(value, dict):
            raise invalid(where, got=_said(value), expected="an object with the kind of a weight and its options")
        return weight_spec(value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        needed = {f.name for f in dataclasses.fields(kind) if f.name != "sizes"}  # which older plans lack
        if not isinstance(value, dict) or not needed <= value.keys() <= hints.keys():
            got = f"keys {sorted(value)}" if isinstance(value, dict) else _said(value)
            raise invalid(where, got=got, expected=f"an object with the keys {sorted(hints)}")
        return kind(**{n: _read(hint, value[n], f"{where}.{n}") for n, hint in hints.items() if n in value})  # pyright: ignore
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        return None if value is None else _read(arguments[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list) or (arguments[-1] is not ... and len(value) != len(arguments)):
            raise invalid(
                where, got=_said(value), expected="a list" if ... in arguments else f"{len(arguments)} values"
            )
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise invalid(where, got=_said(value), expected="an object")
        return {name: _read(arguments[1], v, f"{where}[{name!r}]") for name, v in value.items()}
    if kind is float and type(value) is int and abs(value) < _MOST:
        return float(value)
    allowed = {int: lambda: 0 <= value < _MOST, float: lambda: math.isfinite(value)}
    if type(value) is not kind or not allowed.get(kind, lambda: True)():
        names = {int: f"an integer from 0 to {_MOST - 1}", bool: "true or false", float: "a finite number"}
        raise invalid(where, got=_said(value), expected=names.get(kind, "a string"))
    return value


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def check_pruning(plan: Any) -> None:
    """Refuse a pruning plan unless indices are sorted, each once and within their sizes, and nothing is named twice."""
    for cut in plan.units:
        _check_kept(cut.kept, cut.units, f"{cut.name}, kept")
        if sum(count for _, count in cut.removed) not in (0, cut.units - len(cut.kept)):
            raise invalid(f"{cut.name}, removed", got=cut.removed, expected=f"{cut.units - len(cut.kept)} units in all")
    for cut in plan.layers:
        if cut.kept_inputs is not None:
            _check_kept(cut.kept_inputs, cut.inputs, f"{cut.path or 'model'}, kept_inputs")
    for cut in plan.tensors:
        _check_kept(cut.kept, cut.size, f"{cut.name}, kept")
    for cut in plan.sizes:
        if not 0 < cut.after < cut.before:
            raise invalid(f"{cut.path or 'model'}.{cut.name}", got=cut.after, expected=f"a size below {cut.before}")
    names = {
        "units": [cut.name for cut in plan.units],
        "layers": [cut.path for cut in plan.layers],
        "tensors": [f"{cut.name}, axis {cut.axis}" for cut in plan.tensors],
        "sizes": [f"{cut.path or 'model'}.{cut.name}" for cut in plan.sizes],
    }
    for where, found in names.items():
        if twice := _twice(found):
            raise invalid(f"plan.{where}", got=f"{twice[0]!r} twice", expected="each name once")
    if strange := {cut.path for cut in plan.units if cut.unit_set not in (COLUMNS, ROWS)} - set(names["layers"]):
        raise invalid("plan.units", got=f"the path {min(strange)!r}", expected="paths that plan.layers lists")


def _check_kept(kept: tuple[int, ...], size: int, where: str) -> None:
    if not kept or kept[-1] >= size or any(a >= b for a, b in itertools.pairwise(kept)):
        expected = f"sorted indices below {size}, each once and at least one"
        raise invalid(where, got=_said(list(kept)), expected=expected)
