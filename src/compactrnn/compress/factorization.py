"""Factorization plans: which matrices of a model get another form, as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import nn

from .._errors import invalid
from ..weights.base import WeightSpec
from ..weights.registry import weight_table
from .plan import TensorRecord
from .plan_json import plan_from
from .table import size_lines, table

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MatrixForm:
    """What a plan does with one matrix (out, in), which may stand in several places of the model, `names`.

    `joined` ones are different matrices that share a factor: one above the other they are of this shape.

    `spec` is its new weight, None where it stays as it is for `reason`. Pairs are before and after: numbers that it
    consists of, and multiply-accumulates of one product with it. `energy` is the part of its squared norm that is
    kept; where it is `weighted`, of what the product gives on the calibration data.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    spec: WeightSpec | None
    parameters: tuple[int, int]
    macs: tuple[int, int]
    energy: float = 1.0
    weighted: bool = False
    reason: str = ""
    joined: bool = False

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True)
class FactorizationPlan:
    """Which matrices of a model get another form, and what each of them keeps.

    A plan is data and holds no weight: `print(plan)` shows it as a table, `to_json` and `from_json` keep it, and
    `apply` gives the model that `factorize_` makes. Pairs are before and after: `parameters` and their `bytes` are of
    the whole model, `macs` of its recurrent, linear and embedding layers, one product with each matrix.

    >>> import torch
    >>> import compactrnn as cr
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    >>> plan = cr.plan_factorization(model, cr.LowRank(rank=8))
    >>> print(plan)
    matrix  shape  weight           parameters    energy  MACs
    0       64x64  LowRank(rank=8)  4096 -> 1024  0...  4096 -> 1024
    1       2x64   as it is: rank 8 is more than the smaller side, 2
    parameters: 4,290 -> 1,218 (3.52x)
    bytes: 17,160 -> 4,872 (3.52x)
    macs: 4,224 -> 1,152 (3.67x)
    >>> cr.FactorizationPlan.from_json(plan.to_json()).matrices[0].spec
    LowRank(rank=8)
    """

    model: str
    matrices: tuple[MatrixForm, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    macs: tuple[int, int]
    weights: dict[str, TensorRecord]

    def apply(self, model: M, *, batches: Iterable[Any] | None = None, same_weights: bool = True) -> M:
        """A factorized copy of `model`, which stays as it is.

        A plan that was made with `batches` needs them again. For another model of the same structure, such as a moving
        average of the weights, give `same_weights=False`: ranks and forms are those of the plan.

        Raises:
            ValueError: the model is not the one of the plan, or `batches` are missing; says which. Nothing was changed
                then.
        """
        from .factorize import apply_factorization

        return apply_factorization(self, model, batches, same_weights)

    def to_json(self) -> str:
        """The plan as JSON text.

        Raises:
            ValueError: a weight is not one of `compactrnn.weights`, which have names.
        """
        tree = asdict(self)
        for row, form in zip(tree["matrices"], self.matrices, strict=True):
            if form.spec is not None:
                row["spec"] = weight_table(form.spec)
                if row["spec"] is None:
                    raise invalid(form.name, got=form.spec, expected="a weight of compactrnn.weights, which has a name")
        return json.dumps({"format": FORMAT} | tree)

    @classmethod
    def from_json(cls, text: str) -> FactorizationPlan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: `text` is not such JSON; says where.
        """
        return plan_from(cls, text, FORMAT, "factorization plan")

    def __str__(self) -> str:
        rows = [["matrix", "shape", "weight", "parameters", "energy", "MACs"]]
        for form in self.matrices:
            start = [(" over " if form.joined else " = ").join(form.names), f"{form.shape[0]}x{form.shape[1]}"]
            if form.spec is None:
                rows.append([*start, f"as it is: {form.reason}"])
                continue
            energy = f"{form.energy:.4f}" + " of outputs" * form.weighted
            sizes = [f"{before} -> {after}" for before, after in (form.parameters, form.macs)]
            rows.append([*start, str(form.spec), sizes[0], energy, sizes[1]])
        return "\n".join([*table(rows), *size_lines(self, ("parameters", "bytes", "macs"))])


FORMAT = "compactrnn factorization plan 1"
