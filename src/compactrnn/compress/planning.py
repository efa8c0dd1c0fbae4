"""Planning the surgery: narrow layers where the outputs are proven to stay the same, scatter elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.labels import ZERO, Scaling, Use
from ..graph.leaf import Leaf
from ..graph.rows import Rows
from ..graph.trace import Trace
from ..graph.units import Units
from ..layers import has_cells
from .compare import Comparison
from .dead import find_dead, why_dead
from .gating import fold_masks_
from .group_finding import original
from .groups import Group, Member
from .plan import LayerCut, PruningPlan, SizeCut, TensorCut, UnitCut
from .resizing import possible_sizes
from .sharing import CannotCut
from .sizes import counts
from .structure import kind_of
from .surgery import cut, recorded


@dataclass
class Cuts:
    """What is removed: `dead` units of each group; the layers (leaf keys) whose output keeps its old width."""

    groups: list[Group]
    units: Units
    dead: dict[str, Tensor]
    scattered: set[int]

    def plain(self, model: nn.Module) -> tuple[tuple[UnitCut, ...], tuple[LayerCut, ...], tuple[TensorCut, ...]]:
        """The cuts of `model` as plain values.

        Raises:
            CannotCut: two uses of one tensor, or of one layer, would be cut differently.
        """
        leaves = {m.leaf.key: m.leaf for g in self.groups for m in g.members if isinstance(m.leaf, Leaf)} | {
            c.leaf.key: c.leaf for c in self.units.layer_inputs
        }
        units = tuple(self._unit_cut(g, m) for g in self.groups for m in g.members)
        same = _names_by_parameter(model)
        uses = dict.fromkeys(same.get(use.name, (use.name,)) for use in self._uses)
        tensors = [cut for names in sorted(uses) for cut in self._tensor_cuts(names)]
        layers = tuple(
            LayerCut(
                leaf.name,
                kind_of(original(model, leaf)),
                leaf.cells[0][0].input_size,
                self._kept_inputs(key, leaf.name),
                key in self.scattered,
                key in self.scattered and self._idles(key),
            )
            for key, leaf in leaves.items()
        )
        return units, layers, tuple(tensors)

    @property
    def _uses(self) -> tuple[Use | Scaling, ...]:
        return *self.units.uses, *self.units.makers, *self.units.scalings

    def _unit_cut(self, group: Group, member: Member) -> UnitCut:
        kept = ~self.dead[group.name][member.units]
        return UnitCut(
            member.leaf.name,
            member.layer,
            member.set_name,
            len(kept),
            _indices(kept),
            tuple(dict.fromkeys(group.reader_names)),
            reason=group.reason,
            left_alone=group.left_alone,
        )

    def _kept_inputs(self, key: int, name: str) -> tuple[int, ...] | None:
        uses = [c.labels for c in self.units.layer_inputs if c.leaf.key == key]
        cut = self._cut(uses) if uses else None
        if uses and cut is None:
            raise CannotCut(f"{name} is used twice, and of its input different columns would be cut")
        return _indices(~cut) if cut is not None and cut.any() else None

    def _tensor_cuts(self, names: tuple[str, ...]) -> Iterator[TensorCut]:
        """The cuts of one tensor, which has these names."""
        made = {(use.name, use.axis) for use in self.units.makers if use.axis == 0}
        for axis in sorted({use.axis for use in self._uses if use.name in names}):
            cut = self._cut([use.labels for use in self._uses if use.name in names and use.axis == axis])
            fixed = not self.units.fixed_width.isdisjoint(names) and (names[0], axis) not in made
            if cut is None or (cut.any() and fixed):
                raise CannotCut(f"{names[0]} has several uses, of which different columns would be cut")
            if cut.any():
                yield from (TensorCut(name, axis, len(cut), _indices(~cut)) for name in names)

    def _idles(self, key: int) -> bool:
        """Whether what is cut out of a layer may be more than zero."""
        groups = [g for g in self.groups if key in g.keys()]
        return any(bool((self.dead[g.name] & g.by_incoming & g.nonzero_start).any()) for g in groups)

    def _narrowed_labels(self) -> Tensor:
        """Labels that vanish for those outside the layer: dead units of layers that are narrowed."""
        gone = [torch.tensor(g.labels)[self.dead[g.name]] for g in self.groups if not self.scattered & g.keys()]
        return torch.cat([torch.zeros(0, dtype=torch.long), *gone])

    def _cut(self, sets: list[Tensor]) -> Tensor | None:
        """Which columns go, given the labels that each use of them sees; None if the uses disagree.

        What sees zeros, as in the first step of a loop, agrees with all.
        """
        if len({len(labels) for labels in sets}) > 1:
            return None
        labels = torch.stack(sets)
        gone, free = torch.isin(labels, self._narrowed_labels()), labels == ZERO
        return gone.any(0) if bool((gone | free | ~gone.any(0)).all()) else None


def _names_by_parameter(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each name of a parameter all of its names, but those in recurrent layers, which are cut as a whole."""
    layers = tuple(f"{name}." for name, module in model.named_modules() if has_cells(module))
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.startswith(layers):
            found.setdefault(id(parameter), []).append(name)
    return {name: tuple(sorted(names)) for names in found.values() for name in names}


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())


