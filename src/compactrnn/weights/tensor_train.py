"""Tensor-train weight: a matrix product operator."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import check_positive
from .base import AbstractWeight, WeightSpec
from .block_term import Blocks
from .terms import Selection, Term


@dataclass(frozen=True)
class TensorTrain(WeightSpec):
    """Rows and columns are numbered by `modes` = d digits, and each entry is a product of d small matrices:

        W[(i_1 ... i_d), (j_1 ... j_d)] = G_1[i_1, j_1] G_2[i_2, j_2] ... G_d[i_d, j_d]

    with G_k[i, j] of r_{k-1} x r_k, `r_0 = r_d = 1` and the others `rank`, or less where that is already enough for
    every matrix. The digits' ranges are the d most equal factors of `in_features` and of the rows of a gate. All gates
    share all but G_1. With two modes it is a sum of `rank` Kronecker products.

    >>> weight = TensorTrain(rank=4).build(4 * 256, 256, gates=4)
    >>> [tuple(core.shape) for core in weight.cores], weight.stored_parameters()
    ([(1, 16, 4, 4), (4, 8, 8, 4), (4, 8, 8, 1)], 1536)

    Source: Novikov et al., "Tensorizing Neural Networks", 2015; Oseledets, "Tensor-train decomposition", 2011.
    """

    rank: int
    modes: int = 3

    def __post_init__(self):
        check_positive(self.rank, "rank")
        check_positive(self.modes, "modes")

    def build(self, out_features: int, in_features: int, gates: int = 1) -> TensorTrainWeight:
        return TensorTrainWeight(self, out_features, in_features, gates)


class TensorTrainWeight(AbstractWeight):
    """`cores` has the G_k, (r_{k-1}, range of i_k, range of j_k, r_k) each."""

    spec: TensorTrain

    def __init__(self, spec: TensorTrain, out_features: int, in_features: int, gates: int = 1):
        super().__init__(spec, out_features, in_features, gates)
        first, *others = equal_factors(self.rows, spec.modes)
        self.tall, self.wide = (gates * first, *others), equal_factors(in_features, spec.modes)
        sizes = [m * n for m, n in zip(self.tall, self.wide, strict=True)]
        bounds = [min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, spec.modes)]
        ranks = [1, *(min(spec.rank, bound) for bound in bounds), 1]
        shapes = zip(ranks[:-1], self.tall, self.wide, ranks[1:], strict=True)
        self.cores = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.core_macs = sum(self._repeats(k) * core.numel() for k, core in enumerate(self.cores))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Core by core, the last one first, or with the dense matrix where that is less work."""
        count, size = x.numel() // self.in_features, self.out_features * self.in_features
        # a multiplication in a small product takes about as long as eight in a large one
        if count * (8 * self.core_macs - size) > self.spec.rank * size:
            return nn.functional.linear(x, self.dense())
        y = x.reshape(count, self.in_features, 1, 1)  # j_1 ... j_k, i_{k+1} ... i_d, and a number of 0 ... r_k - 1
        for core in reversed(self.cores):
            y = y.unflatten(1, (-1, core.shape[2]))
            y = torch.einsum("lmnr,bjnir->bjmil", core, y).flatten(2, 3)
        return y.reshape(*x.shape[:-1], self.out_features)

    def dense(self) -> Tensor:
        made = self.cores[0][0]
        for core in list(self.cores)[1:]:
            made = torch.einsum("ijr,rmns->imjns", made, core).flatten(2, 3).flatten(0, 1)
        return made.squeeze(-1)

    def terms(self) -> tuple[Term, ...]:
        """Each core is one block, repeated for every value of the other digits, between permutations."""
        made: list[Term] = []
        rest = 1  # values of i_{k+1} ... i_d
        for k in reversed(range(len(self.cores))):
            core = self.cores[k]
            left, tall, wide, right = core.shape
            made.insert(0, Blocks(core.transpose(0, 1).reshape(1, tall * left, wide * right), self._repeats(k)))
            before = self.wide[k - 1] if k else 1
            number = torch.arange(self._repeats(k) * tall * left, device=core.device)
            order = number.view(-1, before, rest, tall, left).permute(0, 3, 2, 1, 4).flatten()
            if not torch.equal(order, number):
                made.insert(0, Selection(order, len(number)))
            rest *= tall
        return tuple(made)

    def from_dense_(self, matrix: Tensor) -> TensorTrainWeight:
        """By singular value decompositions from the first core to the last (TT-SVD), then cores of equal norm.

        Exact for matrices of these ranks; else the error is at most `sqrt(modes - 1)` times that of the nearest.
        """
        self._check_matrix(matrix)
        digits = range(self.spec.modes)
        pairs = [axis for k in digits for axis in (k, k + self.spec.modes)]
        rest = matrix.detach().double().reshape(*self.tall, *self.wide).permute(pairs)
        found = []
        for core in list(self.cores)[:-1]:
            u, s, vt = torch.linalg.svd(rest.reshape(core[..., 0].numel(), -1), full_matrices=False)
            rank = core.shape[-1]
            found.append(u[:, :rank])
            rest = s[:rank, None] * vt[:rank]
        found.append(rest)
        norm = math.prod(float(made.norm()) for made in found) ** (1 / len(found))
        with torch.no_grad():
            for core, made in zip(self.cores, found, strict=True):
                size = float(made.norm())
                core.copy_((made * (norm / size if size else 0.0)).reshape(core.shape))
        return self

    def _repeats(self, k: int) -> int:
        """How many values the digits have that core k leaves alone."""
        return math.prod(self.wide[:k]) * math.prod(self.tall[k + 1 :])


@functools.cache
def equal_factors(number: int, count: int) -> tuple[int, ...]:
    """The `count` factors of `number` of the smallest sum, smallest first.

    >>> equal_factors(256, 3), equal_factors(39, 3)
    ((4, 8, 8), (1, 3, 13))
    """
    if count == 1:
        return (number,)
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(
        (tuple(sorted((d, *equal_factors(number // d, count - 1)))) for d in divisors), key=lambda f: (sum(f), f)
    )
