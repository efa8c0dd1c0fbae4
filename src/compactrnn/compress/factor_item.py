"""A matrix of a model that is to be factorized, and what is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..layers.matrices import ModelMatrix, matrices
from ..runtime.storage import best_key, matches
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import Dense, DenseWeight
from ..weights.low_rank import LowRank, LowRankWeight, principal_factors, rank_of_energy
from .factorization import MatrixForm

Spec = WeightSpec | Mapping[str, WeightSpec | None] | None


@dataclass
class Item:
    """A matrix, what is asked for it (`wanted`; None by itself: the budget decides), and what it gets."""

    matrix: ModelMatrix
    wanted: WeightSpec | None = None
    named: bool = False
    reason: str = ""
    moment: Tensor | None = None
    weight: AbstractWeight | None = None
    energy: float = 1.0
    _factors: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def tables_only(self) -> bool:
        return all(place.is_table for place in self.matrix.places)

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Z, s and P of `principal_factors`."""
        if self._factors is None:
            dense = self.matrix.dense()
            if not dense.isfinite().all():
                raise invalid(self.matrix.name, got="numbers that are not finite", expected="a trained matrix")
            if self.moment is not None and self.moment.dim() == 1:  # of the rows
                right, s, left = principal_factors(dense.T, self.moment)
                self._factors = left.T, s, right.T
            else:
                self._factors = principal_factors(dense, self.moment)
        return self._factors

    def leave(self, reason: str, refuse: bool = True) -> None:
        """Let the matrix stay; refused, where it is named and that is no matter of size."""
        if self.named and refuse:
            raise invalid(self.matrix.name, got=f"a matrix that must stay: {reason}", expected="one to factorize")
        self.reason = reason

    def fit(self, spec: WeightSpec) -> None:
        """Make the new weight, or say why there is none."""
        matrix, (out, inp) = self.matrix, self.matrix.shape
        if isinstance(spec, LowRank):
            left, s, right = self.factors()
            if spec.rank is not None and spec.rank > min(out, inp):
                return self.leave(f"rank {spec.rank} is more than the smaller side, {min(out, inp)}", refuse=False)
            rank = spec.rank if spec.rank is not None else rank_of_energy(s, spec.energy or 1.0)
            weight = LowRankWeight.of(left[:, :rank], right[:rank], matrix.gates)
            label, total = f"rank {rank}", s.square().sum()
            self.energy = float(s[:rank].square().sum() / total) if total > 0 else 1.0
        else:
            with torch.random.fork_rng(devices=[]):
                try:
                    weight = spec.build(out, inp, matrix.gates)
                except ValueError as error:
                    return self.leave(str(error))
            label = str(spec)
        before = matrix.numbers
        if weight.stored_parameters() >= before:
            return self.leave(f"{label} has {weight.stored_parameters()} numbers in place of {before}", refuse=False)
        dense = matrix.dense()
        weight = weight.to(device=dense.device, dtype=dense.dtype)
        if not isinstance(spec, LowRank):
            weight.from_dense_(dense)
            error = (weight.dense().detach() - dense).double().square().sum()
            self.energy = float(1 - error / dense.double().square().sum().clamp_min(1e-300))
            self.moment = None
        self.weight = weight.requires_grad_(any(p.requires_grad for p in matrix.parameters()))

    def form(self) -> MatrixForm:
        matrix, weight = self.matrix, self.weight
        numbers = matrix.numbers, matrix.numbers if weight is None else weight.stored_parameters()
        sizes = numbers, (matrix.macs(), matrix.macs(weight))
        joined = matrix.joined
        if weight is None:
            return MatrixForm(matrix.names, matrix.shape, None, *sizes, reason=self.reason, joined=joined)
        weighted = self.moment is not None
        return MatrixForm(matrix.names, matrix.shape, weight.spec, *sizes, self.energy, weighted, joined=joined)


def requested(model: nn.Module, spec: Spec, by_budget: bool) -> list[Item]:
    """The matrices of the model, with what is asked for each."""
    found = [Item(matrix) for matrix in matrices(model)]
    if spec is None and not by_budget:
        raise invalid("spec", got="None", expected="a weight such as LowRank(rank=8), weights by name, or a size")
    if isinstance(spec, WeightSpec) and by_budget:
        raise invalid("spec", got=f"{spec} and a size", expected="one of them, or weights by name and a size")
    wishes = dict(spec) if isinstance(spec, Mapping) else {} if spec is None else {"*": spec}
    names = [name for item in found for name in item.matrix.names]
    for key, wish in wishes.items():
        if not isinstance(wish, WeightSpec | None):
            raise invalid(f"spec[{key!r}]", got=repr(wish), expected="a weight such as LowRank(rank=8), or None")
        if key != "*" and not any(matches(key, name) for name in names):
            listed = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            expected = f"some of {listed}, modules of these, or '*'"
            raise invalid("spec", got=f"the unknown name {key!r}", expected=expected)
    for item in found:
        keys = [(key, key == name) for name in item.matrix.names if (key := best_key(wishes, name)) is not None]
        key, item.named = max(keys, key=lambda k: (k[1], len(k[0])), default=(None, False))
        item.wanted = None if key is None else wishes[key]
        held = item.matrix.held
        if (key is not None or not by_budget) and (item.wanted is None or isinstance(item.wanted, Dense)):
            item.reason = item.matrix.left_alone or "not asked for"
        elif item.matrix.left_alone:
            item.leave(item.matrix.left_alone)
        elif isinstance(held, AbstractWeight) and not isinstance(held, DenseWeight | LowRankWeight):
            item.leave(f"it is {held.spec} already")
        elif isinstance(item.wanted, WeightSpec) and not isinstance(item.wanted, LowRank):
            if isinstance(held, LowRankWeight):
                item.leave(f"it is {held.spec} already")
            elif any(place.is_table for place in item.matrix.places):
                item.leave("rows can be looked up in a table of low rank only")
    return found
