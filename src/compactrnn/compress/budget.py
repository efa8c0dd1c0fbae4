"""The size that a factorized model is to have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .._errors import check_positive, invalid
from ..layers.matrices import ModelMatrix
from ..weights.base import AbstractWeight


@dataclass(frozen=True)
class Budget:
    """`kind` is "keep", a fraction of the parameters, "bytes" of the parameters, or "macs"."""

    kind: str
    value: float

    @classmethod
    def of(cls, keep: float | None, bytes: int | None, macs: int | None) -> Budget | None:
        """The one that is given; None for none.

        Raises:
            ValueError: more than one, or one out of range.
        """
        given = {name: n for name, n in (("keep", keep), ("bytes", bytes), ("macs", macs)) if n is not None}
        if len(given) > 1:
            raise invalid("size", got=" and ".join(given), expected="one of keep, bytes and macs")
        for name, value in given.items():
            if name != "keep":
                check_positive(value, name)
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise invalid("keep", got=repr(value), expected="a fraction of the parameters between 0 and 1")
            return cls(name, value)
        return None

    def cost(self, matrix: ModelMatrix, weight: AbstractWeight | None = None) -> float:
        """What a matrix costs as it is, or stored as `weight`."""
        if self.kind == "macs":
            return matrix.macs(weight)
        numbers = matrix.numbers if weight is None else weight.stored_parameters()
        return numbers * (matrix.number_size if self.kind == "bytes" else 1)

    def limit(self, before: float) -> float:
        """The size that is allowed, `before` being that of the model."""
        return self.value * before if self.kind == "keep" else self.value

    def check(self, least: float, before: float, hints: Iterable[str]) -> None:
        """Raise `ValueError` for a size below the smallest one, or not below that of the model."""
        scale = before if self.kind == "keep" else 1
        if self.limit(before) >= before:
            raise invalid(self.kind, got=self.value, expected=f"less than the model has, {before / scale:.0f}")
        if least > self.limit(before):
            smallest = math.ceil(least / scale * 1e4) / 1e4 if scale > 1 else math.ceil(least)
            raise invalid(
                self.kind,
                got=self.value,
                expected=f"at least {smallest}, with all that can be factorized at rank 1",
                hint="; ".join(hints),
            )
