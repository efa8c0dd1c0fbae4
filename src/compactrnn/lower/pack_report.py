"""What `pack` says about a model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..runtime.inventory import stored_types
from ..runtime.quantize import Quantized
from ..weights.base import AbstractWeight
from .factors import made_dense
from .lowering import Lowered
from .sequences import LARGE
from .unrolled import Unrolled
from .verify import Check
from .weights import outer_weights


@dataclass(frozen=True)
class PackReport:
    """The result of `pack`: sizes, checks against torch and quantization error.

    Attributes:
        bytes: size of the file.
        macs_per_step: multiply-accumulate operations of the packed program per time step.
        parity: largest difference of the float32 program from torch in all `checks` but that on large inputs, where
            float32 itself keeps fewer digits.
        error: root mean square error of the packed outputs against torch on the calibration data (else on
            `example_inputs`), relative to the root mean square of torch's.
        cosine: cosine between packed outputs and torch's on the same data.
        calibrated: whether `error` and `cosine` come from calibration data.
        types: how weights are stored, by their names in the model ("encoder.lstm.weight_ih_l0", "fc").
        reasons: for weights that calibration data showed to be better stored in another way than was asked for: which
            way, and what it changes.
        shares: where `error` is above 2 %, what part of the squared error the weights cause, the largest first.
        checks: on what the float32 program was compared with torch, over how many steps, and the largest difference in
            each, relative to the output's largest value.
        left_out: the names of what the model returns and the engine does not give.
        made_dense: the names of weights of which the file stores the dense matrix: the core has no form for them, or
            it is smaller (`compactrnn.runtime.cost`).
    """

    bytes: int
    macs_per_step: int
    weights: str | dict[str, str]
    parity: float
    error: float
    cosine: float
    calibrated: bool
    types: dict[str, str]
    reasons: dict[str, str]
    shares: dict[str, float]
    checks: tuple[Check, ...] = ()
    left_out: tuple[str, ...] = ()
    made_dense: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        lowered: Lowered,
        quantized: Quantized,
        weights: str | Mapping[str, str],
        checks: list[Check],
        calibrated: bool,
        smaller_dense: tuple[str, ...] = (),
    ) -> PackReport:
        """The report of a program before it is written; `bytes` is 0."""
        return cls(
            0,
            quantized.program.macs_per_step(),
            weights if isinstance(weights, str) else dict(weights),
            max(c.error or 0.0 for c in checks if c.what != LARGE),
            quantized.error,
            quantized.cosine,
            calibrated,
            stored_types(quantized.program),
            quantized.reasons,
            quantized.shares,
            tuple(checks),
            tuple(lowered.left_out),
            (*made_dense(_weights(lowered)), *smaller_dense),
        )


def notes_of(report: PackReport) -> dict[str, Any]:
    """What a file says of its making, briefly: not what its records show, no empty lists, numbers to five digits."""
    notes = {k: v for k, v in asdict(report).items() if k not in ("bytes", "macs_per_step", "types")}
    lists = ("shares", "checks", "left_out", "made_dense")
    return {k: _brief(v) for k, v in notes.items() if v or k not in lists}


def _brief(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _brief(v) for k, v in value.items() if v != ""}
    if isinstance(value, list | tuple):
        return [_brief(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _weights(lowered: Lowered) -> dict[str, AbstractWeight]:
    """Every weight by its name in the model: those of recurrent layers, and those outside of them."""
    cells = {
        leaf.part_name(layer, direction, name): weight
        for leaf in lowered.trace.leaves.values()
        for layer, row in enumerate(leaf.cells)
        for direction, cell in enumerate(row)
        for name, weight in cell.named_children()
        if isinstance(weight, AbstractWeight)
    }
    model = lowered.model.step if isinstance(lowered.model, Unrolled) else lowered.model
    return {**cells, **outer_weights(model)}
