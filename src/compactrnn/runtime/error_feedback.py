"""Rounding of a matrix to int4 for what it reads: the error of a column is made up for by the columns after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .equalize import rows_read
from .layout import GROUP
from .program import GATES, Code, Program, Tensor
from .rounding import largest_multiple, quantize_groups
from .storage import store

_VECTORS = 1 << 14  # to estimate a moment from
_LEAST = 0.01  # of the moment that is a multiple of the identity, whatever the data: it keeps the inverse small
_ROOM = 1.2  # how much larger than all of its weights a row's numbers may become


def shrinkage(mean: Any, fourth: float, count: int) -> tuple[float, float]:
    """`d` and `s` of the estimate `(1 - d) S + d s I` of a second moment E[x x^T], S the mean of x x^T.

    `fourth` is the sum of |x|^4 over the `count` vectors. Source of d: Ledoit, Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", 2004; here without the mean. It takes the vectors for independent, which
    those of a sequence are not quite.

    >>> share, size = shrinkage(np.eye(3), 900.0, 100)
    >>> share, size
    (1.0, 1.0)
    """
    size, square = float(mean.trace()) / len(mean), float((mean * mean).sum())
    distance = square - len(mean) * size * size
    noise = (fourth / count - square) / count
    return (min(1.0, max(1e-6, noise / distance)) if distance > 1e-12 * square else 1.0), size


def input_moments(program: Program, tensors: Sequence[int], sequences: Sequence[Any]) -> dict[int, np.ndarray]:
    """For each of the matrices `tensors` the second moment of what it reads on the sequences; none without data.

    Rows that are looked up are read entry by entry: half of the moment is then a multiple of the identity.
    """
    program, found = store(program), {}
    tables = {op.tensor for op in program.ops if op.code == Code.EMBED}
    products = {op.tensor for op in program.ops if op.code in GATES}
    for tensor in tensors:
        if tensor not in products:
            continue
        rows = rows_read(program, tensor, sequences)[:_VECTORS].astype(np.float64)
        if not rows.any():
            continue
        mean = rows.T @ rows / len(rows)
        share, size = shrinkage(mean, float(np.square(np.square(rows).sum(1)).sum()), len(rows))
        share = max(share, 0.5 if tensor in tables else _LEAST)
        found[tensor] = (1 - share) * mean + share * size * np.eye(len(mean))
    return found


def quantize_with_feedback(values: np.ndarray, moment: np.ndarray, block: int = 4) -> Tensor:
    """Int4 as `quantize_groups`, of the least error of `W x` for vectors x of this second moment.

    Columns are rounded in turn. What a column loses is made up for by those that are still to be rounded, as far as
    what they read goes together. Each group of 64 gets its scales when its turn comes.

    >>> values, moment = np.array([[1.0, 0.45, 0.45]]), np.full((3, 3), 0.9) + 0.1 * np.eye(3)
    >>> plain, fed = quantize_groups(values).dense() - values, quantize_with_feedback(values, moment).dense() - values
    >>> (fed @ moment @ fed.T).item() < (plain @ moment @ plain.T).item()
    True

    Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", 2022.
    """
    left = np.array(values, np.float64)
    rows, columns = left.shape
    top, factor = largest_multiple(columns), np.linalg.cholesky(np.linalg.inv(moment)).T
    most = np.abs(left).max(axis=1)
    scale = np.where(most < 1e-34, 1.0, most * _ROOM / 7 / top).astype(np.float32)
    entries, multiples = np.zeros((rows, columns), np.int8), np.zeros((rows, -(-columns // GROUP)), np.uint8)
    for number, first in enumerate(range(0, columns, GROUP)):
        group, inner = left[:, first : first + GROUP], factor[first : first + GROUP]
        step = _steps(group, scale, top)
        multiples[:, number], step = step, step * scale.astype(np.float64)
        lost = np.zeros(group.shape)
        for j in range(group.shape[1]):
            whole = np.clip(np.rint(group[:, j] / np.where(step > 0, step, 1.0)), -8, 7)
            entries[:, first + j] = np.where(step > 0, whole, 0)
            lost[:, j] = (group[:, j] - entries[:, first + j] * step) / inner[j, first + j]
            group[:, j + 1 :] -= lost[:, j, None] * inner[j, first + j + 1 : first + group.shape[1]]
        left[:, first + GROUP :] -= lost @ inner[:, first + GROUP :]
    return Tensor(entries, scale, multiples, block)


def _steps(group: np.ndarray, scale: np.ndarray, top: int) -> np.ndarray:
    """For each row the multiple of its scale that rounds the group best; 0 for zeros."""
    best = quantize_groups(np.where(np.abs(group) > 1e-30, group, 0.0))
    assert best.scale is not None and best.group_scale is not None
    size = best.scale.astype(np.float64) * best.group_scale[:, 0]
    return np.where(size > 0, np.clip(np.rint(size / scale), 1, top), 0)


def stored_with_feedback(program: Program, types: Mapping[int, str], sequences: Sequence[Any]) -> dict[int, Tensor]:
    """The matrices that `types` has in int4, rounded for what they read on the sequences."""
    wanted = [i for i, kind in types.items() if kind == "int4"]
    moments = input_moments(program, wanted, sequences)
    return {
        i: quantize_with_feedback(program.tensors[i].values, moment, program.tensors[i].block)
        for i, moment in moments.items()
    }
