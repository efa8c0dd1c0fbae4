"""Sensitivity analysis: which products quantization hurts most, and the remedy for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .equalize import can_center, can_scale, equalize, rows_read
from .measure import Measure
from .program import GATES, Code, Program
from .storage import store, with_table

LIMIT = 0.02  # relative error of the outputs up to which a program is left as it is
_INT4 = 0.15  # what a matrix in int4 may cost: four bits alone cost 7 % of random weights, whatever they read
_NEGLIGIBLE = (0.02, 0.05)  # part of the squared error that no remedy, and no larger type, is taken for
_WORTH = 0.95  # of the error before: what more remedies must bring it to
_FLOAT16 = 6e4  # what half precision can hold, about
_WORK = 2e9  # products of one run over the sequences that are measured with


@dataclass(frozen=True)
class Remedy:
    """What to do to one product: a type for its matrix, a scale per step for what it reads, scaled columns.

    `table`: the type of a copy that rows are looked up in; by default they are looked up in the matrix.
    """

    type: str
    per_step: bool = False
    scaled: bool = False
    center: bool = False
    table: str = ""

    def __str__(self) -> str:
        parts = [self.type]
        if self.scaled:
            parts.append("columns scaled from the calibration data")
        elif self.per_step:
            parts.append("its input scaled at every step")
        if self.table:
            parts.append(f"looked up in a table of its own in {self.table}")
        return ", ".join(parts)


@dataclass
class Accuracy:
    """Errors at the outputs of a float program with one of its tensors quantized, and remedies for the worst.

    `types` are those of the tensors, `fixed` the tensors whose type the caller chose.
    """

    program: Program
    types: Mapping[int, str]
    fixed: set[int]
    measure: Measure
    _known: dict[tuple[int, Remedy], float] = field(default_factory=dict)
    _rows: dict[int, np.ndarray] = field(default_factory=dict)

    def improve(self) -> tuple[Program, dict[int, str], dict[int, str]]:
        """A program, the types of its tensors and, for each that was changed, the reason.

        Each product may cost its part of `LIMIT`, in int4 15 %. One that costs more, and is no negligible part of the
        error, gets the first of `_remedies` that brings it there, else the best; larger types only where all together
        are still beyond the limit without them. If they are even so, the parts are halved, twice at most.
        """
        plain = {t: Remedy(kind) for t, kind in self.types.items() if kind != "float32"}
        chosen, part = dict(plain), LIMIT / max(len(plain), 1) ** 0.5
        error = self._error(chosen)
        for share, larger in ((1.0, False), (1.0, True), (0.5, True), (0.25, True)):
            trial = dict(chosen)
            for tensor in set(plain) - self.fixed:
                budget = max(share * part, _INT4) if plain[tensor].type == "int4" else share * part
                negligible = (_NEGLIGIBLE[larger] ** 0.5) * error if error < np.inf else 0.0
                if self._cost(tensor, chosen[tensor]) > max(budget, negligible):
                    trial[tensor] = self._remedy(tensor, plain[tensor], budget, larger)
            if trial != chosen and (found := self._error(trial)) < _WORTH * error:
                chosen, error = trial, found
            if error <= LIMIT:
                break
        program, types = self._with(chosen)
        changed = {t: remedy for t, remedy in chosen.items() if remedy != plain[t]}
        return program, types, {t: self._reason(t, plain[t], remedy) for t, remedy in changed.items()}

    def _error(self, remedies: Mapping[int, Remedy]) -> float:
        return self.measure.difference(store(*self._with(remedies))).error

    def shares(self) -> dict[int, float]:
        """The part that each quantized tensor has in the squared error, as if each were alone, the largest first."""
        costs = {t: self._cost(t, Remedy(kind)) ** 2 for t, kind in self.types.items() if kind != "float32"}
        total = sum(costs.values())
        worst = sorted(costs, key=lambda t: -costs[t])
        return {t: costs[t] / total for t in worst} if 0 < total < np.inf else {}

    @cached_property
    def _unbounded(self) -> set[int]:
        """The matrices that read numbers without a known bound."""
        return {op.tensor for op in self.program.ops if op.code in GATES and op.tensor is not None and not op.p0}

    @cached_property
    def _tables(self) -> set[int]:
        return {op.tensor for op in self.program.ops if op.code == Code.EMBED and op.tensor is not None}

    @cached_property
    def _matrices(self) -> set[int]:
        return {op.tensor for op in self.program.ops if op.code in GATES and op.tensor is not None}

    def _remedy(self, tensor: int, plain: Remedy, budget: float, larger: bool) -> Remedy:
        best, least = plain, 0.9 * self._cost(tensor, plain)
        for remedy in self._remedies(tensor, plain):
            if (remedy.type != plain.type or remedy.table) and not larger:
                break
            cost = self._cost(tensor, remedy)
            if cost <= budget:
                return remedy
            if cost < least:
                best, least = remedy, cost
        return best

    def _remedies(self, tensor: int, plain: Remedy) -> list[Remedy]:
        """In the order of their bytes. Only tables and what reads unbounded numbers get a larger type.

        Columns are scaled for a product: rows are then looked up elsewhere.
        """
        half = "float16" if np.abs(self.program.tensors[tensor].values).max() < _FLOAT16 else "float32"
        if tensor not in self._matrices:
            return [Remedy(half)]
        unbounded, tied = tensor in self._unbounded, tensor in self._tables
        kinds = [plain.type] + (["int8"] if plain.type == "int4" and (unbounded or tied) else [])
        found = [replace(plain, per_step=True)] if not unbounded else []
        found += [Remedy(kind) for kind in kinds[1:] if tied]
        if can_scale(self.program, tensor) and len(self._read(tensor)):
            centers = (False, True) if can_center(self.program, tensor) else (False,)
            for kind in kinds:
                found += [Remedy(kind)] if kind != plain.type and not tied else []
                found += [Remedy(kind, scaled=True, center=c, table="int8" if tied else "") for c in centers]
        found += [Remedy(kind, table=half) for kind in kinds if tied]
        return found + ([Remedy("float32")] if unbounded else [])

    def _read(self, tensor: int) -> np.ndarray:
        if tensor not in self._rows:
            self._rows[tensor] = rows_read(store(self.program), tensor, self.measure.inputs)
        return self._rows[tensor]

    def _cost(self, tensor: int, remedy: Remedy) -> float:
        """The error with this tensor alone quantized."""
        if remedy.type == "float32":
            return 0.0
        if (tensor, remedy) not in self._known:
            self._known[tensor, remedy] = self._error({tensor: remedy})
        return self._known[tensor, remedy]

    def _with(self, remedies: Mapping[int, Remedy]) -> tuple[Program, dict[int, str]]:
        program, types = self.program, {t: remedy.type for t, remedy in remedies.items()}
        for tensor, remedy in remedies.items():
            if remedy.table:
                program = with_table(program, tensor)
                types[len(program.tensors) - 1] = remedy.table
            if remedy.scaled:
                program = equalize(program, tensor, self._read(tensor), remedy.center)
            elif remedy.per_step:
                program = program.map_ops(lambda op, t=tensor: replace(op, p0=0.0) if op.tensor == t else op)
        return program, types

    def _reason(self, tensor: int, plain: Remedy, remedy: Remedy) -> str:
        before, after = self._cost(tensor, plain), self._cost(tensor, remedy)
        found = f"{before:.2%}" if before < np.inf else "an infinite amount"
        return f"{remedy}: alone it changes the outputs by {after:.2%}, where plain {plain.type} does by {found}"


def measurable_steps(program: Program) -> int:
    """How many steps of calibration data to measure each variant of a program on."""
    return max(1, int(_WORK / max(program.macs_per_step(), 1000)))
