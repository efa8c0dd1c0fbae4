"""What was seen of a recurrent layer on one sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOW, HIGH = 0.1, 0.9  # a gate below is saturated to the left, above to the right


@dataclass(frozen=True)
class LayerView:
    """One layer, in one direction, on one sequence of T steps; a layer that reads backward has its times in order, too.

    `states` by name, (T, n): what each number of a state is after each step; states that hold earlier inputs alone,
    or count steps, are left out. `gates` by name, (T, n): each sigmoid of the step. `gradient[k - 1]` is the norm of
    the derivative of the answer by the states that enter step T - k, counted from 0, k = 1, ..., T. `matrices` are the
    eigenvalues of the recurrent matrices by name. `step` are those of a whole step in the middle of the sequence, of
    the derivative of all its new states by all states before it; None where the states have more than 1,024 numbers.
    """

    name: str
    cell: str
    states: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    gradient: np.ndarray
    matrices: dict[str, np.ndarray]
    step: np.ndarray | None

    def saturation(self, gate: str) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit of a gate, the share of steps at which it is below 0.1, and the share at which it is above 0.9.

        Karpathy, Johnson, Fei-Fei, "Visualizing and Understanding Recurrent Networks", 2015.
        """
        values = self.gates[gate]
        return (values < LOW).mean(0), (values > HIGH).mean(0)

    def memory(self, state: str) -> np.ndarray:
        """How like a state is to itself k steps later, for k = 0 to T - 1: its autocorrelation over all units.

            r_k = sum_t (s_t - m) (s_{t+k} - m) / sum_t |s_t - m|^2,      m the mean over time

        It is 1 at k = 0, falls fast where a layer works on the present, and is NaN of a state that does not change.
        That layers work on different time scales is what Tang, Shi, Wang, Feng, Zhang, "Memory Visualization for Gated
        Recurrent Neural Networks in Speech Recognition", 2017, make visible; this measure of it is not theirs.
        """
        return autocorrelation(self.states[state])


def autocorrelation(values: np.ndarray) -> np.ndarray:
    """That of rows over time, (T, n) -> (T,), by lag.

    >>> autocorrelation(np.array([[1.0], [-1.0], [1.0], [-1.0]]))
    array([ 1.  , -0.75,  0.5 , -0.25])
    """
    moved = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    steps, total = len(moved), float((moved**2).sum())
    if total <= 1e-24 * steps * moved.shape[1] * max(1.0, float(np.square(values, dtype=np.float64).max())):
        return np.full(steps, np.nan)
    spectrum = np.fft.rfft(moved, 2 * steps, axis=0)
    return np.fft.irfft((np.abs(spectrum) ** 2).sum(1), 2 * steps)[:steps] / total
