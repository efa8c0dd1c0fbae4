"""Cutting dead units out of a model: narrow where that is proven, scatter otherwise, and compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.leaf import Leaf
from ..graph.trace import Trace
from ..graph.units import Units
from ..layers import cells_of, narrow_
from .compare import Comparison
from .dead import find_dead as find_dead
from .groups import Group, original
from .scatter import Scattered
from .sharing import CannotCut, share_, shared_parameters


@dataclass
class Plan:
    """What is cut: dead units of each group, and the layers (leaf keys) whose output keeps its old width."""

    groups: list[Group]
    units: Units
    dead: dict[str, Tensor]
    scattered: set[int]

    def kept(self, key: int, layer: int) -> dict[str, Tensor]:
        """Surviving units of each unit set of a layer."""
        return {
            m.set_name: (~self.dead[g.name][m.units]).nonzero().flatten()
            for g in self.groups
            for m in g.members
            if (m.leaf.key, m.layer) == (key, layer)
        }

    def idles(self, key: int) -> bool:
        """Whether what is cut out of a layer may be more than zero."""
        groups = [g for g in self.groups if key in g.keys()]
        return any(bool((self.dead[g.name] & g.by_writers & g.given).any()) for g in groups)

    def narrowed_labels(self) -> Tensor:
        """Labels that vanish for those outside the layer: dead units of layers that are narrowed."""
        gone = [torch.tensor(g.labels)[self.dead[g.name]] for g in self.groups if not self.scattered & g.keys()]
        return torch.cat([torch.zeros(0, dtype=torch.long), *gone])

    def cut(self, sets: list[Tensor]) -> Tensor | None:
        """Which columns go, given the labels that each use of them sees; None if the uses disagree."""
        masks = [torch.isin(labels, self.narrowed_labels()) for labels in sets]
        return masks[0] if all(torch.equal(masks[0], m) for m in masks) else None


def shrink(
    model: nn.Module, traced: Trace, groups: list[Group], units: Units, example_inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, Plan]:
    """A smaller model with the same outputs, and the plan that made it.

    Layers are narrowed, with all their readers, as far as the model still runs and gives the same outputs; the others
    are narrowed inside and keep their old width outside. Outputs are compared as `Comparison` says.
    """
    dead = find_dead(groups)
    comparison = Comparison(model, traced, example_inputs)
    reasons = []

    def attempt(clusters: list[set[int]]) -> tuple[nn.Module, Plan] | None:
        plan = Plan(groups, units, dead, set().union(*clusters))
        try:
            small = apply(plan, model)
            reasons.append(comparison.difference(small))
        except CannotCut as error:
            reasons.append(str(error))
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError) as error:
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        return None if reasons[-1] else (small, plan)

    clusters = [c for c in _clusters(groups) if any(dead[g.name].any() for g in groups if g.keys() & c)]
    forced = [c for c in clusters if any((dead[g.name] & g.by_writers).any() for g in groups if g.keys() & c)]
    found = attempt(forced)
    if found is None:
        alone = [c for c in clusters if c not in forced and attempt([d for d in clusters if d != c]) is not None]
        found = attempt([c for c in clusters if c not in alone]) or attempt(clusters)
    if found is None:
        names = ", ".join(sorted({m.leaf.name or "the model" for g in groups for m in g.members}))
        raise UnsupportedModelError(
            f"{type(model).__name__}: no smaller model gives the same outputs: {reasons[-1]}. What is cut are units of"
            f" {names}; exclude the layer of which the code of the model needs all units"
        )
    return found


def _clusters(groups: list[Group]) -> list[set[int]]:
    """The layers (leaf keys); those of which units go only together are narrowed or scattered together."""
    clusters: list[set[int]] = []
    for group in groups:
        joined = [c for c in clusters if c & group.keys()]
        clusters = [c for c in clusters if c not in joined] + [group.keys().union(*joined)]
    return clusters


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """A copy of `model` with the dead units of `plan` cut out."""
    small = copy_module(model)
    shared = shared_parameters(small)
    leaves = {m.leaf.key: m.leaf for g in plan.groups for m in g.members} | {
        c.leaf.key: c.leaf for c in plan.units.consumers
    }
    cut = [_cut_layer(small, leaf, plan) for leaf in leaves.values()]
    for name in {use.name for use in (*plan.units.readers, *plan.units.followers)}:
        _cut_tensor(small, name, plan)
    share_(small, shared)
    for layer, scattered in cut:
        if scattered is not None:
            small = _replace(small, layer, scattered)
    return small


def _cut_layer(small: nn.Module, leaf: Leaf, plan: Plan) -> tuple[nn.Module, nn.Module | None]:
    """Cut a layer in place; returns it, and what is to stand in its place if it keeps its width outside."""
    layer = original(small, leaf)
    cells = cells_of(layer)
    uses = [c.labels for c in plan.units.consumers if c.leaf.key == leaf.key]
    cut = plan.cut(uses) if uses else None
    if uses and cut is None:
        raise CannotCut(f"{leaf.name} is used twice, and of its input different columns would be cut")
    keep = [plan.kept(leaf.key, i) for i in range(len(cells))]
    inputs = (~cut).nonzero().flatten() if cut is not None and cut.any() else None
    scattered = Scattered(layer, keep, plan.idles(leaf.key)) if leaf.key in plan.scattered else None
    narrow_(layer, [[k] * leaf.directions for k in keep], inputs)
    return layer, scattered


def _cut_tensor(model: nn.Module, name: str, plan: Plan) -> None:
    uses = [use for use in (*plan.units.readers, *plan.units.followers) if use.name == name]
    cut = plan.cut([use.labels for use in uses]) if len({use.axis for use in uses}) == 1 else None
    if cut is None or (cut.any() and name in plan.units.pinned):
        raise CannotCut(f"{name} has several uses, of which different columns would be cut")
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
        if parent is not new:
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new
    return model
