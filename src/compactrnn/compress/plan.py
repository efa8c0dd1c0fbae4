"""Pruning plans: what is removed from a model, as plain values, to be read, saved as JSON and applied again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from torch import nn

from .plan_json import check_pruning, plan_from
from .table import size_lines

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class UnitCut:
    """One unit set of one layer: which of its `units` are `kept` (sorted indices), its consumers, and why.

    `removed` says for each kind of reason how many of the others go; `reason` why not all consumers are known, where
    that is so; `left_alone` is "frozen" or "excluded" where all units stay for that reason.
    """

    path: str
    layer: int
    unit_set: str
    units: int
    kept: tuple[int, ...]
    consumers: tuple[str, ...] = ()
    removed: tuple[tuple[str, int], ...] = ()
    reason: str = ""
    left_alone: str = ""

    @property
    def name(self) -> str:
        """Layer name, layer number and unit set: `encoder.lstm[0].h`."""
        return f"{self.path or 'model'}[{self.layer}].{self.unit_set}"

    def __str__(self) -> str:
        text = f"{self.name}: {len(self.kept)} of {self.units} units; read by {', '.join(self.consumers) or 'nothing'}"
        text += "".join(f"; {count} removed: {why}" for why, count in self.removed)
        text += f"; not all consumers are known ({self.reason})" if self.reason else ""
        return text + (f"; left alone ({self.left_alone})" if self.left_alone else "")


@dataclass(frozen=True)
class LayerCut:
    """A recurrent layer: its class, its input columns, and whether its output keeps its width.

    With `scattered` the layer is narrowed inside and its output is written back to the old width; `idle` says that the
    removed units may start from a state that is not zero, whose course is computed without weights.
    """

    path: str
    kind: str
    inputs: int
    kept_inputs: tuple[int, ...] | None = None
    scattered: bool = False
    idle: bool = False


@dataclass(frozen=True)
class TensorCut:
    """A parameter or buffer outside of recurrent layers that reads units: the entries `kept` along `axis`."""

    name: str
    axis: int
    size: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {len(self.kept)} of {self.size} entries along axis {self.axis}"


@dataclass(frozen=True)
class SizeCut:
    """An attribute of a module, `name`, that its code reads as a width: `before` the cut and `after` it."""

    path: str
    name: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.path or 'model'}.{self.name}: {self.after} instead of {self.before}"


@dataclass(frozen=True)
class TensorRecord:
    """A parameter or buffer of the model that the plan was made for; `digest` is the SHA-256 of its bytes."""

    shape: tuple[int, ...]
    dtype: str
    digest: str = ""


@dataclass(frozen=True)
class PruningPlan:
    """Which units of a model are removed, and all that is cut with them.

    A plan is data: it names layers, parameters and indices, and holds no weight. `print(plan)` explains it, `to_json`
    and `from_json` keep it, and `apply` cuts the model that it was made for, or an equal one in another process, to
    the bits that `shrink()` gives. Pairs are sizes before and after; `macs` are those of the recurrent layers, per
    step.

    >>> import torch
    >>> from torch import nn
    >>> import compactrnn as cr
    >>> lstm, x = nn.LSTM(4, 8), torch.randn(5, 2, 4)
    >>> pruner = cr.GroupLasso(lstm, x, keep=0.5, steps=1)
    >>> pruner.step()
    >>> plan = cr.PruningPlan.from_json(pruner.plan().to_json())
    >>> [(cut.name, len(cut.kept)) for cut in plan.units]
    [('model[0].h', 4)]
    """

    model: str
    units: tuple[UnitCut, ...]
    layers: tuple[LayerCut, ...]
    tensors: tuple[TensorCut, ...]
    parameters: tuple[int, int]
    recurrent_parameters: tuple[int, int]
    macs: tuple[int, int]
    position: str
    weights: dict[str, TensorRecord]
    sizes: tuple[SizeCut, ...] = ()

    def apply(self, model: M, *, same_weights: bool = True) -> M:
        """A smaller copy of `model`, which stays as it is.

        Exact for the weights that the plan was made for, and refused for others; with `same_weights=False` it cuts a
        model of the same structure with any weights, such as a moving average or an untrained one. The outputs then
        change, unless the removed units are zero in it too.

        Raises:
            ValueError: the model is not the one of the plan; says where they differ. Nothing was changed then.
        """
        from .surgery import apply_plan

        return apply_plan(self, model, same_weights)

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps({"format": FORMAT} | asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: `text` is not such JSON, or a size, an index or a name in it cannot be; says which.
        """
        plan = plan_from(cls, text, FORMAT)
        check_pruning(plan)
        return plan

    def __str__(self) -> str:
        rows = [f"at {self.position}"] if self.position else []
        rows += [str(cut) for cut in self.units]
        rows += [str(cut) for cut in (*self.tensors, *self.sizes)]
        rows += [
            f"{c.path or 'model'}: {len(c.kept_inputs)} of {c.inputs} input columns"
            for c in self.layers
            if c.kept_inputs is not None
        ]
        rows += [
            f"{c.path or 'model'}: narrower inside; its output keeps its width" for c in self.layers if c.scattered
        ]
        return "\n".join([*rows, *size_lines(self, SIZES)])


FORMAT = "compactrnn pruning plan 1"
SIZES = ("parameters", "recurrent_parameters", "macs")
