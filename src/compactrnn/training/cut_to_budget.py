"""Cutting a model until its packed file keeps a budget."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from .._errors import UnsupportedModelError, invalid
from ..compress import NeuronSelection
from ..compress.groups import Group
from ..compress.l0_selection import L0Selection
from ..compress.method import AbstractPruningMethod
from ..compress.pruner import Pruner
from ..compress.sizes import counts
from ..graph.copy import copy_module
from ..lower import pack
from ..lower.pack_model import lower_sequences
from ..lower.trained import plain_form
from ..runtime.engine import Engine
from ..runtime.file import write
from ..runtime.quantize import quantize

BUDGETS = ("bytes", "macs", "microseconds")
TRIALS = 6
NEAR, AIM = 0.97, 0.985  # of the budget: what needs no further trial, and where the next one is
NEXT = 0.995  # of it: what is aimed at where a model was a little too large
TIMED = 200  # steps

T = TypeVar("T")
P = TypeVar("P", bound=Pruner)


class Cutter:
    """Measures packed models, and finds how many parameters keep a budget.

    Raises:
        ValueError: the budget names something else, or is not positive.
    """

    def __init__(
        self,
        example_inputs: Any,
        budget: Mapping[str, float],
        exclude: Iterable[str],
        calibration: Iterable[Any] | None,
        lengths: Sequence[str] | None = None,
        time: int | None = None,
    ):
        if not isinstance(budget, Mapping) or not budget or not budget.keys() <= set(BUDGETS):
            raise invalid("budget", got=repr(budget), expected=f"a dict with some of {', '.join(BUDGETS)}")
        for name, most in budget.items():
            if isinstance(most, bool) or not isinstance(most, int | float) or not most > 0:
                raise invalid(f"budget[{name!r}]", got=repr(most), expected="a positive number")
        self.budget, self.example_inputs, self.exclude = dict(budget), example_inputs, tuple(exclude)
        self.fixed = 0.0  # the part of the budget that a model with one unit in each layer takes
        self.calibration = None if calibration is None else list(calibration)
        self.lengths, self.time = lengths, time

    def measure(self, model: nn.Module, types: str | dict[str, str]) -> dict[str, float]:
        """The sizes that a model has when it is packed."""
        lowered, _ = lower_sequences(plain_form(model), self.example_inputs, self.time, self.lengths)
        return self._sizes(model, write(quantize(lowered.program, types)))

    def pack(self, model: nn.Module, types: dict[str, str], path: str | PathLike[str]) -> dict[str, float]:
        """Pack a model, and measure the file."""
        given = {"calibration": self.calibration, "lengths": self.lengths, "time": self.time}
        pack(model, path, self.example_inputs, weights=types, notes=False, **given)
        return self._sizes(model, Path(path).read_bytes())

    def _sizes(self, model: nn.Module, file: bytes) -> dict[str, float]:
        parameters, _, macs = counts(model)
        sizes: dict[str, float] = {"parameters": parameters, "bytes": len(file), "macs": macs}
        return sizes | ({"microseconds": _step_time(Engine(file))} if "microseconds" in self.budget else {})

    def exceeded(self, sizes: dict[str, float]) -> list[str]:
        """What is larger than the budget, in words."""
        over = [name for name, most in self.budget.items() if sizes[name] > most]
        return [f"{name}: {sizes[name]:,.6g} where {self.budget[name]:,.6g} are allowed" for name in over]

    def parameters(self, model: nn.Module, types: dict[str, str]) -> int | None:
        """The largest number of parameters with which trial cuts keep the budget; None where the whole model does.

        Raises:
            ValueError: none does.
        """
        over = self._over(model, types)
        if over <= 1:
            return None
        model, method = copy_module(model), _AnyUnits()
        pruner = self._pruner(lambda **options: Pruner(model, self.example_inputs, method, **options))

        def trial(keep: float) -> tuple[float, nn.Module]:
            method.keep = keep
            small = _shrunk(pruner)
            return self._over(small, types), small

        over_least, least = trial(0.0)
        if over_least > 1:
            sizes = self.measure(least, types)
            expected = ", ".join(f"{name} of at least {sizes[name]:,.6g}" for name in self.budget)
            raise invalid("budget", got=self.budget, expected=f"{expected}, which one unit in each layer has")
        self.fixed = min(over_least, NEAR)
        # sizes grow nearly as the square of the number of units
        best = _largest(trial, (1.0, over), self.fixed, 2.0, 1.0)
        return counts(least if best is None else best)[0]

    def selection(self, model: nn.Module, parameters: int, steps: int) -> NeuronSelection:
        """The pruner that learns which units stay.

        Raises:
            ValueError: one unit in each layer is more.
        """

        def make(**options: Any) -> NeuronSelection:
            return NeuronSelection(model, self.example_inputs, bytes=4 * parameters, steps=steps, **options)

        return self._pruner(make)

    def adjust_(self, pruner: NeuronSelection, types: dict[str, str]) -> None:
        """Before the last step: let so many units stay that the file of just these keeps the budget."""
        method = pruner.method
        assert isinstance(method, L0Selection) and method.fraction is not None
        fraction = method.fraction

        def trial(factor: float) -> tuple[float, float]:
            method.fraction = factor * fraction
            return self._over(_shrunk(pruner), types), factor

        over, _ = trial(1.0)
        best = 1.0 if NEAR < over <= 1 else _largest(trial, (1.0, over), self.fixed, 1.0, 1 / fraction)
        method.fraction = fraction * (best or 1.0)

    def again(self, model: nn.Module, types: dict[str, str], parameters: int) -> int | None:
        """The parameters to prune a model to that was pruned to `parameters`; None where it keeps the budget."""
        over = self._over(model, types)
        return None if over <= 1 else int(NEXT * min(parameters, counts(model)[0]) / over)

    def _over(self, model: nn.Module, types: dict[str, str]) -> float:
        """By which factor a model exceeds the budget."""
        sizes = self.measure(model, types)
        return max(sizes[name] / most for name, most in self.budget.items())

    def _pruner(self, make: Callable[..., P]) -> P:
        """A pruner of embedding columns, too, where it is known what reads them."""
        try:
            return make(exclude=self.exclude, embeddings=True)
        except UnsupportedModelError:
            return make(exclude=self.exclude)


class _AnyUnits(AbstractPruningMethod):
    """Keeps a share of the units of each layer, whichever, one at least."""

    keep = 1.0

    def step_(self, groups: list[Group], count: int) -> None:
        for group in groups:
            group.decay_((torch.arange(group.count) < max(1, round(self.keep * group.count))).float())


def _shrunk(pruner: Pruner) -> nn.Module:
    """What a pruner would give after one more step; it and its model stay as they are."""
    model, state = copy.deepcopy(pruner.model.state_dict()), pruner.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.step()
        small = pruner.shrink()
    pruner.model.load_state_dict(model)
    pruner.load_state_dict(state)
    return small


def _largest(
    trial: Callable[[float], tuple[float, T]], first: tuple[float, float], fixed: float, power: float, most: float
) -> T | None:
    """What `trial` gives for nearly the largest number up to `most` that keeps the budget; None for none.

    It gives by which factor the budget is exceeded, too, about `fixed + c number^power`; `first` is a known pair of a
    number and this factor.
    """
    (guess, over), best, low, high = first, None, 0.0, most
    for _ in range(TRIALS):
        guess *= ((AIM - fixed) / max(over - fixed, 1e-9)) ** (1 / power) if over > fixed else 2.0
        guess = guess if low < guess < high else (low + high) / 2
        over, found = trial(guess)
        if over > 1:
            high = guess
        else:
            low, best = guess, found
            if over > NEAR:
                break
    return best


def _step_time(engine: Engine) -> float:
    """Microseconds for a step, the median: of a stream, or of a sequence by its steps where a stream cannot be."""
    zeros = {i.name: np.zeros(i.shape, np.int32 if i.vocabulary else np.float32) for i in engine.inputs}
    once = {i.name: zeros[i.name] for i in engine.inputs if i.once}
    times = []
    if engine.offline:
        sequence = tuple(x if name in once else np.stack([x] * TIMED) for name, x in zeros.items())
        for _ in range(9):
            began = time.perf_counter()
            engine.run(sequence[0] if len(sequence) == 1 else sequence)
            times.append((time.perf_counter() - began) / TIMED)
    else:
        stream, each = engine.stream(**once), tuple(x for name, x in zeros.items() if name not in once)
        x = each[0] if len(each) == 1 else each
        for _ in range(TIMED):
            began = time.perf_counter()
            stream.step(x)
            times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)
