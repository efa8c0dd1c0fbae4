"""The thresholds that pruning ends with, from the weights of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import invalid
from ..cells.base import AbstractCell
from ..layers.matrices import ModelMatrix, matrices
from ..weights.block_sparse import BlockSparseWeight
from ..weights.sparse import Sparse
from .wrappers import unwrap


def final_thresholds(trained: nn.Module, specs: Mapping[str, Any]) -> dict[str, float]:
    """For each matrix in `specs` the quantile 1 - `keep` of the weights of its kind, or of their blocks' largest.

    Matrices that multiply a state are one kind, the others another; those with other blocks are apart.

    Raises:
        ValueError: a specification with equally many entries in every row, or a matrix that `trained` does not have.

    >>> import compactrnn as cr
    >>> with torch.no_grad():
    ...     layer = nn.Linear(1, 10)
    ...     _ = layer.weight.copy_(torch.arange(10.0)[:, None])
    >>> final_thresholds(layer, {"weight": cr.BlockSparse(block=(1, 1), keep=0.3, balanced=False)})
    {'weight': 7.0}
    """
    known = {matrix.name: matrix for matrix in matrices(unwrap(trained))}
    maxima: dict[tuple[bool, tuple[int, int]], list[Tensor]] = {}
    kinds = {}
    for name, spec in specs.items():
        if isinstance(spec, Sparse) or spec.balanced:
            hint = "block=(1, 1) for single weights, or the cubic schedule for equal rows"
            expected = "BlockSparse(..., balanced=False), as a threshold leaves rows different numbers of entries"
            raise invalid(f"spec: {name}", got=repr(spec), expected=expected, hint=hint)
        if name not in known:
            raise invalid("trained", got=f"a model without {name}", expected="one with the matrices that are pruned")
        kinds[name] = multiplies_a_state(known[name]), spec.block
        maxima.setdefault(kinds[name], []).append(block_maxima(known[name], spec)[1].flatten())
    sorted_maxima = {kind: torch.cat(found).sort().values for kind, found in maxima.items()}
    return {
        name: float(found[min(round((1 - spec.keep) * len(found)), len(found) - 1)])
        for name, spec in specs.items()
        for found in [sorted_maxima[kinds[name]]]
    }


def block_maxima(matrix: ModelMatrix, spec: Any) -> tuple[BlockSparseWeight, Tensor]:
    """A weight of this form, and the largest absolute value in each block: (rows of blocks in all gates, blocks)."""
    dense = matrix.dense()
    with torch.random.fork_rng(devices=[]):
        weight = spec.build(*matrix.shape, matrix.gates)
    return weight, weight.blocks(dense.abs()).amax(2)


def multiplies_a_state(matrix: ModelMatrix) -> bool:
    """Whether it is a recurrent matrix of a layer or cell."""
    module, attribute = matrix.places[0].module, matrix.places[0].attribute
    if isinstance(module, AbstractCell):
        return any(attribute in part.read_by for part in (*module.active_units(), *module.states))
    return isinstance(module, nn.RNNBase) and not attribute.startswith("weight_ih")
