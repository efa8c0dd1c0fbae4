"""Pruning units while a model trains, by any method."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import UnsupportedModelError, invalid
from ..graph.follow import follow
from ..graph.refusals import check_model
from ..graph.trace import Trace
from ..graph.units import find_units
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from ..weights.quantized import QuantizedWeight
from .dry_run import dry_run
from .group_finding import check_sizes, find_groups
from .groups import Group
from .method import AbstractPruningMethod
from .optimizer_state import move_optimizer_
from .plan import PruningPlan
from .planning import plan_cuts
from .report import PruneReport, report
from .selection import excluded
from .shrinking import cut_in_place, shrink_in_place
from .surgery import cut
from .wrappers import inner_names, unwrap, without_autocast


class Pruner:
    """Finds the units of a model with everything attached to them, and removes those that `method` drives to zero.

    The calls are the same for every method: add `penalty()` to the loss, call `step(optimizer)` after each
    `optimizer.step()`, then `plan()`, `report()` and `shrink(optimizer)`. See `GroupLasso` for what is understood of a
    model, and docs/extending.md for a method of your own.

    Args:
        model: any module with recurrent layers inside.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
        method: how units are chosen and driven to zero.
        exclude: names of modules whose recurrent layers keep all of their units.
        embeddings: whether columns of embedding tables are units, too.

    Raises:
        ValueError: for arguments out of range, and names that the model does not have.
        UnsupportedModelError: when the model cannot be followed or cut, which is tried on a copy.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        method: AbstractPruningMethod,
        *,
        exclude: Iterable[str] = (),
        embeddings: bool = False,
    ):
        self.model = unwrap(model)
        check_model(self.model)
        if any(isinstance(module, QuantizedWeight) for module in self.model.modules()):
            hint = "prune first: what shrink() gives can be quantized"
            raise invalid("model", got="a model that Quantize has changed", expected="one without", hint=hint)
        self.count = 0
        self._cuts: list[PruningPlan] = []  # what `shrink_` has cut
        self.method = method
        self.given, self.embeddings, self._wrapped = example_inputs, embeddings, self.model is not model
        plain = _mask_(self.model)
        try:
            with without_autocast():
                self._trace = follow(self.model, example_inputs)
                self.example_inputs = self._trace.example.tensors
                self._units = find_units(self._trace, self.example_inputs, embeddings)
            groups = find_groups(self.model, self._trace, self._units)
            self._excluded = excluded(inner_names(model, exclude), groups)
            for group in groups:
                group.excluded = group.name in self._excluded
            self._parameters: list[nn.Parameter] = []
            method.setup(groups)
            with without_autocast():
                self._units = dry_run(
                    self.model, self._trace, self._units, self.example_inputs, self._excluded, embeddings
                )
        except BaseException:  # the model is left as it was given
            for parent, name, weight in plain:
                parent._modules[name] = weight
            raise
        for name in [group.name for group in self._active]:
            group = next(g for g in self.groups if g.name == name)  # found again: a gate changes what weights are
            if group.gate is None and (gate := method.new_gate(group)) is not None:
                group.gate_(self.model, gate.to(group.device))

    @property
    def groups(self) -> list[Group]:
        """The units of each layer with everything attached to them, over the parameters that the model has now."""
        parameters = list(self.model.parameters())
        if list(map(id, parameters)) != list(map(id, self._parameters)):
            for leaf in self._trace.leaves.values():
                check_sizes(self.model, leaf)
            self._groups = find_groups(self.model, self._trace, self._units)
            self._parameters = list(self.model.parameters())
            for group in self._groups:
                group.excluded = group.name in self._excluded
        return self._groups

    @property
    def _active(self) -> list[Group]:
        return [group for group in self.groups if not group.left_alone]

    def penalty(self) -> Tensor:
        """A scalar to add to the loss; zero if the method needs none."""
        with without_autocast():
            return self.method.penalty(self._active)

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`; `optimizer`, if given, is checked to train the model and the gates.

        Raises:
            ValueError: the optimizer does not have the parameters of a gate, as it was made before the pruner, or none
                of the model, as it was not given to `shrink_`.
        """
        if optimizer is not None:
            self._check_optimizer(optimizer)
        self.count += 1
        with without_autocast():
            self.method.step_(self._active, self.count)

    def fraction(self) -> float:
        """The fraction of all units that is exempt from pruning at this step; 1 without a schedule."""
        exempt = [(g.count, self.method.exempt_fraction(g, self.count)) for g in self.groups]
        return sum(n * share for n, share in exempt) / sum(n for n, _ in exempt)

    def plan(self) -> PruningPlan:
        """What `shrink()` would remove now, and why; to be read, kept as JSON and applied to an equal model."""
        return self._plan(digests=True)[1]

    def report(self) -> PruneReport:
        """Sizes before and after `shrink()`, if it were called now."""
        return report(self._plan()[1])

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A new, smaller model with the same outputs; `optimizer`, if given, goes on with it, its moments cut likewise.

        Needs no training step. Layers are narrowed where every consumer can be cut too, else narrowed inside and their
        output scattered to the old width. Outputs on the example and on random inputs and states, in eval and in train
        mode, are compared in float64 before it is returned. Gates have their values in eval mode, and are multiplied
        into the weights.

        Warns:
            UserWarning: the schedule has not ended yet, a layer kept more units than its target, or nothing was cut.
        """
        small, plan = self._plan()
        self._warn_of_more(plan)
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, small, lambda m: cut(m, plan.units, plan.layers, plan.tensors))
        return small

    def shrink_(self, optimizer: Optimizer | None = None) -> int:
        """Cut, in the model itself, the units that are given up for good, and go on with those that are left.

        To be called now and then in the course of the training, which becomes faster by it; `optimizer` goes on with
        the smaller parameters. The model stays the same object, but its layers are others afterwards; hooks on layers
        are gone, and a state that was carried has to be dropped. What `plan()`, `report()` and `shrink()` say counts
        from the model as it is then, and a schedule ends at the size that was asked for. `state_dict()` knows what was
        cut: see `load_state_dict`.

        Returns:
            The number of units that were cut.

        Raises:
            UnsupportedModelError: the model is wrapped, a layer would keep its width outside, or the smaller model
                cannot be followed, as where an initial state is given in its old width; nothing was changed then.
        """
        self._check_unwrapped("call shrink() in the end")
        before = sum(group.count for group in self.groups)
        with without_autocast():
            plan = shrink_in_place(self, optimizer)
        self._cuts += [] if plan is None else [plan]
        return before - sum(group.count for group in self.groups)

    def _check_unwrapped(self, hint: str) -> None:
        if self._wrapped:
            what = type(self.model).__name__
            raise UnsupportedModelError(f"{what}: a model in a wrapper cannot change its size; {hint}")

    def follow_again(self, trace: Trace) -> None:
        """Find the units of the model as it is now; `trace` is its own, unless weights have to be masked."""
        self._trace = follow(self.model, self.given) if _mask_(self.model) else trace
        self.example_inputs = self._trace.example.tensors
        self._units = find_units(self._trace, self.example_inputs, self.embeddings)
        self._parameters = []
        where = self.model, self._trace, self._units, self.example_inputs
        self._units = dry_run(*where, self._excluded, self.embeddings)

    def _plan(self, digests: bool = False) -> tuple[nn.Module, PruningPlan]:
        where = self._trace, self.groups, self._units, self.example_inputs
        with without_autocast():
            return plan_cuts(self.model, *where, position=self.method.progress(self.count), digests=digests)

    def _warn_of_more(self, plan: PruningPlan) -> None:
        """Warn if more units are left than asked for."""
        kept = {(u.path, u.layer, u.unit_set): len(u.kept) for u in plan.units}
        left = {g.name: kept[g.members[0].key] for g in self.groups}
        total, cut = sum(g.count for g in self.groups), sum(g.count - left[g.name] for g in self.groups)
        targets = {g.name: self.method.target(g) for g in self._active}
        more = [
            f"{g.name} keeps {left[g.name]} of {g.count} units, not {target}" + (f" ({g.reason})" if g.reason else "")
            for g in self._active
            if (target := targets[g.name]) is not None and left[g.name] > target
        ]
        if not self._active:
            text = "every layer is frozen or excluded"
        elif not self.method.finished(self.count):
            text = "call step() until the schedule has ended"
        elif more:
            text = "; ".join(more)
            given_up = [(g, self.method.pruned.get(g.name)) for g in self._active if g.gate is None]
            if any(pruned is not None and g.regrown(pruned) for g, pruned in given_up):
                text += "; weights that were zero are not any more: call step() after the last change of them"
        elif self.method.advice and not cut and not self._cuts:
            text = self.method.advice
        else:
            return
        warnings.warn(f"shrink() at {plan.position}: {cut} of {total} units were cut; {text}", stacklevel=3)

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        gates = [] if self.method.trains_gates else [(g, gate) for g in self._active if (gate := g.gate) is not None]
        if not gates and not self._cuts:
            return
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(p) in trained for p in self.model.parameters()):
            raise invalid(
                "optimizer",
                got=f"a {type(optimizer).__name__} without any parameter of the model, which has become smaller",
                expected="the one that goes on with it",
                hint="give it to shrink_() and load_state_dict()",
            )
        for group, gate in gates:
            if any(p.requires_grad and id(p) not in trained for p in gate.parameters()):
                raise invalid(
                    "optimizer",
                    got=f"a {type(optimizer).__name__} without the gate of {group.name}",
                    expected="one that trains the gates too",
                    hint="make it, or add model.parameters() to it, after the pruner",
                )

    def state_dict(self) -> dict[str, Tensor]:
        """The position, the units that are being pruned, how many are to be left of each layer, and what was cut.

        As tensors; the cuts of `shrink_` are plans in JSON. Gates are in the state dict of the model.
        """
        state = {"count": torch.tensor(self.count), "steps": torch.tensor(self.method.steps)}
        for group in self.groups:
            target = group.count if group.excluded else self.method.target(group)
            state[f"target.{group.name}"] = torch.tensor(-1 if target is None else target)
            none = torch.zeros(group.count, dtype=torch.bool)
            state[f"pruned.{group.name}"] = self.method.pruned.get(group.name, none).clone()
        for number, plan in enumerate(self._cuts):
            state[f"cut.{number}"] = torch.frombuffer(bytearray(plan.to_json().encode()), dtype=torch.uint8)
        return state | {f"method.{name}": value.clone() for name, value in self.method.state.items()}

    def load_state_dict(self, state: dict[str, Tensor], optimizer: Optimizer | None = None) -> None:
        """Continue from `state_dict()` of a pruner with the same settings on the same model.

        If `shrink_` had been called, what it had cut is cut out of the model, in place, and `optimizer` goes on with
        what is left. So first of all the model, the pruner and the optimizer are made as they once were, then this
        state is loaded, and then those of the model and of the optimizer, which have the right sizes by now.

        Raises:
            ValueError: it is that of another model, or of other `keep`, `steps` or `exclude`; nothing was changed then.
            UnsupportedModelError: units were cut, and the model is wrapped.
        """
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("cut.")}
        cuts = [name for name in state if name.startswith("cut.")]
        if set(own) != set(state) - set(cuts):
            raise invalid("pruner state", got=sorted(state), expected=f"{sorted(own)}")
        for name, mine in own.items():
            self._check_entry(name, mine, state)
        texts = [state[f"cut.{number}"].cpu().numpy().tobytes().decode() for number in range(len(cuts))]
        if (done := [plan.to_json() for plan in self._cuts]) != texts[: len(done)]:
            raise invalid(
                "pruner state",
                got="one from before this model became smaller, or of another model",
                expected="one that goes on from here",
                hint="create the model, the pruner and the optimizer again, and load it into them",
            )
        plans = [PruningPlan.from_json(text) for text in texts[len(done) :]]
        if plans:
            self._check_unwrapped("make the pruner of the inner module")
        for plan in plans:
            with without_autocast():
                cut_in_place(self, plan, optimizer)
            self._cuts.append(plan)
        self.count = int(state["count"])
        self.method.pruned = {g.name: state[f"pruned.{g.name}"].bool().to(g.device).clone() for g in self.groups}
        for name, value in self.method.state.items():
            value.copy_(state[f"method.{name}"])

    @staticmethod
    def _check_entry(name: str, mine: Tensor, state: dict[str, Tensor]) -> None:
        """Refuse the state of other settings; a layer of which units were cut has fewer in it."""
        given, shape, fixed = state[name], mine.shape, name == "steps" or name.startswith("target.")
        pruned = state.get(f"pruned.{name.partition('.')[2]}")
        if pruned is not None and "cut.0" in state:
            mine = mine.clamp(max=len(pruned)) if fixed else mine
            shape = pruned.shape if not fixed and 0 < len(pruned) <= len(mine) else shape
        if shape != given.shape or (fixed and not torch.equal(mine, given.cpu())):
            raise invalid(
                f"pruner state, {name}",
                got=given.tolist() if fixed else f"shape {tuple(given.shape)}",
                expected=f"{mine.tolist()}" if fixed else f"{tuple(shape)}",
                hint="keep, steps, exclude and the model must be those that the state was saved with",
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Pruner:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.model = memo.get(id(self.model), self.model)  # copied on its own, a pruner stays that of its model
        twin._parameters = []
        twin.method = copy.deepcopy(self.method)
        return twin


def _mask_(model: nn.Module) -> list[tuple[nn.Module, str, AbstractWeight]]:
    """Wrap every weight that cannot scale its rows and columns exactly; its parameters stay the same objects.

    Returns the weights that were wrapped: parent, name, weight.
    """
    masked: dict[AbstractWeight, MaskedWeight] = {}  # a weight may be shared
    plain = []
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, AbstractWeight) and type(child).scale_ is AbstractWeight.scale_:
                plain.append((parent, name, child))
                parent._modules[name] = masked.setdefault(child, MaskedWeight(child))
    return plain
