"""Weights of a given number of parameters: what the studies of compact models compare."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

import compactrnn as cr
from compactrnn.layers.matrices import ModelMatrix
from compactrnn.weights import WeightSpec
from compactrnn.weights.registry import weight_table


def largest(make: Callable[[int], WeightSpec], shape: tuple[int, int], gates: int, numbers: float) -> WeightSpec:
    """The specification of the highest rank that stores at most so many numbers, 1 at least."""

    def size(rank: int) -> float:
        try:
            return make(rank).build(*shape, gates).stored_parameters()
        except ValueError:  # above the full rank
            return math.inf

    ranks = range(1, min(shape) + 1)
    return make(max(1, bisect_right(ranks, numbers, key=size)))


def doped(shape: tuple[int, int], gates: int, numbers: float) -> WeightSpec:
    """Three quarters of the numbers in free entries, or as many as are stored one by one; the rest in products.

    More free entries are slow, and a file has the dense matrix in their place where it is smaller.
    """
    free = min(0.75 * numbers, MOST_FREE * math.prod(shape))
    structure = largest(lambda r: cr.Kronecker(rank=r), shape, gates, numbers - free)
    left = numbers - structure.build(*shape, gates).stored_parameters()
    keep = min(math.floor(left / shape[0]), math.floor(MOST_FREE * shape[1]))
    return cr.Doped(structure, keep=max(1, keep) / shape[1])


def gradual(structure: str, updates: int) -> dict[str, Any]:
    """Entries of a phase of so many updates: free entries are found in the first half, from the trained matrix on."""
    if structure not in ("doped-kronecker", "sparse"):
        return {}
    return {"compress": {"method": "doping", "steps": updates // 2, "dropout": 0.0}}


def whole_share(columns: int, share: float) -> float:
    """The share of so many columns that is a whole number of them, one at least, and nearest to the given one."""
    return max(1, round(share * columns)) / columns


def block_sparse(shape: tuple[int, int], gates: int, numbers: float) -> WeightSpec:
    """Blocks of 16 x 4, the same number in each row of blocks."""
    return cr.BlockSparse(keep=whole_share(math.ceil(shape[1] / 4), numbers / math.prod(shape)))


MOST_FREE = 0.1  # of a matrix
STRUCTURES: dict[str, Callable[[tuple[int, int], int, float], WeightSpec]] = {
    "low-rank": lambda shape, gates, n: largest(lambda r: cr.LowRank(rank=r), shape, gates, n),
    "kronecker": lambda shape, gates, n: largest(lambda r: cr.Kronecker(rank=r), shape, gates, n),
    "doped-kronecker": doped,
    "toeplitz": lambda shape, gates, n: largest(lambda r: cr.ToeplitzLike(rank=r), shape, gates, n),
    "hashed": lambda shape, gates, n: cr.Hashed(compression=math.prod(shape) / n),
    "block-sparse": block_sparse,
    "sparse": lambda shape, gates, n: cr.Sparse(keep=whole_share(shape[1], n / math.prod(shape))),
}


def tables(found: Iterable[ModelMatrix], structure: str, share: float) -> dict[str, Any]:
    """The weights of matrices by name, each with its share of numbers."""
    make = STRUCTURES[structure]
    return {m.name: table_of(make(tuple(m.shape), m.gates, share * math.prod(m.shape))) for m in found}


def table_of(spec: WeightSpec) -> dict[str, Any]:
    """A specification as a recipe has it."""
    table = weight_table(spec)
    assert table is not None
    return table
