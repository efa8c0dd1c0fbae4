"""From a trained torch model to a checked model file."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UnsupportedModelError, invalid
from .._files import check_writable
from ..graph.arguments import positional
from ..runtime.accuracy import LIMIT
from ..runtime.engine import Engine
from ..runtime.file import save, write
from ..runtime.inventory import stored_types
from ..runtime.quantize import Quantized, quantize, quantize_measured
from ..runtime.storage import WeightTypes
from .lower import lower, reference
from .probe import find_axes

PARITY = 1e-4


@dataclass(frozen=True)
class PackReport:
    """What `pack` wrote and measured.

    Attributes:
        bytes: size of the file.
        macs_per_step: multiply-accumulate operations of the packed program per time step.
        parity: largest difference of the float32 program from torch, relative to the largest output.
        error: root mean square error of the packed outputs on the calibration data (else on `example_inputs`),
            relative to the root mean square of the float outputs.
        cosine: cosine between packed and float outputs on the same data.
        calibrated: whether `error` and `cosine` come from calibration data.
        types: how weights are stored, by their names in the model ("encoder.lstm.weight_ih_l0", "fc").
        reasons: for weights that calibration data showed to be better stored in another way than was asked for: which
            way, and what it changes.
        shares: where `error` is above 2 %, what part of the squared error the weights cause, the largest first.
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


def pack(
    model: nn.Module,
    path: str | PathLike[str],
    example_inputs: Any,
    *,
    weights: str | Mapping[str, str] = "int8",
    calibration: Iterable[Any] | None = None,
    max_error: float | None = None,
    fold: str | bool = "auto",
    metadata: dict[str, Any] | None = None,
) -> PackReport:
    """Write `model` as a file that `Engine` runs without torch; the model is not changed.

    The float32 program is compared with torch first and refused beyond 1e-4. With "int8" the matrices are stored with
    one scale per row, with "int4" with one per row and 64 columns; "auto" is int8, and int4 for the largest matrices
    where that makes the model fit a cache (`compactrnn.runtime.mixed_precision` has the rules). The error that this
    brings is measured on `calibration` and kept in the file.

    Where it is above 2 %, the products that cause it are made more accurate: those that read hidden states get a scale
    for every step, those that read unbounded numbers (features, counts, what a ReLU gives) have their columns scaled
    from the calibration data, or stay in float32; `PackReport.reasons` says which and why. A warning names the worst
    where the error stays above 2 %.

    Args:
        model: any nn.Module of recurrent layers, linear, embedding, point-wise functions, ...; taken in eval mode.
        path: the file to write; replaced only when all checks have passed.
        example_inputs: a tensor or tuple of tensors as the model takes them, batch and time axes included.
        weights: "float32", "int8", "int4" or "auto", or a dict of types by name: `{"fc": "float32", "*": "int4"}`. A
            name is that of a module, of its weights ("lstm.weight_ih_l0"), or a pattern; "*" is for all others, int8
            if it is left out. What is named is stored so whatever the calibration data shows.
        calibration: batches like `example_inputs`, real data, to measure the quantisation error on.
        max_error: refuse to write beyond this relative error (`PackReport.error`).
        fold: fold a token's input product into its table: "auto" where file or working set gets smaller, True, False.
        metadata: JSON for `Engine.metadata` (task, vocabulary, labels, ...).

    Raises:
        UnsupportedModelError: the model cannot be followed, or its program differs from torch.
        ValueError: bad arguments, names in `weights` that the model does not have, or an error beyond `max_error`.

    >>> import tempfile, torch, compactrnn as cr
    >>> x = torch.randn(1, 9, 8)
    >>> path = tempfile.mkdtemp() + "/lstm.crnn"
    >>> report = pack(nn.LSTM(8, 16, batch_first=True), path, x, calibration=[x])
    >>> cr.Engine(path).stream().step(x[0, 0].numpy()).shape
    (16,)
    """
    WeightTypes.of(weights)
    if isinstance(calibration, torch.Tensor):
        raise invalid("calibration", got="a tensor", wanted="a list of batches, each like example_inputs")
    if fold not in ("auto", True, False):
        raise invalid("fold", got=repr(fold), wanted="'auto', True or False")
    if max_error is not None and not max_error > 0:
        raise invalid("max_error", got=max_error, wanted="a positive number")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise invalid("metadata", got=str(error), wanted="what JSON can hold") from None
    check_writable(path, "model file")
    program = lower(model, example_inputs)
    exact = Engine(write(quantize(program, "float32", False)))
    parity = _parity(model, exact, example_inputs)
    batches = list(calibration) if calibration is not None else []
    given = [xs for batch in batches for xs in sequences(model, batch)]
    sequence = [_as_given(xs) for xs in given or sequences(model, example_inputs)]
    quantized = quantize_measured(program, weights, fold, calibration=sequence, improve=bool(batches))
    packed = quantized.program
    if not math.isfinite(quantized.error):
        raise invalid(
            "quantization error",
            got="outputs that are infinite or NaN where torch's are not, or the other way round",
            wanted="none",
            hint="are there such numbers in the calibration data? weights='float32' treats them as torch does",
        )
    if max_error is not None and quantized.error > max_error:
        raise invalid("quantization error", got=f"{quantized.error:.4g}", wanted=f"at most max_error={max_error:.4g}")
    _warn(quantized, weights, bool(batches))
    report = PackReport(
        0,
        packed.macs_per_step(),
        weights if isinstance(weights, str) else dict(weights),
        parity,
        quantized.error,
        quantized.cosine,
        bool(batches),
        stored_types(packed),
        quantized.reasons,
        quantized.shares,
    )
    notes = {k: v for k, v in asdict(report).items() if k not in ("bytes", "macs_per_step")}
    packed.metadata = {**packed.metadata, **(metadata or {}), "pack": notes}
    blob = write(packed)
    Engine(blob)
    save(blob, path)
    return PackReport(**{**asdict(report), "bytes": len(blob)})


