"""Eigenvalues of recurrent matrices, and of a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from ...cells.base import AbstractCell, States
from ...weights.base import AbstractWeight

LARGEST = 1024  # numbers in the states of a cell, of whose step the eigenvalues are still found


def matrix_spectra(cell: AbstractCell) -> dict[str, np.ndarray]:
    """The eigenvalues of each square matrix by which the units of a set act on themselves.

    One for each gate of a weight, by the name of the weight; a structured one counts as its dense matrix.

    >>> from compactrnn.cells import GRU
    >>> {name: values.shape for name, values in matrix_spectra(GRU(3, 5)).items()}
    {'hidden, gate 1': (5,), 'hidden, gate 2': (5,), 'hidden, gate 3': (5,)}
    """
    found: dict[str, np.ndarray] = {}
    within = (name for units in cell.active_units() for name in units.read_by if name in units.written_by)
    for name in dict.fromkeys(within):
        weight = getattr(cell, name)
        if not isinstance(weight, AbstractWeight) or weight.rows != weight.in_features:
            continue
        blocks = weight.dense().detach().split(weight.rows)
        for number, block in enumerate(blocks, 1):
            found[name if len(blocks) == 1 else f"{name}, gate {number}"] = eigenvalues(block)
    return found


def step_spectrum(cell: AbstractCell, projected: Tensor, states: States) -> np.ndarray | None:
    """The eigenvalues of the derivative of all new states by all states before a step; None if they are too many.

    Of a step that is linear in its state they do not depend on `states`: a diagonal recurrence has its diagonal. States
    that are counters are held.
    """
    varies = [spec.role != "counter" for spec in cell.states]
    sizes = [s.shape[1] for s, v in zip(states, varies, strict=True) if v]
    if sum(sizes) > LARGEST:
        return None

    def after(flat: Tensor) -> Tensor:
        parts = iter(flat.split(sizes))
        given = tuple(next(parts)[None] if v else s for s, v in zip(states, varies, strict=True))
        _, new = cell.step(projected, given)
        return torch.cat([s[0] for s, v in zip(new, varies, strict=True) if v])

    flat = torch.cat([s[0] for s, v in zip(states, varies, strict=True) if v]).detach()
    return eigenvalues(jacobian(after, flat))  # pyright: ignore


def eigenvalues(matrix: Tensor) -> np.ndarray:
    """Those of a square matrix, complex, the largest first; computed in float64, NaN where it is not finite."""
    if not bool(matrix.isfinite().all()):
        return np.full(len(matrix), complex("nan"))
    values = torch.linalg.eigvals(matrix.detach().double()).numpy()
    return values[np.argsort(-np.abs(values), kind="stable")]
