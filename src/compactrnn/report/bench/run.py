"""The whole bench: every subject, every number of steps a call, every contender, as rows of figures."""

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
from . import PEERS
from .base import AbstractContender, Form, Refused
from .model import PlainModel
from .ours import EngineContender
from .race import Timing, answers_of, distance, one_core, race
from .roofline import read_rates
from .subjects import Subject, Truth

CHECKED_STEPS = 16
BITS = {"int4": 4, "int8": 8, "bfloat16": 16, "float32": 32}


@dataclass(frozen=True)
class Row:
    """One contender on one subject; times are microseconds a call, the note says why there are none.

    `fraction` is our share of the roofline: the time it takes to read the weights of all steps once per step, over
    the time in C (or from Python, where that was not measured). With several steps a call it may exceed 1, as weights
    are read once for several steps. `against_fastest`, `against_as_fine` and `against_float32` say how many times
    faster ours is, hot, than the fastest peer: in any form; of as many bits or more; in float32.
    Ratios are medians of those within a round.
    """

    model: str
    contender: str
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
        """Whether it is our engine."""
        return self.contender.startswith("engine")


@dataclass(frozen=True)
class Entry:
    """A form that could be made and gives right answers, or a note of why not."""

    form: Form
    contender: AbstractContender | None = None
    distance: float | None = None
    note: str = ""


def peer_forms(peers: Sequence[str]) -> list[Form]:
    """All forms of these peers; of one that is not installed, a form that says so."""
    forms: list[Form] = []
    for peer in peers:
        try:
            forms += importlib.import_module(f".{peer}_forms", __package__).FORMS
        except ImportError:
            forms.append(Form(peer, "", _not_installed))
    return forms


def enter(
    forms: Sequence[Form], model: PlainModel | None, steps: int, inputs: Sequence[np.ndarray], truth: Truth | None
) -> list[Entry]:
    """Make each form and compare its answers with `truth`."""
    calls = list(inputs[: max(2, CHECKED_STEPS // steps)])
    wanted = None if truth is None else truth(np.concatenate(calls))
    entries = []
    for form in forms:
        try:
            contender = form.build(model, steps)  # pyright: ignore[reportArgumentType]
            got = answers_of(contender, calls)
            away = None if wanted is None else distance(got, wanted.reshape(len(wanted), -1), form.precision)
        except Exception as error:  # whatever a peer raises, the others go on
            entries.append(Entry(form, note=_first_line(error)))
        else:
            entries.append(Entry(form, contender, away))
    return entries


def contenders_of(subject: Subject, peers: Sequence[str], steps: int, inputs: Sequence[np.ndarray]) -> list[Entry]:
    """Ours and the peers', entered."""
    entries = enter(subject.ours, None, steps, inputs, subject.truth)
    if subject.model is None:
        alone = [Form(peer, "", _not_installed) for peer in peers] if subject.why_alone else []
        return entries + [Entry(form, note=subject.why_alone) for form in alone]
    from .torch_model import TorchModel, answers

    module = TorchModel(subject.model)
    return entries + enter(peer_forms(peers), subject.model, steps, inputs, lambda given: answers(module, given))


def measure(
    subject: Subject, peers: Sequence[str], steps: int, rounds: int, progress: Callable[[float], None] = lambda _: None
) -> list[Row]:
    """The rows of a subject at so many steps a call; `progress` is told which part of the work is done."""
    entries, times = _race(subject, peers, steps, rounds, cold=True, progress=progress)
    racing = [entry.form for entry in entries if entry.contender and entry.form not in subject.ours]
    rows = []
    for entry in entries:
        row = _row(subject, steps, entry, times.get(entry.form.name, {}))
        if row.ours and row.hot:
            own = times[row.contender]["hot"]
            ratios = {
                name: fastest.times(own)
                for name, bits in (("fastest", 0), ("as_fine", BITS.get(row.precision, 0)), ("float32", 32))
                if (fastest := _fastest([form for form in racing if BITS[form.precision] >= bits], times))
            }
            row = replace(row, **{f"against_{name}": ratio for name, ratio in ratios.items()})
        rows.append(row)
    return rows


def hot_times(subject: Subject, peers: Sequence[str], rounds: int) -> dict[str, Timing]:
    """Times of single steps with hot caches, contender -> microseconds; `ValueError` if ours cannot take part."""
    entries, times = _race(subject, peers, 1, rounds, cold=False)
    for entry in entries:
        if entry.note and entry.form in subject.ours:
            raise ValueError(f"{entry.form.name}: {entry.note}")
    return {name: found["hot"] for name, found in times.items()}


def describe(rows: Sequence[Row], rounds: int) -> dict[str, Any]:
    """Everything for a file: machine, versions of all that ran, read rates by working set, rows."""
    machine = describe_machine()
    for name in ("onnx", *PEERS):
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


def _race(
    subject: Subject,
    peers: Sequence[str],
    steps: int,
    rounds: int,
    *,
    cold: bool,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Entry], dict[str, dict[str, Timing]]]:
    with ExitStack() as stack:
        stack.enter_context(one_core())
        if sys.modules.get("torch"):
            from .torch_forms import torch_settings_kept

            stack.enter_context(torch_settings_kept())
        inputs = subject.inputs(steps)
        entries = contenders_of(subject, peers, steps, inputs)
        racing = {entry.form.name: entry.contender for entry in entries if entry.contender is not None}
        turns = count(1)
        times = race(
            racing,
            inputs,
            rounds=rounds,
            cold=cold,
            after_turn=lambda: progress(next(turns) / (rounds * len(racing))),
        )
    return entries, times


def _row(subject: Subject, steps: int, entry: Entry, times: dict[str, Timing]) -> Row:
    found: dict[str, Any] = {kind: timing.as_dict() for kind, timing in times.items()}
    if isinstance(entry.contender, EngineContender):
        found |= {"weight_bytes": entry.contender.weight_bytes, "isa": entry.contender.engine.isa}
        if "floor" in times:
            found["fraction"] = float(f"{steps * times['floor'].times(times.get('in_c', times['hot'])):.3g}")
    away = None if entry.distance is None else float(f"{entry.distance:.2g}")
    form = entry.form
    return Row(subject.name, form.name, form.precision, steps, **found, distance=away, note=entry.note)


def _fastest(forms: Sequence[Form], times: Mapping[str, Mapping[str, Timing]]) -> Timing | None:
    return min((times[form.name]["hot"] for form in forms), key=lambda timing: timing.median, default=None)


def _not_installed(model: PlainModel, steps: int) -> AbstractContender:
    raise Refused("not installed; run: pip install 'compactrnn[bench]'")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