def plan_cuts(
    model: nn.Module,
    traced: Trace,
    groups: list[Group],
    units: Units,
    example_inputs: tuple[Tensor, ...],
    position: str = "",
    digests: bool = False,
) -> tuple[nn.Module, PruningPlan]:
    """A smaller model with the same outputs, and the plan that makes it; with `digests` of the weights, if asked for.

    Layers are narrowed, with all of their consumers, as far as the model still runs and gives the same outputs; the
    others are narrowed inside and keep their old width outside. Outputs are compared as `Comparison` says.

    Raises:
        UnsupportedModelError: no such model gives the same outputs.
    """
    dead = find_dead(groups)
    name, before = type(model).__name__, counts(model)
    weights = recorded(model) if digests else {}
    model = fold_masks_(copy_module(model))
    comparison = Comparison(model, traced, example_inputs)
    reasons = []

    def attempt(clusters: list[set[int]], sizes: tuple[SizeCut, ...] = ()) -> tuple[nn.Module, Any] | None:
        try:
            plain = *Cuts(groups, units, dead, set().union(*clusters)).plain(model), sizes
            small = cut(model, *plain)
            reasons.append(comparison.difference(small))
        except CannotCut as error:
            reasons.append(str(error))
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError) as error:
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        return None if reasons[-1] else (small, plain)

    clusters = [c for c in _clusters(groups) if any(dead[g.name].any() for g in groups if g.keys() & c)]
    forced = [c for c in clusters if any((dead[g.name] & g.by_incoming).any() for g in groups if g.keys() & c)]
    found = attempt(forced)
    if found is None and (changed := _changed_widths(groups, dead, set().union(*forced))):
        tried = (attempt(forced, sizes) for sizes in possible_sizes(model, traced.ran, changed))
        found = next((t for t in tried if t is not None), None)
    if found is None:
        clusters = [c for c in clusters if not any(g.written_out for g in groups if g.keys() & c)]
        alone = [c for c in clusters if c not in forced and attempt([d for d in clusters if d != c]) is not None]
        found = attempt([c for c in clusters if c not in alone]) or attempt(clusters)
    if found is None:
        names = ", ".join(sorted({m.leaf.name or "the model" for g in groups for m in g.members}))
        raise UnsupportedModelError(
            f"{name}: no smaller model gives the same outputs: {reasons[-1]}. What is cut are units of"
            f" {names}; exclude the layer of which the code of the model needs all units"
            + " (of a recurrence that is written out: let it read the width from an attribute)"
            * any(g.written_out for g in groups)
        )
    small, (cuts, layers, tensors, sizes) = found
    why = why_dead(groups, dead)
    explained = []
    members = ((g, m) for g in groups for m in g.members)
    for unit, (group, member) in zip(cuts, members, strict=True):
        numbers = {reason: int(mask[member.units].sum()) for reason, mask in why[group.name].items()}
        explained.append(replace(unit, removed=tuple((reason, n) for reason, n in numbers.items() if n)))
    plan = PruningPlan(
        name,
        tuple(explained),
        layers,
        tensors,
        *zip(before, counts(small), strict=True),  # pyright: ignore
        position=position,
        weights=weights,
        sizes=sizes,
    )
    return small, plan


def _changed_widths(groups: list[Group], dead: dict[str, Tensor], scattered: set[int]) -> dict[int, int]:
    """The widths, before and after, of what code may know by a number: cells, where these agree."""
    found: dict[int, set[int]] = {}
    for group in groups:
        for m in group.members:
            written_by_code = isinstance(m.leaf, Rows) or (isinstance(m.leaf, Leaf) and m.leaf.is_step)
            if not scattered & group.keys() and written_by_code:
                found.setdefault(len(m.units), set()).add(int((~dead[group.name])[m.units].sum()))
    return {before: min(after) for before, after in found.items() if len(after) == 1 and before not in after}


def _clusters(groups: list[Group]) -> list[set[int]]:
    """The layers (leaf keys); those of which units go only together are narrowed or scattered together."""
    clusters: list[set[int]] = []
    for group in groups:
        joined = [c for c in clusters if c & group.keys()]
        clusters = [c for c in clusters if c not in joined] + [group.keys().union(*joined)]
    return clusters
