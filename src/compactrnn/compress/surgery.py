"""Cutting dead units out of a model: narrow where that is proven, scatter otherwise, and compare."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.trace import Trace, beside
from ..graph.units import Units
from ..layers import cells_of, convert_, narrow_
from ..weights.base import AbstractWeight
from .groups import Group, Part, original
from .scatter import Scattered


@torch.no_grad()
def find_dead(groups: list[Group]) -> dict[str, Tensor]:
    """Which units of each group can go: (count,) bool by group name.

    A unit is dead when all its outgoing weights are zero and all its readers are known, or when it is written as
    exactly zero, unless known readers hear something else by then (a norm has shifted it). A reader's rows that belong
    to dead units do not count. One unit a group always stays.
    """
    dead = {g.name: torch.zeros(g.count, dtype=torch.bool) for g in groups}
    rows_of = {id(p.weight): (g, p) for g in groups for p in g.writers}
    while True:
        before = {name: mask.clone() for name, mask in dead.items()}
        for group in groups:
            none = torch.zeros(group.count)
            outgoing = sum((_live_squares(p, rows_of, dead, group.count).cpu() for p in group.readers), none)
            incoming = sum((p.squares(group.count).cpu() for p in (*group.writers, *group.biases)), none)
            silent = (incoming == 0) & (group.escaped | ~group.shifted) & _rests_at_zero(group)
            dead[group.name] = ((outgoing == 0) & ~group.escaped) | silent
            if dead[group.name].all():
                dead[group.name][0] = False
        if all(torch.equal(before[name], mask) for name, mask in dead.items()):
            return dead


def _live_squares(part: Part, rows_of: dict, dead: dict[str, Tensor], count: int) -> Tensor:
    """Squares of the columns of a reader, leaving out the rows that write dead units."""
    if id(part.weight) not in rows_of or not isinstance(part.weight, AbstractWeight):
        return part.squares(count)
    owner, rows = rows_of[id(part.weight)]
    matrix = part.matrix()
    live = ~dead[owner.name].to(matrix.device)[rows.units_on(matrix.device)]
    return part.sum_by_unit(matrix[live].square().sum(0), count)


def _rests_at_zero(group: Group) -> bool:
    """Whether a cell with nothing written to it stays at zero, as LSTM, GRU and tanh do."""
    cell = group.leaf.cells[group.layer][0]
    states = cell.initial_states(1)
    projected = torch.zeros_like(cell.project(states[0].new_zeros(1, cell.input_size)))
    idle = copy.deepcopy(cell)
    for parameter in idle.parameters():
        parameter.zero_()
    output, _ = idle.step(projected, states)
    return bool((output == 0).all())


@dataclass
class Plan:
    """What is cut: dead labels in all, and the layers (leaf keys) whose output keeps its old width."""

    groups: list[Group]
    units: Units
    dead: dict[str, Tensor]
    scattered: set[int]

    def kept(self, key: int, layer: int) -> dict[str, Tensor]:
        """Surviving units of each unit set of a layer."""
        return {
            g.set_name: (~self.dead[g.name]).nonzero().flatten()
            for g in self.groups
            if (g.leaf.key, g.layer) == (key, layer)
        }

    def narrowed_labels(self) -> Tensor:
        """Labels that vanish for those outside the layer: dead units of layers that are narrowed."""
        gone = [torch.tensor(g.labels)[self.dead[g.name]] for g in self.groups if g.leaf.key not in self.scattered]
        return torch.cat([torch.zeros(0, dtype=torch.long), *gone])

    def cut(self, sets: list[Tensor]) -> Tensor | None:
        """Which columns go, given the labels that each use of them sees; None if the uses disagree."""
        masks = [torch.isin(labels, self.narrowed_labels()) for labels in sets]
        return masks[0] if all(torch.equal(masks[0], m) for m in masks) else None


def shrink(model: nn.Module, traced: Trace, groups: list[Group], units: Units, example_inputs: tuple[Tensor, ...]):
    """A smaller model with the same outputs, and the plan that made it.

    Layers are narrowed, with all their readers, as far as the model still runs and gives the same outputs (compared in
    float64); the others are narrowed inside and keep their old width outside.
    """
    dead = find_dead(groups)
    keys = {g.leaf.key for g in groups if dead[g.name].any()}
    forced = {g.leaf.key for g in groups if (dead[g.name] & g.escaped).any()}

    reasons = []

    def attempt(scattered: set[int]) -> tuple[nn.Module, Plan] | None:
        plan = Plan(groups, units, dead, scattered)
        try:
            small = apply(plan, model)
            if _same(model, small, traced, example_inputs):
                return small, plan
            reasons.append("other outputs")
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            reasons.append(f"{type(error).__name__}: {error}")
        return None

    found = attempt(forced)
    if found is None:
        alone = {k for k in keys - forced if attempt(keys - {k}) is not None}
        found = attempt(keys - alone) or attempt(keys)
    if found is None:
        names = ", ".join(sorted({g.leaf.name for g in groups if g.leaf.key in keys}))
        raise UnsupportedModelError(
            f"{type(model).__name__}: no smaller model gives the same outputs; its code depends on the sizes of {names}"
            f", or the units that a cell declares are not independent; CellContract shows it ({reasons[-1]})"
        )
    return found


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """A copy of `model` with the dead units of `plan` cut out."""
    small = convert_(copy.deepcopy(model))
    leaves = {g.leaf.key: g.leaf for g in plan.groups}
    for key, leaf in leaves.items():
        layer = original(small, leaf)
        cells = cells_of(layer)
        uses = [c.labels for c in plan.units.consumers if c.leaf.key == key]
        cut = plan.cut(uses) if uses else None
        if uses and cut is None:
            raise ValueError(f"{leaf.name} is used twice, with different columns to cut")
        old = [list(row[0].state_sizes()) for row in cells]
        states = [[s.units for s in row[0].states] for row in cells]
        keep = [plan.kept(key, i) for i in range(len(cells))]
        inputs = (~cut).nonzero().flatten() if cut is not None and cut.any() else None
        narrow = narrow_(layer, [[k] * leaf.directions for k in keep], inputs)
        if key in plan.scattered:
            kept = [[keep[i][name] for name in row] for i, row in enumerate(states)]
            outputs = [states[-1].index(u.name) for u in cells[-1][0].output_units()]
            narrow = Scattered(narrow, kept, layer, old, outputs)
        small = _replace(small, layer, narrow)
    for name in {use.name for use in (*plan.units.readers, *plan.units.followers)}:
        _cut_tensor(small, name, plan)
    return small


def _cut_tensor(model: nn.Module, name: str, plan: Plan) -> None:
    uses = [use for use in (*plan.units.readers, *plan.units.followers) if use.name == name]
    cut = plan.cut([use.labels for use in uses]) if len({use.axis for use in uses}) == 1 else None
    if cut is None or (cut.any() and name in plan.units.pinned):
        raise ValueError(f"{name} is read in several ways, with different columns to cut")
    if not cut.any():
        return
    path, _, attribute = name.rpartition(".")
    owner = model.get_submodule(path)
    old = getattr(owner, attribute)
    keep = (~cut).nonzero().flatten().to(old.device)
    new = old.detach().index_select(uses[0].axis, keep)
    setattr(owner, attribute, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    for size in ("in_features", "in_channels", "num_features"):
        if getattr(owner, size, None) == len(cut):
            setattr(owner, size, len(keep))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` stands."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model


@torch.no_grad()
def _same(model: nn.Module, small: nn.Module, traced: Trace, example_inputs: tuple[Tensor, ...]) -> bool:
    """Compare outputs in float64; in float32, less closely, where the model's code insists on it."""

    inputs = beside(model, example_inputs)

    def run(module: nn.Module, dtype: torch.dtype) -> Any:
        module = copy.deepcopy(module).eval().to(dtype)
        return module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))

    def agree(dtype: torch.dtype, tolerance: float) -> bool:
        states = iter(traced.state_outputs())
        return _agree(run(model, dtype), run(small, dtype), lambda: next(states), tolerance)

    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for what the model's code makes itself: torch.zeros(...)
        run(model, torch.float64)
        return agree(torch.float64, 1e-6)  # a structured weight that became dense was rounded to float32
    except RuntimeError:
        torch.set_default_dtype(usual)
        return agree(torch.float32, 1e-5)
    finally:
        torch.set_default_dtype(usual)


def _agree(old: Any, new: Any, is_state: Callable[[], bool], tolerance: float) -> bool:
    if isinstance(old, Tensor):
        if is_state():
            return True
        same = isinstance(new, Tensor) and old.shape == new.shape
        return same and torch.allclose(old, new, rtol=tolerance, atol=tolerance)
    if isinstance(old, dict):
        return all(_agree(old[k], new[k], is_state, tolerance) for k in old)
    if isinstance(old, list | tuple):
        pairs = zip(old, new, strict=True)
        return len(old) == len(new) and all(_agree(a, b, is_state, tolerance) for a, b in pairs)
    return True
