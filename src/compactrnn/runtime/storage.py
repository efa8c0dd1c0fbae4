"""The storage type of each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from .._errors import invalid
from .operations import OPERATIONS
from .program import Code, Op, Program, Tensor
from .rounding import quantize_groups, quantize_rows

WEIGHTS = ("float32", "int8", "int4", "auto")
_SEVERAL_TYPES = ("matrix", "columns", "table")
_JOINED = " + "  # between the names of what was folded into one table


@dataclass(frozen=True)
class WeightTypes:
    """What the argument `weights` asks for: a type for all, or types by name.

    A key is the name of an operation's weights ("encoder.lstm.weight_ih_l0", "fc"), of a module that holds them
    ("encoder"), or a pattern of names ("*.weight_hh_*"); of several that match the longest counts. "*" is for all
    others, int8 if it is not given.

    >>> types = WeightTypes.of({"fc": "float32", "*": "int4"})
    >>> types.find("fc"), types.find("lstm.weight_ih_l0")
    (('float32', True), ('int4', False))
    """

    by_key: Mapping[str, str]
    trained: Mapping[str, str] = field(default_factory=dict)  # by name: what weights were trained for, and must be

    @staticmethod
    def of(weights: str | Mapping[str, str]) -> WeightTypes:
        """`weights` as `quantize` takes it; raises `ValueError` for types that there are not."""
        by_key = dict(weights) if isinstance(weights, Mapping) else {"*": weights}
        for key, value in by_key.items():
            if not isinstance(key, str) or not isinstance(value, str) or value not in WEIGHTS:
                what = "weights" if not isinstance(weights, Mapping) else f"weights[{key!r}]"
                raise invalid(what, got=repr(value), expected=f"one of {', '.join(map(repr, WEIGHTS))}")
        return WeightTypes({"*": "int8", **by_key})

    def find(self, name: str) -> tuple[str, bool]:
        """The type of the weights called `name`, and whether a key other than "*" names them."""
        found = [self._of_part(part) for part in name.split(_JOINED)]
        return max(found, key=lambda f: (f[1], -WEIGHTS.index(f[0])))

    def _of_part(self, name: str) -> tuple[str, bool]:
        if name in self.trained:
            return self.trained[name], True
        key = best_key(self.by_key, name) or "*"
        return self.by_key[key], key != "*"

    def check_names(self, program: Program) -> None:
        """Raise `ValueError` for keys that name no weights of the program."""
        names = {op.name for op in program.ops if op.name and OPERATIONS[op.code].tensor in _SEVERAL_TYPES}
        for key in self.by_key:
            if key != "*" and not any(matches(key, name) for name in names):
                known = sorted(names)
                listed = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
                raise invalid(
                    "weights", got=f"the unknown name {key!r}", expected=f"some of {listed}, modules of these, or '*'"
                )
            for name, kind in self.trained.items():
                if key != "*" and matches(key, name) and self.by_key[key] != kind:
                    expected = f"{kind!r}, which {name} was trained in"
                    raise invalid(f"weights[{key!r}]", got=repr(self.by_key[key]), expected=expected)


def best_key(keys: Iterable[str], name: str) -> str | None:
    """Of the keys that match a name, the name itself or the longest; None if none does."""
    return max((key for key in keys if matches(key, name)), key=lambda key: (key == name, len(key)), default=None)


def matches(key: str, name: str) -> bool:
    """Whether `key` is the name of weights, of a module that holds them, or a pattern of their names."""
    return key == name or name.startswith(key + ".") or fnmatchcase(name, key)


def join_names(*names: str) -> str:
    """The name of what was folded into one table.

    >>> join_names("embedding", "lstm.weight_ih_l0")
    'embedding + lstm.weight_ih_l0'
    """
    return _JOINED.join(dict.fromkeys(name for name in names if name))


def is_stored(program: Program, op: Op) -> bool:
    """Whether the operation has a matrix or table of numbers that can be stored in several types."""
    several = OPERATIONS[op.code].tensor in _SEVERAL_TYPES
    return several and op.tensor is not None and program.tensors[op.tensor].is_float


def types_of(program: Program, types: WeightTypes) -> Callable[[Op], str]:
    """The type for an operation's tensor: what is asked for, but never int4 for many vectors of a step or a `DELTA`.

    What is `exact` stays float32.

    Of a matrix in which rows are looked up, too (tied weights), what is not named follows what is, and the lookup the
    product, unless float32 is asked for: it is stored once. Other tables are in int4 only if they are named.
    """
    tied, exact = _tied_types(program, types), {i for i, tensor in enumerate(program.tensors) if tensor.exact}

    def find(op: Op) -> str:
        asked, named = types.find(op.name)
        if asked == "float32" or op.tensor in exact:
            return "float32"
        if _has_no_int4(op):
            return "int8"
        if op.code != Code.EMBED:
            return asked if named else tied.get(op.tensor, asked)
        if named and asked != "auto" and _JOINED not in op.name:
            return asked
        return tied.get(op.tensor, "int8")

    return find


def _tied_types(program: Program, types: WeightTypes) -> dict[int | None, str]:
    """Of each matrix in which rows are looked up, too, the type of what is named, else that of the product."""
    tied = {op.tensor for op in program.ops if op.code == Code.EMBED and is_stored(program, op)} & program.in_panels
    found: dict[int | None, str] = {}
    for op in sorted(program.ops, key=lambda op: (not types.find(op.name)[1], op.code == Code.EMBED)):
        kind = types.find(op.name)[0]
        if op.tensor in tied and kind != "float32" and not _has_no_int4(op):
            found.setdefault(op.tensor, kind)
    return found


def _has_no_int4(op: Op) -> bool:
    return OPERATIONS[op.code].rows or op.code == Code.DELTA


def stored_type(program: Program, op: Op, asked: str) -> str:
    """What there is of the type that is asked for: matrices of a form have no int4."""
    form = op.tensor is not None and program.tensors[op.tensor].form is not None
    return "int8" if form and asked in ("int4", "auto") else asked


def assign(program: Program, types: WeightTypes) -> tuple[Program, dict[int, str], set[int]]:
    """The type of each tensor, and the tensors that the caller named.

    A tensor that several operations share is stored once for each type.
    """
    tensors, type_of = list(program.tensors), types_of(program, types)
    numbers: dict[tuple[int | None, str], int] = {}
    asked: dict[int, str] = {}
    named: set[int] = set()

    def change(op: Op) -> Op:
        if op.tensor is None or not is_stored(program, op):
            return op
        wanted = stored_type(program, op, type_of(op))
        use = op.tensor, wanted
        if use not in numbers:
            taken = any(tensor == op.tensor for tensor, _ in numbers)
            numbers[use] = len(tensors) if taken else op.tensor
            if taken:
                tensors.append(program.tensors[op.tensor])
        number = numbers[use]
        asked[number] = wanted
        if types.find(op.name)[1]:
            named.add(number)
        return replace(op, tensor=number)

    return replace(program.map_ops(change), tensors=tensors), asked, named


def with_table(program: Program, tensor: int) -> Program:
    """The program in which rows of a matrix are looked up in a copy of it, the last of the tensors."""
    copy = len(program.tensors)
    apart = program.map_ops(
        lambda op: replace(op, tensor=copy) if op.tensor == tensor and op.code == Code.EMBED else op
    )
    return replace(apart, tensors=[*program.tensors, program.tensors[tensor]])


def store(
    program: Program, types: Mapping[int, str] | None = None, rounded: Mapping[int, Tensor] | None = None
) -> Program:
    """The program with each tensor of `types` stored as it says, other floating point tensors as float32.

    Those of `rounded` are there already.
    """
    types, rounded = types or {}, rounded or {}
    tensors = []
    for i, tensor in enumerate(program.tensors):
        wanted = types.get(i, "float32")
        if not tensor.is_float:
            tensors.append(tensor)
        elif i in rounded:
            tensors.append(rounded[i])
        elif wanted.startswith("float"):
            tensors.append(replace(tensor, values=tensor.values.astype(wanted, copy=False)))
        else:
            if not np.isfinite(tensor.values).all():
                name = next((op.name for op in program.ops if op.tensor == i and op.name), "weights")
                raise invalid(name, got="NaN or infinity", expected="finite numbers")
            quantized = quantize_groups if wanted == "int4" else quantize_rows
            tensors.append(replace(quantized(tensor.values, tensor.block), form=tensor.form))
    return replace(program, tensors=tensors)
