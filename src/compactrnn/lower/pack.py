"""From a trained torch model to a checked model file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
from torch import nn

from .._errors import UnsupportedModelError, invalid
from .._files import check_writable
from ..graph.trace import as_inputs
from ..runtime.engine import Engine
from ..runtime.file import save, write
from ..runtime.inventory import inventory
from ..runtime.quantize import quantize
from ..runtime.storage import WEIGHTS
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
        types: how the tensor of each operation that has one is stored, by the operation's number and name.
    """

    bytes: int
    macs_per_step: int
    weights: str
    parity: float
    error: float
    cosine: float
    calibrated: bool
    types: dict[str, str]


def pack(
    model: nn.Module,
    path: str | PathLike[str],
    example_inputs: Any,
    *,
    weights: str = "int8",
    calibration: Iterable[Any] | None = None,
    max_error: float | None = None,
    fold: str | bool = "auto",
    metadata: dict[str, Any] | None = None,
) -> PackReport:
    """Write `model` as a file that `Engine` runs without torch; the model is not changed.

    The float32 program is compared with torch first and refused beyond 1e-4. With "int8" the matrices are stored with
    one scale per row, with "int4" with one per row and 64 columns; "auto" is int8, and int4 for the largest matrices
    where that makes the model fit a cache (`compactrnn.runtime.mixed_precision` has the rules). The error that this brings is
    measured on `calibration` and kept in the file.

    Args:
        model: any nn.Module of recurrent layers, linear, embedding, point-wise functions, ...; taken in eval mode.
        path: the file to write; replaced only when all checks have passed.
        example_inputs: a tensor or tuple of tensors as the model takes them, batch and time axes included.
        weights: "float32", "int8", "int4" or "auto".
        calibration: batches like `example_inputs`, real data, to measure the quantisation error on.
        max_error: refuse to write beyond this relative error (`PackReport.error`).
        fold: fold a token's input product into its table: "auto" where file or working set gets smaller, True, False.
        metadata: JSON for `Engine.metadata` (task, vocabulary, labels, ...).

    Raises:
        UnsupportedModelError: the model cannot be followed, or its program differs from torch.
        ValueError: bad arguments, or an error beyond `max_error`.

    >>> import tempfile, torch, compactrnn as cr
    >>> x = torch.randn(1, 9, 8)
    >>> path = tempfile.mkdtemp() + "/lstm.crnn"
    >>> report = pack(nn.LSTM(8, 16, batch_first=True), path, x, calibration=[x])
    >>> cr.Engine(path).stream().step(x[0, 0].numpy()).shape
    (16,)
    """
    if weights not in WEIGHTS:
        raise invalid("weights", got=repr(weights), wanted=f"one of {', '.join(map(repr, WEIGHTS))}")
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
    packed = quantize(program, weights, fold, calibration=[_as_given(xs) for xs in given])
    engine = Engine(write(packed))
    if not batches and weights != "float32":
        warnings.warn(
            "no calibration data: the quantisation error is measured on example_inputs only, which may be noise;"
            " pass calibration=[batches of real data]",
            stacklevel=2,
        )
    error, cosine = _compare(exact, engine, given or list(sequences(model, example_inputs)))
    if max_error is not None and error > max_error:
        raise invalid("quantisation error", got=f"{error:.4g}", wanted=f"at most max_error={max_error:.4g}")
    types = {row["operation"]: row["stored as"] for row in inventory(packed)}
    report = PackReport(0, packed.macs_per_step(), weights, parity, error, cosine, bool(batches), types)
    notes = {k: v for k, v in asdict(report).items() if k not in ("bytes", "macs_per_step")}
    packed.metadata = {**packed.metadata, **(metadata or {}), "pack": notes}
    blob = write(packed)
    Engine(blob)
    save(blob, path)
    return PackReport(**{**asdict(report), "bytes": len(blob)})


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


def _compare(exact: Engine, engine: Engine, given: list[tuple[np.ndarray, ...]]) -> tuple[float, float]:
    """Relative root mean square error and cosine of `engine` against `exact` over all sequences."""
    error = power = product = other = 0.0
    for inputs in given:
        for a, b in zip(_outputs(exact, inputs), _outputs(engine, inputs), strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            error += float(np.square(a - b).sum())
            power += float(np.square(a).sum())
            other += float(np.square(b).sum())
            product += float((a * b).sum())
    tiny = np.finfo(np.float64).tiny
    return float(np.sqrt(error / max(power, tiny))), float(product / max(np.sqrt(power * other), tiny))


def sequences(model: nn.Module, batch: Any) -> Iterable[tuple[np.ndarray, ...]]:
    """The sequences of a batch, time first, without the batch axis, as the engine takes them."""
    inputs = as_inputs(batch)
    axes = find_axes(model, inputs)
    count = 1 if axes.batch is None else inputs[0].shape[axes.batch]
    for i in range(count):
        one = inputs if axes.batch is None else tuple(x.select(axes.batch, i) for x in inputs)
        time = axes.time - (axes.batch is not None and axes.batch < axes.time)
        yield tuple(x.detach().cpu().movedim(time, 0).numpy() for x in one)
