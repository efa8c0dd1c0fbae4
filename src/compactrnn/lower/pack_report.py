"""What `pack` says about a model file."""

from __future__ import annotations

from collections.abc import Mapping

from ..emit.packed_file import Check, PackReport
from ..runtime.inventory import stored_types
from ..runtime.quantize import Quantized
from ..weights.base import AbstractWeight
from .factors import made_dense
from .lowering import Lowered
from .sequences import LARGE
from .unrolled import Unrolled
from .weights import outer_weights


def report_of(
    lowered: Lowered,
    quantized: Quantized,
    weights: str | Mapping[str, str],
    checks: list[Check],
    calibrated: bool,
    smaller_dense: tuple[str, ...] = (),
) -> PackReport:
    """The report of a program before it is written; `bytes` is 0.

    `smaller_dense` are the names of weights that were made dense before, as that is smaller.
    """
    return PackReport(
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
