"""Group lasso over intrinsic sparse structures: learn which hidden units a recurrent network can do without."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import invalid
from ..graph.follow import follow
from ..graph.units import find_units
from ..weights.base import AbstractWeight
from ..weights.masked import MaskedWeight
from . import surgery
from .dry_run import dry_run
from .groups import Group, check_sizes, find_groups
from .optimizer_state import move_optimizer_
from .penalty import NormPenalty
from .report import PruneReport, report
from .schedule import SizeSchedule
from .selection import excluded, fractions
from .wrappers import inner_names, unwrap, without_autocast


class GroupLasso:
    """Drives whole hidden units to zero while the model trains, so that they can be cut out exactly.

    The group of unit k of a layer is everything attached to it: the rows of all gates that write it, the column of the
    hidden matrix and the columns of every other weight that read it; biases are outside the group but go with the
    unit. With `norm_k` the Euclidean norm of the group:

    - `strength=s` (the paper's update): `penalty()` is `s * sum_k norm_k`, added to the loss; `step` sets every entry
      of a group below `threshold` to zero. A strength belongs to a loss reduction: the paper's 2.45e-3 is for a loss
      summed over 35 time steps; with a mean over tokens use `2.45e-3 / 35`, or say `loss_steps=35`.
    - `keep=f, steps=n` (a size schedule): the units of each layer are ranked by the norm of what reads them; the share
      `f + (1 - f) (1 - t/n)^3` of them is exempt at step t, and the outgoing weights of the others are multiplied by
      `decay` each step. A unit may rank back until step n; from then on the rest stays zero.

    A unit whose readers cannot all be named (its sum with something else is read, or it is an output of the model), or
    are frozen, is faded by its incoming weights and biases instead, until it is written as exactly zero.

    Units that go only together are ranked as one: those whose weights are one parameter, and those of which one starts
    from the state of the other, as a decoder's from an encoder's. What a method that `forward` does not call, a hook,
    or an attribute that `forward` sets may show of a layer stays as it was: the layer keeps its width outside.

    Frozen parameters (`requires_grad=False`) are never changed or cut: a layer with a frozen parameter keeps all of its
    units, and the layer before a frozen one keeps its width outside. `report()` says so. Flags are read at each call,
    so that layers may be frozen and unfrozen during the training.

    The model may be wrapped in `torch.compile`, `DataParallel` or `DistributedDataParallel`; `shrink` then returns the
    smaller inner module. A deep copy of a module that holds its pruner holds a pruner of the copy.

    Args:
        model: any module with nn.LSTM, nn.GRU, nn.RNN, `cr.LSTM`, ... `cr.Recurrent` inside; its weights are changed by
            `step`. A weight whose structure cannot lose single rows and columns (a Kronecker product) gets masks
            around it, and becomes dense when it is cut.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments;
            initial states and lengths too, where it takes them.
        keep: fraction of the units of each layer to keep, in (0, 1]; needs `steps`. Or a fraction for each of several
            modules by name, `{"encoder": 0.25, "decoder.rnn[1]": 0.5}`: the most specific name counts, `""` is the
            default, and a layer without an entry keeps all of its units.
        steps: length of the size schedule in optimizer steps.
        strength: weight of the penalty, >= 0; excludes `keep`.
        exclude: names of modules whose recurrent layers keep all of their units. They are trained, and may lose input
            columns with the units of the layer before.
        loss_steps: number of time steps that the loss, to which `strength` belongs, is summed over.
        threshold: entries of groups below it become zero after each step (with `strength`).
        decay: factor per step for what is being pruned (with `keep`).
        minimum: units that every layer keeps at least.

    Raises:
        ValueError: for arguments out of range, and names that the model does not have.
        UnsupportedModelError: when the model cannot be followed or cut, which is tried on a copy.

    Source: W. Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory, ICLR 2018. The size
    schedule is cubic as in M. Zhu and S. Gupta, To prune, or not to prune, 2017.

    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> model, x = Tagger(), torch.randn(2, 5, 4)
    >>> pruner = cr.GroupLasso(model, x, keep=0.25, steps=20)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     loss = model(x).square().mean() + pruner.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step(optimizer)
    >>> pruner.shrink().lstm.hidden_size
    4
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        keep: float | Mapping[str, float] | None = None,
        steps: int | None = None,
        strength: float | None = None,
        exclude: Iterable[str] = (),
        loss_steps: int = 1,
        threshold: float = 1e-4,
        decay: float = 0.9,
        minimum: int = 1,
    ):
        if (keep is None) == (strength is None):
            raise invalid(
                "GroupLasso", got=f"keep={keep}, strength={strength}", expected="one of keep (with steps) and strength"
            )
        if keep is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise invalid("keep, steps", got=f"{keep}, {steps}", expected="keep in (0, 1] and steps, a positive int")
        if strength is not None and (not strength >= 0 or steps is not None):
            raise invalid("strength, steps", got=f"{strength}, {steps}", expected="strength >= 0, and no steps")
        if not 0 <= decay < 1 or not threshold >= 0 or loss_steps < 1 or minimum < 1:
            raise invalid(
                "decay, threshold, loss_steps, minimum",
                got=f"{decay}, {threshold}, {loss_steps}, {minimum}",
                expected="decay in [0, 1), threshold >= 0, loss_steps >= 1, minimum >= 1",
            )
        self.model = unwrap(model)
        self.count = 0
        plain = _mask_(self.model)
        try:
            with without_autocast():
                self._trace = follow(self.model, example_inputs)
                self.example_inputs = self._trace.example.tensors
                self._units = find_units(self._trace, self.example_inputs)
            groups = find_groups(self.model, self._trace, self._units)
            self._excluded = excluded(inner_names(model, exclude), groups)
            self._parameters: list[nn.Parameter] = []
            if keep is None:
                assert strength is not None
                self._method = NormPenalty(strength / loss_steps, threshold, minimum)
            else:
                assert steps is not None
                self._method = SizeSchedule(fractions(inner_names(model, keep), groups), steps, decay, minimum)
            with without_autocast():
                self._units = dry_run(self.model, self._trace, self._units, self.example_inputs, self._excluded)
        except BaseException:  # the model is left as it was given
            for parent, name, weight in plain:
                parent._modules[name] = weight
            raise

    @property
    def groups(self) -> list[Group]:
        """The units of each layer with everything attached to them, over the parameters that the model has now."""
        parameters = list(self.model.parameters())
        if list(map(id, parameters)) != list(map(id, self._parameters)):
            for leaf in self._trace.leaves.values():
                check_sizes(self.model, leaf)
            self._groups = find_groups(self.model, self._trace, self._units)
            self._parameters = parameters
            for group in self._groups:
                group.excluded = group.name in self._excluded
        return self._groups

    @property
    def _active(self) -> list[Group]:
        return [group for group in self.groups if not group.left_alone]

    def penalty(self) -> Tensor:
        """`strength * sum of norms` as a scalar to add to the loss; zero under a size schedule."""
        with without_autocast():
            return self._method.penalty(self._active)

    @torch.no_grad()
    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`: threshold, or fade what ranks beyond the schedule."""
        self.count += 1
        with without_autocast():
            self._method.step_(self._active, self.count)

    def fraction(self) -> float:
        """The fraction of all units that is exempt from pruning at this step; 1 under a penalty."""
        exempt = [(g.count, self._method.fraction(g.name, self.count)) for g in self.groups]
        return sum(n * share for n, share in exempt) / sum(n for n, _ in exempt)

    def report(self) -> PruneReport:
        """What would be left if the model were shrunk now; see `PruneReport`."""
        return report(self.model, self.groups, self._shrink()[0], self._method.position(self.count))

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A new, smaller model with the same outputs; `optimizer`, if given, goes on with it, its moments cut likewise.

        Needs no training step. Layers are narrowed where every reader can be cut too, else narrowed inside and their
        output scattered to the old width. Outputs on the example and on random inputs and states, in eval and in train
        mode, are compared in float64 before it is returned.

        Warns:
            UserWarning: the schedule has not ended yet, a layer kept more units than it was to keep, or nothing was cut
                under a penalty.
        """
        small, plan = self._shrink()
        self._warn_of_more(plan)
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, small, lambda model: surgery.apply(plan, model))
        return small

    def _shrink(self) -> tuple[nn.Module, surgery.Plan]:
        with without_autocast():
            return surgery.shrink(self.model, self._trace, self.groups, self._units, self.example_inputs)

    def _warn_of_more(self, plan: surgery.Plan) -> None:
        """Say it if more is left than was asked for."""
        cut = {g.name: int(plan.dead[g.name].sum()) for g in plan.groups}
        total = f"{sum(cut.values())} of {sum(g.count for g in plan.groups)} units were cut"
        position = self._method.position(self.count)
        more = [
            f"{g.name} keeps {g.count - cut[g.name]} of {g.count} units, not {self._method.wanted(g)}"
            + (f" ({g.reason})" if g.reason else "")
            for g in self._active
            if g.count - cut[g.name] > self._method.wanted(g)
        ]
        if not self._active:
            text = "every layer is frozen or excluded"
        elif not self._method.ended(self.count):
            text = "call step() until the schedule has ended"
        elif isinstance(self._method, SizeSchedule) and more:
            text = "; ".join(more)
        elif isinstance(self._method, NormPenalty) and self._method.strength and not any(cut.values()):
            text = "train longer, or with a larger strength or threshold"
        else:
            return
        warnings.warn(f"shrink() at {position}: {total}; {text}", stacklevel=3)

    def state_dict(self) -> dict[str, Tensor]:
        """The position, the units that are being pruned and how many are to be left of each layer, as tensors."""
        out = self._method.out
        state = {"count": torch.tensor(self.count), "steps": torch.tensor(self._method.steps)}
        for group in self.groups:
            state[f"wanted.{group.name}"] = torch.tensor(self._wanted(group))
            none = torch.zeros(group.count, dtype=torch.bool)
            state[f"out.{group.name}"] = out.get(group.name, none).clone()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()` of a pruner with the same settings on the same model.

        Raises:
            ValueError: it is that of another model, or of other `keep`, `steps` or `exclude`; nothing was changed then.
        """
        own = self.state_dict()
        if set(own) != set(state):
            raise invalid("pruner state", got=sorted(state), expected=f"{sorted(own)}")
        for name in own:
            fixed = name == "steps" or name.startswith("wanted.")
            if own[name].shape != state[name].shape or (fixed and not torch.equal(own[name], state[name].cpu())):
                raise invalid(
                    f"pruner state, {name}",
                    got=state[name].tolist() if fixed else f"shape {tuple(state[name].shape)}",
                    expected=f"{own[name].tolist()}" if fixed else f"{tuple(own[name].shape)}",
                    hint="keep, steps, exclude and the model must be those that the state was saved with",
                )
        self.count = int(state["count"])
        self._method.out = {g.name: state[f"out.{g.name}"].bool().to(g.device).clone() for g in self.groups}

    def _wanted(self, group: Group) -> int:
        return group.count if group.excluded else self._method.wanted(group)

    def __deepcopy__(self, memo: dict[int, Any]) -> GroupLasso:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.model = memo.get(id(self.model), self.model)  # copied on its own, a pruner stays that of its model
        twin._parameters = []
        twin._method = copy.copy(self._method)
        twin._method.out = {name: out.clone() for name, out in self._method.out.items()}
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
