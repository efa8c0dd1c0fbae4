"""The whole benchmark: every case, number of steps per call and configuration, as rows of figures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any

import numpy as np

from ..._machine import describe_machine
from . import FRAMEWORKS
from .base import AbstractRunner, Config, Unsupported
from .cases import Case, Truth
from .engine_runner import EngineRunner
from .model import PlainModel
from .roofline import read_rates
from .timing import Timing, answers_of, distance, one_core, time_interleaved

CHECKED_STEPS = 16
BITS = {"int4": 4, "int8": 8, "bfloat16": 16, "float32": 32}


@dataclass(frozen=True)
class Row:
    """One configuration on one case; times in microseconds per call, or a note why there are none.

    `fraction` is our share of the roofline: the time it takes to read the weights of all steps once per step, over
    the time in C (or from Python, where that was not measured). With several steps a call it may exceed 1, as weights
    are read once for several steps. `against_fastest`, `against_as_fine` and `against_float32` say how many times
    faster ours is, hot, than the fastest framework: in any config; of as many bits or more; in float32.
    Ratios are medians of those within a round.
    """

    model: str
    entry: str
    precision: str
    steps: int
    hot: dict[str, float] | None = None
    cold: dict[str, float] | None = None
    in_c: dict[str, float] | None = None
    floor: dict[str, float] | None = None
    weight_bytes: int | None = None
    fraction: float | None = None
    against_fastest: float | None = None
    against_as_fine: float | None = None
    against_float32: float | None = None
    distance: float | None = None
    isa: str = ""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether this row is of this package's engine."""
        return self.entry.startswith("engine")


@dataclass(frozen=True)
class Entry:
    """A configuration that was built and checked, or a note why it could not be."""

    config: Config
    runner: AbstractRunner | None = None
    distance: float | None = None
    note: str = ""


def framework_configs(frameworks: Sequence[str]) -> list[Config]:
    """All configurations of these frameworks; one that says "not installed" for a missing framework."""
    configs: list[Config] = []
    for framework in frameworks:
        try:
            configs += importlib.import_module(f".{framework}_runner", __package__).CONFIGS
        except ImportError:
            configs.append(Config(framework, "", _not_installed))
    return configs


def enter(
    configs: Sequence[Config], model: PlainModel | None, steps: int, inputs: Sequence[np.ndarray], truth: Truth | None
) -> list[Entry]:
    """Build each configuration and compare its outputs with `truth`."""
    calls = list(inputs[: max(2, CHECKED_STEPS // steps)])
    wanted = None if truth is None else truth(np.concatenate(calls))
    entries = []
    for config in configs:
        try:
            runner = config.build(model, steps)  # pyright: ignore[reportArgumentType]
            got = answers_of(runner, calls)
            away = None if wanted is None else distance(got, wanted.reshape(len(wanted), -1), config.precision)
        except Exception as error:  # whatever a framework raises, the others go on
            entries.append(Entry(config, note=_first_line(error)))
        else:
            entries.append(Entry(config, runner, away))
    return entries


def entries_of(case: Case, frameworks: Sequence[str], steps: int, inputs: Sequence[np.ndarray]) -> list[Entry]:
    """The engine's configurations and those of the frameworks, built and checked."""
    entries = enter(case.ours, None, steps, inputs, case.truth)
    if case.model is None:
        alone = [Config(framework, "", _not_installed) for framework in frameworks] if case.why_alone else []
        return entries + [Entry(config, note=case.why_alone) for config in alone]
    from .torch_model import TorchModel, answers

    module = TorchModel(case.model)
    return entries + enter(
        framework_configs(frameworks), case.model, steps, inputs, lambda given: answers(module, given)
    )


def measure(
    case: Case, frameworks: Sequence[str], steps: int, rounds: int, progress: Callable[[float], None] = lambda _: None
) -> list[Row]:
    """The rows of a case at `steps` steps per call; `progress` receives the fraction done."""
    entries, times = _time(case, frameworks, steps, rounds, cold=True, progress=progress)
    timed = [entry.config for entry in entries if entry.runner and entry.config not in case.ours]
    rows = []
    for entry in entries:
        row = _row(case, steps, entry, times.get(entry.config.name, {}))
        if row.ours and row.hot:
            own = times[row.entry]["hot"]
            ratios = {
                name: fastest.times(own)
                for name, bits in (("fastest", 0), ("as_fine", BITS.get(row.precision, 0)), ("float32", 32))
                if (fastest := _fastest([config for config in timed if BITS[config.precision] >= bits], times))
            }
            row = replace(row, **{f"against_{name}": ratio for name, ratio in ratios.items()})
        rows.append(row)
    return rows


def hot_times(case: Case, frameworks: Sequence[str], rounds: int) -> dict[str, Timing]:
    """Single-step times with hot caches by configuration, microseconds; `ValueError` if the engine cannot run it."""
    entries, times = _time(case, frameworks, 1, rounds, cold=False)
    for entry in entries:
        if entry.note and entry.config in case.ours:
            raise ValueError(f"{entry.config.name}: {entry.note}")
    return {name: found["hot"] for name, found in times.items()}


def describe(rows: Sequence[Row], rounds: int) -> dict[str, Any]:
    """The report as JSON: machine, versions, read bandwidth by working set, rows."""
    machine = describe_machine()
    for name in ("onnx", *FRAMEWORKS):
        with suppress(PackageNotFoundError):
            machine["versions"][name] = version(name)
    isa = next((row.isa for row in rows if row.isa), None)
    with one_core():
        rates = [] if isa is None else read_rates(isa)
    return {
        "machine": machine,
        "isa": isa,
        "threads": 1,
        "rounds": rounds,
        "read_rates": rates,
        "rows": [asdict(row) for row in rows],
    }


def _time(
    case: Case,
    frameworks: Sequence[str],
    steps: int,
    rounds: int,
    *,
    cold: bool,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Entry], dict[str, dict[str, Timing]]]:
    with ExitStack() as stack:
        stack.enter_context(one_core())
        if sys.modules.get("torch"):
            from .torch_runner import torch_settings_kept

            stack.enter_context(torch_settings_kept())
        inputs = case.inputs(steps)
        entries = entries_of(case, frameworks, steps, inputs)
        timed = {entry.config.name: entry.runner for entry in entries if entry.runner is not None}
        repetitions = count(1)
        times = time_interleaved(
            timed,
            inputs,
            rounds=rounds,
            cold=cold,
            after_repetition=lambda: progress(next(repetitions) / (rounds * len(timed))),
        )
    return entries, times


def _row(case: Case, steps: int, entry: Entry, times: dict[str, Timing]) -> Row:
    found: dict[str, Any] = {kind: timing.as_dict() for kind, timing in times.items()}
    if isinstance(entry.runner, EngineRunner):
        found |= {"weight_bytes": entry.runner.weight_bytes, "isa": entry.runner.engine.isa}
        if "floor" in times:
            found["fraction"] = float(f"{steps * times['floor'].times(times.get('in_c', times['hot'])):.3g}")
    away = None if entry.distance is None else float(f"{entry.distance:.2g}")
    config = entry.config
    return Row(case.name, config.name, config.precision, steps, **found, distance=away, note=entry.note)


def _fastest(configs: Sequence[Config], times: Mapping[str, Mapping[str, Timing]]) -> Timing | None:
    return min((times[config.name]["hot"] for config in configs), key=lambda timing: timing.median, default=None)


def _not_installed(model: PlainModel, steps: int) -> AbstractRunner:
    raise Unsupported("not installed; run: pip install 'compactrnn[bench]'")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
