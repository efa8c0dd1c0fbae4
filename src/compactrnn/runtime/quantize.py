"""Quantization of a float32 program: weights to int8 or int4, token inputs folded into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._errors import invalid
from .accuracy import LIMIT, Accuracy, measurable_steps
from .arena import share_buffers
from .byte_budget import within
from .constant_rows import constants_in_rows
from .copies import remove_copies
from .dead_code import remove_dead_code
from .delta import skip_unchanged
from .error_feedback import stored_with_feedback
from .file import encode
from .fold import fold_tokens
from .hoist import hoist
from .measure import Measure, run
from .mixed_precision import CACHES, choose
from .program import GATES, Program, Tensor
from .storage import WeightTypes, assign, store, types_of

_SMALLER, _WORSE = 0.95, 1.1  # what constants in int8 must save of the file, and how much they may add to the error


@dataclass(frozen=True)
class Trained:
    """How a matrix was trained: its `type`, and the scale of its inputs, 0 for one of each vector."""

    type: str
    scale: float = 0.0


@dataclass(frozen=True)
class Quantized:
    """A program as it is stored, and what was measured on the calibration data.

    `reasons` says, by the name of their weights, why products are not stored plainly as was asked; `shares`, where the
    error is beyond `LIMIT`, what part of the squared error each product causes, the largest first.
    """

    program: Program
    error: float = 0.0
    cosine: float = 1.0
    reasons: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def quantize(
    program: Program,
    weights: str | Mapping[str, str] = "int8",
    fold: str | bool = "auto",
    *,
    calibration: Sequence[Any] = (),
    caches: Sequence[int] = CACHES,
) -> Program:
    """The program with its matrices and tables stored as `weights`, its products in segments of their own (`hoist`).

    "int8" has a scale per row; "int4" has one per row and 64 columns too, and keeps in int8 the factors of Kronecker
    products and the tables that are not named and that no product in int4 reads, too; "auto" takes one of the two for
    each matrix, see `choose`, by the sizes of the `caches` in bytes and, if there are any, by its error on the
    sequences of `calibration`, inputs as `Engine.run` takes them. A dict has types by name, see `WeightTypes`.
    Toeplitz-like, circulant and hashed matrices are always float32, sparse ones and those of single entries float32 or
    int8.

    With `calibration`, products that would change the outputs too much are kept accurate, see `Accuracy`.

    A table that a product reads, too, such as an embedding tied to the output layer, is stored once, as the matrix: the
    lookup takes a row of it, in the numbers that the product has.

    `fold` replaces an embedding and the matrices that alone read it by tables of their products, bias included,
    computed in float64: always, never, or ("auto") where the file gets smaller, or, with whole numbers, where it grows
    by no more than a quarter, and by no larger part than what a step reads shrinks by.
    """
    return quantize_measured(program, weights, fold, calibration=calibration, caches=caches).program


def quantize_measured(
    program: Program,
    weights: str | Mapping[str, str] = "int8",
    fold: str | bool = "auto",
    *,
    calibration: Sequence[Any] = (),
    wanted: Sequence[Sequence[np.ndarray]] | None = None,
    improve: bool = True,
    caches: Sequence[int] = CACHES,
    trained: Mapping[str, Trained] | None = None,
    max_bytes: int | None = None,
) -> Quantized:
    """`quantize`, with what was measured.

    With `max_bytes` the file is no larger: "auto" is chosen by `byte_budget.within`, constants are in int8 where that
    costs less than int4, and no product is improved beyond. Where that is impossible it is as small as it can be.
    `wanted` are the outputs for each sequence, by default the program's own in float32. Without `improve` the data is
    only measured on. Weights named in `trained` are stored, and what they read is quantized, as they were trained.
    """
    trained = trained or {}
    types = replace(WeightTypes.of(weights), trained={name: weight.type for name, weight in trained.items()})
    if fold not in ("auto", True, False):
        raise invalid("fold", got=repr(fold), expected="'auto', True or False")
    program = remove_dead_code(program)
    types.check_names(program)
    if fold:
        apart = lambda op: op.name in trained  # noqa: E731
        program = remove_dead_code(fold_tokens(program, types_of(program, types), fold is True, apart))
    program = program.map_ops(
        lambda op: replace(op, p0=trained[op.name].scale) if op.code in GATES and op.name in trained else op
    )
    program, given, named = assign(program, types)
    reasons = _unquantized(program, types)
    if not len(calibration):
        return Quantized(_stored(program, choose(program, given, caches=caches)), reasons=reasons)
    measure = Measure(calibration, run(store(program), calibration) if wanted is None else wanted)
    if missing := measure.without_numbers():
        raise invalid(
            "quantization error",
            got=f"output {program.outputs[missing[0]].name!r} without a finite number on any of the data",
            expected="outputs to measure it on",
            hint="are there NaN in the calibration data, or in example_inputs?",
        )

    def fitting(program: Program) -> dict[int, str]:
        if max_bytes is None:
            return choose(program, given, measure if improve else None, caches)
        return within(program, given, max_bytes, lambda types: _size(program, types), measure)

    by_tensor = fitting(program)
    plain = stored = _stored(program, by_tensor)
    difference = measure.difference(plain)
    rows = constants_in_rows(program) if improve and not trained and types.by_key["*"] != "float32" else program
    if rows is not program:
        its_types = by_tensor if max_bytes is None else fitting(rows)
        changed, size = measure.difference(small := _stored(rows, its_types)), len(encode(plain))
        smaller = len(encode(small)) <= _SMALLER * size and changed.error <= _WORSE * difference.error
        instead = its_types != by_tensor and changed.error < difference.error  # of matrices in int4
        if smaller or instead or (max_bytes is not None and size > max_bytes):
            program, by_tensor, difference, plain = rows, its_types, changed, small
            stored = plain
            gain = "the file is smaller by a twentieth or more, its outputs are nearly the same"
            reasons["constants"] = f"int8: {gain if smaller else 'max_bytes costs least so'}"
    shares: dict[str, float] = {}
    part = None
    if difference.error > LIMIT and set(by_tensor.values()) != {"float32"}:
        part = measure.hardest(program, difference, measurable_steps(program))
        if improve:
            better, its_types, its_reasons = Accuracy(program, by_tensor, named, part).improve()
            stored = _stored(better, its_types)
            improved = measure.difference(stored)
            fits = max_bytes is None or len(encode(stored)) <= max_bytes
            if fits and improved.error < difference.error:
                program, by_tensor, difference = better, its_types, improved
                reasons |= _by_name(program, its_reasons)
            else:
                stored = plain
    if improve and (rounded := stored_with_feedback(program, _free(program, by_tensor, trained), measure.inputs)):
        fed = _stored(program, by_tensor, rounded)
        if (improved := measure.difference(fed)).error < difference.error:
            stored, difference = fed, improved
    if part is not None and difference.error > LIMIT:
        shares = _by_name(program, Accuracy(program, by_tensor, named, part).shares())
    return Quantized(stored, difference.error, difference.cosine, reasons, shares)


def _stored(program: Program, by_tensor: Mapping[int, str], rounded: Mapping[int, Tensor] | None = None) -> Program:
    """The program as it is written: its numbers in these types, large products apart, no needless copies and buffers.

    What only changes now and then is multiplied by what has changed.
    """
    return share_buffers(remove_copies(hoist(skip_unchanged(store(program, by_tensor, rounded)))))


def _size(program: Program, by_tensor: Mapping[int, str]) -> int:
    return len(encode(_stored(program, by_tensor)))


def _free(program: Program, by_tensor: Mapping[int, str], trained: Mapping[str, Trained]) -> dict[int, str]:
    """The types of tensors that are not stored as they were trained."""
    kept = {op.tensor for op in program.ops if op.name in trained}
    return {i: kind for i, kind in by_tensor.items() if i not in kept}


def _unquantized(program: Program, types: WeightTypes) -> dict[str, str]:
    """Why structured matrices are not of the type that is asked for."""
    stay: dict[int, str] = {}
    type_of = types_of(program, types)
    for op in program.ops:
        tensor = None if op.tensor is None else program.tensors[op.tensor]
        if op.tensor is not None and tensor is not None and tensor.exact and types.find(op.name)[0] != "float32":
            stay[op.tensor] = "float32: a fixed or constrained recurrence, in which rounding adds up over time"
        if op.tensor is None or tensor is None or tensor.form is None:
            continue
        asked, name = type_of(op), tensor.form.name
        if not tensor.has_entries and asked != "float32":
            stay[op.tensor] = f"{name} float32: the numbers of this form are not quantized"
        elif tensor.has_entries and asked == "int4":
            stay[op.tensor] = f"{name} int8: this form has no int4"
    return _by_name(program, stay)


def _by_name(program: Program, by_tensor: Mapping[int, Any]) -> dict[str, Any]:
    """The same by the names of the weights, else by the first operation that has them."""
    names: dict[int, str] = {}
    for number, op in enumerate(program.ops):
        if op.tensor is not None:
            names.setdefault(op.tensor, op.name or f"{number} {op.code.name.lower()}")
    return {names[t]: value for t, value in by_tensor.items()}
