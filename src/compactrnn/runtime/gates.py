"""The order of gates: blocks of 16 units, in each block 16 numbers of every gate."""

from __future__ import annotations

import numpy as np

from . import _native  # pyright: ignore[reportAttributeAccessIssue]

LANES: int = _native.constants["LANES"]


def padded(n: int) -> int:
    """`n` rounded up to a multiple of 16.

    >>> padded(16), padded(17)
    (16, 32)
    """
    return -(-n // LANES) * LANES


def gate_rows(values: np.ndarray, gates: int) -> np.ndarray:
    """The rows of `(gates * n, ...)`, gate after gate, in the order of the kernels: `(gates * padded(n), ...)`.

    Rows of units beyond n are zero.

    >>> rows = gate_rows(np.arange(2 * 17), 2)
    >>> rows[:3].tolist(), rows[16:19].tolist(), rows[32:34].tolist(), rows[48:50].tolist()
    ([0, 1, 2], [17, 18, 19], [16, 0], [33, 0])
    """
    n, rest = len(values) // gates, values.shape[1:]
    whole = np.zeros((gates, padded(n), *rest), values.dtype)
    whole[:, :n] = values.reshape(gates, n, *rest)
    return np.ascontiguousarray(whole.reshape(gates, -1, LANES, *rest).swapaxes(0, 1)).reshape(-1, *rest)


def gate_units(values: np.ndarray, gates: int, n: int) -> np.ndarray:
    """Inverse of `gate_rows`: gate after gate, `(gates * n, ...)`.

    >>> gate_units(gate_rows(np.arange(6), 2), 2, 3).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    rest = values.shape[1:]
    whole = values.reshape(-1, gates, LANES, *rest).swapaxes(0, 1).reshape(gates, -1, *rest)
    return np.ascontiguousarray(whole[:, :n]).reshape(-1, *rest)
