"""Doped weight: a structure and a few free entries."""

from __future__ import annotations

from dataclasses import dataclass

from .._errors import check_part, invalid
from .base import WeightSpec
from .sparse import Sparse
from .sum import SumWeight


@dataclass(frozen=True)
class Doped(WeightSpec):
    """`W = W_structure + W_sparse`: the structure of `weight`, and a part `keep` of all entries free beside it.

    As built, the places of the free entries are drawn at random. `compactrnn.compress.Doping` finds them in training,
    from a dense matrix on; `from_dense_` takes the largest entries of what the structure leaves of a trained matrix.

    >>> import compactrnn as cr
    >>> weight = Doped(cr.LowRank(rank=4), keep=0.01).build(400, 200)
    >>> weight.stored_parameters(), [type(part).__name__ for part in weight.parts]
    (3200, ['LowRankWeight', 'SparseWeight'])

    Raises:
        ValueError: `weight` is not a specification, or `keep` not in (0, 1].

    Source: Thakker et al., "Doping: a technique for extreme compression of LSTM models using sparse structured additive
    matrices", 2021.
    """

    weight: WeightSpec
    keep: float

    def __post_init__(self):
        if not isinstance(self.weight, WeightSpec):
            raise invalid("weight", got=repr(self.weight), expected="a weight such as Kronecker(8, 8)")
        check_part(self.keep, "keep")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> SumWeight:
        return SumWeight(self, (self.weight, Sparse(self.keep)), out_features, in_features, gates)
