"""Rounding of weights to int8 and int4 with scales."""

from __future__ import annotations

import numpy as np

from .._errors import invalid
from .layout import GROUP, MAX_GROUP_SCALES
from .program import Tensor

_CLIPS = np.linspace(0.5, 1.05, 12)  # largest weight kept as it is, relative to the largest there is


def quantize_rows(values: np.ndarray, block: int = 4) -> Tensor:
    """Int8 with one scale per row, absmax / 127; a row of zeros gets scale 1.

    >>> tensor = quantize_rows(np.array([[1.0, -0.5], [0.0, 0.0]]))
    >>> tensor.values.tolist(), bool(tensor.scale[1] == 1)
    ([[127, -64], [0, 0]], True)
    """
    values = _finite(values)
    largest = np.abs(values).max(axis=1)
    scale = np.where(largest < 1e-34, 1.0, largest / 127).astype(np.float32)
    whole = np.rint(values / scale[:, None].astype(np.float64))
    return Tensor(np.clip(whole, -127, 127).astype(np.int8), scale, block=block)


def quantize_groups(values: np.ndarray, block: int = 4) -> Tensor:
    """Int4, from -8 to 7, with a scale for each row and group of 64 columns.

    Of twelve scales, which clip the group's largest weight to from 0.5 to 1.05 of itself, the one with the least sum of
    squared errors is taken. Scales are whole multiples of the row's own scale.

    >>> tensor = quantize_groups(np.array([[1.0, -0.5, 0.1], [0.0, 0.0, 0.0]]))
    >>> tensor.values.tolist(), tensor.group_scale.tolist()
    ([[7, -4, 1], [0, 0, 0]], [[231], [0]])
    """
    values = _finite(values)
    columns = values.shape[1]
    groups = -(-columns // GROUP)
    top = min(255, MAX_GROUP_SCALES // groups)
    most = np.abs(values).max(axis=1)
    scale = np.where(most < 1e-34, 1.0, most * _CLIPS[-1] / 7 / top).astype(np.float32)
    unit = scale.astype(np.float64)
    entries, group_scale = np.zeros(values.shape, np.int8), np.zeros((len(values), groups), np.uint8)
    for group in range(groups):
        part = values[:, group * GROUP : (group + 1) * GROUP]
        best = _best_scale(part, unit, top)
        group_scale[:, group] = best
        entries[:, group * GROUP : (group + 1) * GROUP] = _rounded(part, best * unit)
    return Tensor(entries, scale, group_scale, block)


def _best_scale(values: np.ndarray, unit: np.ndarray, top: int) -> np.ndarray:
    """For each row the multiple of its `unit`, from 1 to `top`, that rounds it best; 0 for a row of zeros."""
    largest = np.abs(values).max(axis=1)
    best, least = np.zeros(len(values)), np.full(len(values), np.inf)
    for clip in _CLIPS:
        whole = np.where(largest > 0, np.clip(np.rint(largest * clip / 7 / unit), 1, top), 0)
        step = whole * unit
        error = np.square(_rounded(values, step) * step[:, None] - values).sum(axis=1)
        best, least = np.where(error < least, whole, best), np.minimum(error, least)
    return best


def _rounded(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values / np.where(step > 0, step, 1.0)[:, None]), -8, 7)


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise invalid("weights", got="NaN or infinity", expected="finite numbers")
    return values
