"""The time that packed models take for a frame, one beside the other in one process."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compactrnn import Engine

FRAMES, ROUNDS = 500, 21


def frame_times(files: Mapping[str, Path], frames: int = FRAMES, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Microseconds a frame of each file, a value for every round; in a round all files take their turn.

    A model that streams is given frame after frame, as they come; one that reads backwards too gets them all at once.
    """
    engines = {name: Engine(file) for name, file in files.items()}
    inputs = {name: _frames(engine, frames) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            if engine.offline:
                engine.run(inputs[name])
            else:
                stream = engine.stream()
                for frame in inputs[name]:
                    stream.step(frame)
            if number:  # the first round warms up
                times[name].append(1e6 * (time.perf_counter() - began) / frames)
    return times


def relative(times: Mapping[str, list[float]], to: str) -> dict[str, dict[str, float]]:
    """The median of each, and the quartiles of its ratio to `to` in the same round."""
    found = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[to], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {"microseconds": statistics.median(values), "ratio": middle, "from": low, "to": high}
    return found


def _frames(engine: Engine, frames: int) -> Any:
    return np.random.default_rng(0).normal(size=(frames, *engine.inputs[0].shape)).astype(np.float32)
