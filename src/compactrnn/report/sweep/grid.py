"""The points of a sweep: all combinations of the values of `--over`."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import invalid
from ...training.overrides import parse_override

BUDGETS = {"compress": ("keep", "macs", "bytes"), "factorize": ("keep", "rank", "energy")}
SEED = "training.seed"
_LONGEST = 60  # characters of a value in the name of a folder


@dataclass(frozen=True)
class Point:
    """One combination: the name of its folder, overrides as for `--set`, the values that these have."""

    name: str
    overrides: tuple[str, ...]
    values: Mapping[str, Any]


def grid(over: Sequence[str], recipe: Mapping[str, Any]) -> list[Point]:
    """All combinations of `KEY=V1,V2,...`; `recipe` has the plain values of the whole recipe.

    >>> recipe = {"training": {"seed": 0}, "model": {"cell": "LSTM", "hidden": [64]}}
    >>> [point.name for point in grid(["cell=LSTM,GRU", "model.hidden=[16, 16]"], recipe)]
    ['cell=LSTM,hidden=16-16', 'cell=GRU,hidden=16-16']

    Raises:
        ValueError: there is no key or no value, a key is unknown, ambiguous or given twice, or a value is given twice.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in over:
        given, equals, values = text.partition("=")
        if not equals or not given.strip():
            raise invalid("--over", got=repr(text), expected="KEY=VALUE,VALUE,..., such as training.seed=0,1,2")
        key = full_key(given.strip(), recipe)
        if key in axes:
            raise invalid("--over", got=f"{key} twice", expected="each key once, with all of its values")
        axes[key] = _values(key, values)
    if not axes:
        raise invalid("--over", got="none", expected="at least one KEY=VALUE,VALUE,...")
    axes = dict(sorted(axes.items()))  # so that names do not depend on the order of the options
    labels = {key: _label(key, list(axes)) for key in axes}
    points = []
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        name = ",".join(f"{labels[key]}={_slug(value, axes[key])}" for key, (_, value) in chosen.items())
        points.append(
            Point(
                name,
                tuple(f"{key}={text}" for key, (text, _) in chosen.items()),
                {key: value for key, (_, value) in chosen.items()},
            )
        )
    return points


def full_key(given: str, recipe: Mapping[str, Any]) -> str:
    """The dotted path that a key without dots stands for: the one entry of that name, or with "budget" the one target.

    >>> full_key("budget", {"phases": {"prune": {"compress": {"keep": None, "macs": 5000}}}})
    'phases.prune.compress.macs'
    """
    if "." in given:
        return given
    if given == "budget":
        found, what = list(_budgets(recipe)), "target of compress or factorize (keep, macs, bytes, rank, energy)"
    else:
        found, what = [key for key in _keys(recipe) if key.rpartition(".")[2] == given], "entry of that name"
    if len(found) == 1:
        return found[0]
    got = f"a recipe with {', '.join(found)}" if found else "a recipe without one"
    raise invalid(f"--over {given}", got=got, expected=f"one {what}", hint="give the whole key, such as training.seed")


def _budgets(recipe: Mapping[str, Any]) -> Iterator[str]:
    for phase, options in recipe["phases"].items():
        for section, targets in BUDGETS.items():
            table = options.get(section) or {}
            yield from (f"phases.{phase}.{section}.{name}" for name in targets if table.get(name) is not None)


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths, those of tables too."""
    for name, value in table.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")


def _values(key: str, text: str) -> list[tuple[str, Any]]:
    """Text and value of each."""
    values: list[tuple[str, Any]] = []
    for part in split(text):
        value = parse_override(f"{key}={part}", "--over")[1]
        if not part:
            raise invalid(f"--over {key}", got=repr(text), expected="values with commas between them")
        if any(_written(value) == _written(other) for _, other in values):
            raise invalid(f"--over {key}", got=f"{part} twice", expected="each value once")
        values.append((part, value))
    return values


def split(text: str) -> list[str]:
    """The parts between commas that are in no brackets and no quotes.

    >>> split('[16, 16],{kind="LowRank", rank=8},"a,b"')
    ['[16, 16]', '{kind="LowRank", rank=8}', '"a,b"']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        parts[-1] += letter
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    return [part.strip() for part in parts]


def _label(key: str, keys: Sequence[str]) -> str:
    """The last parts of a key that no other key ends with."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        label = ".".join(parts[-count:])
        if not any(other != key and f".{other}".endswith(f".{label}") for other in keys):
            return label
    return key


def _slug(value: Any, axis: Sequence[tuple[str, Any]]) -> str:
    """A value in the name of a folder; with a hash where it is long, or others of its key would be called the same."""
    names = [_readable(other) for _, other in axis]
    name = _readable(value)
    if len(name) <= _LONGEST and names.count(name) == 1:
        return name
    return f"{name[: _LONGEST - 7]}-{hashlib.sha256(_written(value).encode()).hexdigest()[:6]}"


def _readable(value: Any) -> str:
    if isinstance(value, Mapping):
        value = "-".join(f"{inner}" if name == "kind" else f"{name}-{inner}" for name, inner in value.items())
    text = value if isinstance(value, str) else _written(value)
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", re.sub(r"^\W*[\[{\"]|[\]}\"]\W*$", "", text)) or "none"


def _written(value: Any) -> str:
    return json.dumps(value, default=str)