def _warn(quantized: Quantized, weights: str | Mapping[str, str], calibrated: bool) -> None:
    """Warn of a missing measurement, and of a large error by the name of what causes most of it."""
    if not calibrated and weights != "float32":
        warnings.warn(
            "no calibration data: the quantization error is measured on example_inputs only, which may be noise;"
            " pass calibration=[batches of real data]",
            stacklevel=3,
        )
    if quantized.error > LIMIT:
        message = f"quantization changes the outputs by {quantized.error:.1%} (relative root mean square error)"
        for name, share in list(quantized.shares.items())[:1]:
            message += f"; {name} causes {share:.0%} of it, which weights={{{name!r}: 'float32'}} avoids"
        warnings.warn(message, stacklevel=3)


def _parity(model: nn.Module, engine: Engine, example_inputs: Any) -> float:
    """Largest difference between engine and torch on the example, and on a longer one; refuses beyond `PARITY`."""
    inputs, wanted = reference(model, example_inputs)
    worst = 0.0
    for name, got, want in zip([o.name for o in engine.outputs], _outputs(engine, inputs), wanted, strict=True):
        if got.shape != want.shape:
            raise UnsupportedModelError(f"{name}: the program gives shape {got.shape}, torch {want.shape}")
        difference = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        worst = max(worst, float(difference))
        if not difference <= PARITY:
            raise UnsupportedModelError(
                f"{name}: the program differs from torch by {difference:.3g}, at most {PARITY} is accepted;"
                " some operation of the model does not mean the same step by step"
            )
    return worst


def _outputs(engine: Engine, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    results = engine.run(_as_given(inputs))
    return list(results) if isinstance(results, tuple) else [results]


def _as_given(inputs: tuple[np.ndarray, ...]) -> Any:
    """What `Engine.run` takes: one input alone, several as a tuple."""
    (*rest, last) = inputs
    return inputs if rest else last


def sequences(model: nn.Module, batch: Any) -> Iterable[tuple[np.ndarray, ...]]:
    """The sequences of a batch, time first, without the batch axis, as the engine takes them."""
    model, inputs = positional(copy.deepcopy(model), batch)
    axes = find_axes(model, inputs)
    for row in range(axes.rows(inputs)):
        yield tuple(x.detach().cpu().numpy() for x in axes.sequence(inputs, row))
