"""Hashed weight: entries that share numbers at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from .base import AbstractWeight, WeightSpec
from .shared_term import HashedTerm, hash_places
from .terms import Term


@dataclass(frozen=True, repr=False)
class Hashed(WeightSpec):
    """`W[i, j] = s(i, j) v[b(i, j)]` in every gate: a hash takes a number of v, a bucket, and a sign for each entry.

    Give `compression`, how many entries share a number in the mean, or the number of `buckets` of a gate. The hash is
    that of `compactrnn.runtime.shared.hashed` and the same for every matrix: nothing but v is stored.

    >>> Hashed(compression=8).build(256, 64).stored_parameters()  # in place of 16384
    2048
    >>> Hashed(buckets=100).build(4 * 16, 16, gates=4).stored_parameters()
    400

    Raises:
        ValueError: not exactly one of the two is given; by `build`, more buckets than a gate has entries.

    Source: Chen et al., "Compressing Neural Networks with the Hashing Trick", 2015, section 4.
    """

    compression: float | None = None
    buckets: int | None = None

    def __post_init__(self):
        if (self.compression is None) == (self.buckets is None):
            raise invalid(
                "Hashed",
                got=f"compression={self.compression}, buckets={self.buckets}",
                expected="exactly one of the two",
            )
        if self.buckets is not None:
            check_positive(self.buckets, "buckets")
        elif (
            not isinstance(self.compression, int | float) or isinstance(self.compression, bool) or self.compression < 1
        ):
            raise invalid("compression", got=repr(self.compression), expected="a number of at least 1")

    def __repr__(self) -> str:
        return f"Hashed(compression={self.compression})" if self.buckets is None else f"Hashed(buckets={self.buckets})"

    def build(self, out_features: int, in_features: int, gates: int = 1) -> HashedWeight:
        return HashedWeight(self, out_features, in_features, gates)


class HashedWeight(AbstractWeight):
    """`buckets` has the v of every gate, (gates, buckets); `place` is that of `HashedTerm`, and not saved."""

    spec: Hashed
    place: Tensor

    def __init__(self, spec: Hashed, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        entries = self.rows * in_features
        count = spec.buckets or max(1, round(entries / (spec.compression or 1)))
        if count > entries:
            raise invalid(
                "buckets",
                got=count,
                expected=f"at most {entries}, the entries of a {self.rows} x {in_features} gate",
                hint="use Dense() for this matrix",
            )
        self.buckets = nn.Parameter(torch.empty(gates, count))
        place = hash_places(entries, count).to(self.buckets.device)
        self.register_buffer("place", place, persistent=False)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense())

    def dense(self) -> Tensor:
        return self.terms()[0].dense()

    def terms(self) -> tuple[Term, ...]:
        """One, of which the core makes the matrix when it opens a file."""
        return (HashedTerm(self.buckets, self.place, self.in_features),)

    def from_dense_(self, matrix: Tensor) -> HashedWeight:
        """The nearest: the mean of the entries of each bucket, with their signs; 0 for a bucket without any."""
        self._check_matrix(matrix)
        gates, count = self.buckets.shape
        flat = matrix.detach().to(self.buckets).reshape(gates, -1)
        plus, minus = flat.new_zeros(gates, 2 * count).index_add_(1, self.place, flat).chunk(2, 1)
        entries = self.place.bincount(minlength=2 * count).view(2, count).sum(0)
        with torch.no_grad():
            self.buckets.copy_((plus - minus) / entries.clamp_min(1))
        return self
