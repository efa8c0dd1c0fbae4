"""Temporal sparsity: matrices of recurrent layers are multiplied only with what has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import check_positive, invalid
from ..cells.base import AbstractCell
from ..graph.copy import copy_module
from ..layers import cells_of, delta_, is_recurrent
from .changes import DeltaReport, delta_cells, measure_changes
from .optimizer_state import move_optimizer_
from .wrappers import inner_names, unwrap

_NEAR = 0.02  # relative difference of the share that is met from the one that is asked for
_TRIES = 24


class Delta:
    """Turns the recurrent layers of a model into delta networks, whose products wait for a change.

    A number of the input or of the state of a layer is sent to the matrices once it differs from what was sent last by
    more than a threshold (`compactrnn.cells.DeltaCell` has the equations). The engine multiplies only with the columns
    of what was sent; `pack` needs no word about it. Layers are changed in place and keep their calls and the names of
    their parameters; thresholds are buffers, which `cr.save` and `state_dict` have with the rest.

    The threshold of each vector is one number, the same for all vectors, times the root mean square of the vector on
    `example_inputs`. With `keep` this number is looked for, such that this share of the products with the matrices of
    all these layers is left on `example_inputs`; with `threshold` it is given. The share, or the number, gets there in
    `steps` calls of `step`, as `1 - (1 - t / steps)^3`; with none at once. While the model trains, the number goes on
    being fitted every `interval` steps.

    Args:
        model: any module with nn.LSTM, nn.GRU, nn.RNN, `cr.LSTM`, ... `cr.Recurrent` inside.
        example_inputs: what the model is called with: a batch of real data, of which the changes are measured.
        keep: the share of the products to keep, in (0, 1].
        threshold: the threshold over the root mean square, 0 or more.
        steps: calls of `step` until then.
        interval: how often the thresholds are set, in steps.
        exclude: names of modules whose layers get no thresholds.

    Raises:
        ValueError: for arguments out of range, names that the model does not have, a model without recurrent layers,
            cells that read later steps, and a `keep` that no threshold gives.
        UnsupportedModelError: a layer that cannot be converted.

    Sources: Neil, Lee, Delbruck, Liu, Delta Networks for Optimized Recurrent Network Computation, 2017; Gao, Neil,
    Ceolini, Liu, Delbruck, DeltaRNN, 2018.

    >>> import compactrnn as cr
    >>> model, x = nn.GRU(4, 16), torch.randn(50, 2, 4).cumsum(0) / 8
    >>> delta = cr.Delta(model, x, keep=0.5, steps=20)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> for _ in range(20):
    ...     loss = model(x)[0].square().mean() + delta.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); delta.step()
    >>> 0.48 < delta.report().share < 0.52
    True
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        keep: float | None = None,
        threshold: float | None = None,
        steps: int = 0,
        interval: int = 20,
        exclude: Iterable[str] = (),
    ):
        if (keep is None) == (threshold is None):
            raise invalid("Delta", got=f"keep={keep}, threshold={threshold}", expected="one of the two")
        if keep is not None and not 0 < keep <= 1:
            raise invalid("keep", got=keep, expected="a share in (0, 1]")
        if threshold is not None and not 0 <= threshold < float("inf"):
            raise invalid("threshold", got=threshold, expected="a finite number of 0 or more")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise invalid("steps", got=repr(steps), expected="an int of 0 or more")
        self.model, self.inputs, self.keep, self.threshold = unwrap(model), example_inputs, keep, threshold
        self.steps, self.interval, self.count, self.factor = steps, check_positive(interval, "interval"), 0, 0.0
        layers = _layers(self.model, list(inner_names(model, list(exclude))))
        for name, layer in layers.items():
            for row in cells_of(layer):
                _check(name, row)
        for layer in layers.values():
            delta_(layer)
        self._set(torch.zeros(self._cells_width()))
        plain = measure_changes(self.model, example_inputs)
        sizes = {v.name: v.rms for v in plain.vectors}
        self._scale = torch.tensor([sizes.get(name, 0.0) for name in self._names()], dtype=torch.float64)
        if steps == 0:
            self._fit()

    def penalty(self) -> Tensor:
        """Zero: nothing is added to the loss."""
        return torch.zeros((), device=next(self.model.parameters()).device)

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`."""
        self.count += 1
        if self.count % self.interval == 0 or self.count == self.steps:
            self._fit()

    def plan(self) -> DeltaReport:
        """What is sent and multiplied now, on `example_inputs`."""
        return measure_changes(self.model, self.inputs)

    def report(self) -> DeltaReport:
        """As `plan`: thresholds, shares sent, products before and after."""
        return self.plan()

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A copy of the model with its thresholds; `optimizer`, if given, goes on with it."""
        small = copy_module(self.model)
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, small, copy_module)
        return small

    def state_dict(self) -> dict[str, Tensor]:
        """The position in the schedule, and what thresholds are made of."""
        return {
            "count": torch.tensor(self.count),
            "factor": torch.tensor(self.factor, dtype=torch.float64),
            "scale": self._scale.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()` of a `Delta` of the same layers.

        Raises:
            ValueError: it is that of others; nothing was changed then.
        """
        shapes, given = ({n: tuple(t.shape) for n, t in s.items()} for s in (self.state_dict(), state))
        if shapes != given:
            raise invalid("state of Delta", got=given, expected=str(shapes))
        self.count, self.factor, self._scale = int(state["count"]), float(state["factor"]), state["scale"].clone()
        self._set(self.factor * self._scale)

    def _fit(self) -> None:
        """Set the thresholds to what the schedule says at this step."""
        part = 1.0 if self.count >= self.steps else 1 - (1 - self.count / self.steps) ** 3
        if self.threshold is not None:
            self.factor = part * self.threshold
            self._set(self.factor * self._scale)
        else:
            assert self.keep is not None
            self._meet(1 - part * (1 - self.keep))

    def _meet(self, share: float) -> None:
        """Look for the number that leaves this share of the products, from the last one on."""
        low, high, trial = 0.0, float("inf"), self.factor or 0.1
        found = 1.0
        for _ in range(_TRIES):
            self._set(trial * self._scale)
            found = measure_changes(self.model, self.inputs).share
            if abs(found - share) <= _NEAR * share:
                break
            low, high = (trial, high) if found > share else (low, trial)
            trial = 2 * low if high == float("inf") else (low + high) / 2
        else:
            if found > share * (1 + _NEAR):
                hint = "products of what changes anyway, or that no column can be left out of, are kept"
                raise invalid("keep", got=f"{self.keep}", expected=f"{found:.3f} or more for this model", hint=hint)
        self.factor = trial

    def _names(self) -> list[str]:
        """The vectors as `VectorChanges` names them, in the order of the layers."""
        return [
            f"{name}, {vector}"
            for name, cell in delta_cells(self.model)
            for vector in ("input", *(", ".join(parts) for parts in cell.reads))
        ]

    def _cells_width(self) -> int:
        return sum(len(cell.thresholds) for _, cell in delta_cells(self.model))

    @torch.no_grad()
    def _set(self, thresholds: Tensor) -> None:
        at = 0
        for _, cell in delta_cells(self.model):
            count = len(cell.thresholds)
            cell.thresholds.copy_(thresholds[at : at + count])
            at += count


def _layers(model: nn.Module, exclude: list[str]) -> dict[str, nn.Module]:
    """The recurrent layers of the model that are not in a module of these names."""
    names = {name for name, _ in model.named_modules()}
    if unknown := [name for name in exclude if name not in names]:
        raise invalid("exclude", got=repr(unknown[0]), expected="names of modules of the model")
    layers = {
        path: module
        for path, module in model.named_modules()
        if is_recurrent(module) and not any(path == name or path.startswith(f"{name}.") for name in exclude)
    }
    if not layers:
        raise invalid("model", got="no recurrent layer", expected="one or more")
    return layers


def _check(name: str, row: list[AbstractCell]) -> None:
    for cell in row:
        if cell.steps_ahead:
            hint = f"exclude=[{name!r}]"
            raise invalid(
                name, got=f"{cell.title}, which reads later steps", expected="a cell that does not", hint=hint
            )
