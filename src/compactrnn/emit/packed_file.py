"""From a float32 program to a model file, quantized as asked and measured, and the report of it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np

from .._errors import check_positive, invalid
from ..runtime.accuracy import LIMIT
from ..runtime.audio import Audio
from ..runtime.engine import Engine
from ..runtime.file import encode, save, write
from ..runtime.program import Program
from ..runtime.quantize import Quantized, Trained, quantize_measured
from ..runtime.storage import WeightTypes

_OWN_KEYS = ("added_steps", "frames_per_step", "offline_because", "pack")  # of the metadata, which engines read


@dataclass(frozen=True)
class Check:
    """One comparison with the model as it runs elsewhere: in torch, or an ONNX file in onnxruntime.

    Attributes:
        what: the data.
        steps: the number of time steps of all sequences together.
        error: largest difference of any output, relative to the output's largest value; None without comparison.
        skipped: why there was no comparison.
    """

    what: str
    steps: int
    error: float | None
    skipped: str = ""


@dataclass(frozen=True)
class PackReport:
    """The result of `pack`: sizes, checks against the original and quantization error.

    Attributes:
        bytes: size of the file.
        macs_per_step: multiply-accumulate operations of the packed program per time step.
        parity: largest difference of the float32 program from the original, torch or onnxruntime, in all `checks` but
            that on large inputs, where float32 itself keeps fewer digits.
        error: root mean square error of the packed outputs against the original's on the calibration data (else on
            `example_inputs`, or random numbers), relative to the root mean square of the original's.
        cosine: cosine between packed outputs and the original's on the same data.
        calibrated: whether `error` and `cosine` come from calibration data.
        types: how weights are stored, by their names in the model ("encoder.lstm.weight_ih_l0", "fc").
        reasons: for weights that calibration data showed to be better stored in another way than was asked for: which
            way, and what it changes.
        shares: where `error` is above 2 %, what part of the squared error the weights cause, the largest first.
        checks: on what the float32 program was compared with the original, over how many steps, and the largest
            difference in each, relative to the output's largest value.
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


@dataclass(frozen=True)
class FileOptions:
    """How a file is written; see `pack` for what the arguments mean.

    Raises:
        ValueError: one of them has a value that it cannot have.
    """

    weights: str | Mapping[str, str] = "int8"
    fold: str | bool = "auto"
    max_error: float | None = None
    max_bytes: int | None = None
    metadata: dict[str, Any] | None = None
    notes: bool = True
    audio: Audio | None = None

    def __post_init__(self) -> None:
        WeightTypes.of(self.weights)
        if self.audio is not None and not isinstance(self.audio, Audio):
            raise invalid("audio", got=repr(self.audio), expected="an Audio, or None")
        if self.fold not in ("auto", True, False):
            raise invalid("fold", got=repr(self.fold), expected="'auto', True or False")
        number = isinstance(self.max_error, Real) and not isinstance(self.max_error, bool)
        if self.max_error is not None and not (number and self.max_error > 0):
            raise invalid("max_error", got=repr(self.max_error), expected="a positive number")
        if self.max_bytes is not None:
            check_positive(self.max_bytes, "max_bytes")
        if self.metadata is not None and not isinstance(self.metadata, dict):
            raise invalid("metadata", got=type(self.metadata).__name__, expected="a dict, or None")
        try:
            json.dumps(self.metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise invalid("metadata", got=str(error), expected="what JSON can hold") from None
        own = (*_OWN_KEYS, *([] if self.audio is None else self.audio.metadata()))
        if taken := [key for key in own if key in (self.metadata or {})]:
            raise invalid("metadata", got=repr(taken[0]), expected=f"no key of {', '.join(own)}, which pack writes")


def write_packed(
    program: Program,
    path: str | PathLike[str],
    options: FileOptions,
    report: Callable[[Quantized], PackReport],
    *,
    calibration: Sequence[Any],
    wanted: Sequence[Sequence[np.ndarray]] | None,
    calibrated: bool,
    trained: Mapping[str, Trained] | None = None,
    stacklevel: int = 3,
) -> PackReport:
    """Write `program` as a model file and say what was done.

    Args:
        program: in float32.
        path: the file to write; replaced only when nothing speaks against it.
        options: how.
        report: what is said of the program as it is stored, `bytes` aside.
        calibration: sequences as `Engine.run` takes them, to measure the quantization error on.
        wanted: the outputs that the original gives for each; by default the program's own.
        calibrated: whether they are real data, to choose by.
        trained: how weights were trained, by name.
        stacklevel: of warnings.

    Raises:
        ValueError: the error or the file is larger than it may be.
    """
    program.metadata = {**program.metadata, **(options.metadata or {})}
    if options.audio is not None:
        if program.offline:
            raise invalid("model of audio", got="one that needs whole sequences", expected="one that streams")
        options.audio.check(program.inputs, program.outputs)
        program.metadata |= options.audio.metadata()
    reserve = least = 0  # bytes of the notes, which are not known before, and of the smallest file without them
    while True:
        room = None if options.max_bytes is None else max(options.max_bytes - reserve, least)
        quantized = quantize_measured(
            program,
            options.weights,
            options.fold,
            calibration=calibration,
            wanted=wanted,
            improve=calibrated,
            trained=trained,
            max_bytes=room,
        )
        _check_error(quantized.error, options.max_error)
        found = report(quantized)
        blob = write(_with_notes(quantized.program, found) if options.notes else _without_names(quantized.program))
        if options.max_bytes is None or room is None or len(blob) <= options.max_bytes:
            break
        if (size := len(encode(quantized.program))) > room:
            least = size
        elif size > least:
            reserve += len(blob) - options.max_bytes
        else:
            auto = "auto" in WeightTypes.of(options.weights).by_key.values()
            hint = "make the model smaller" if auto else "weights='auto' lets matrices become int4"
            if not calibrated:
                hint += ", calibration data lets large constants become int8"
            expected = f"at least {len(blob):,}, the size of the smallest file with these types"
            raise invalid("max_bytes", got=f"{options.max_bytes:,}", expected=expected, hint=hint)
    _warn(found, quantized, stacklevel + 1)
    Engine(blob)
    save(blob, path)
    return replace(found, bytes=len(blob))


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


def _check_error(error: float, most: float | None) -> None:
    if not math.isfinite(error):
        raise invalid(
            "quantization error",
            got="outputs that are infinite or NaN where the original's are not, or the other way round",
            expected="none",
            hint="are there such numbers in the calibration data? weights='float32' treats them as the original does",
        )
    if most is not None and error > most:
        raise invalid("quantization error", got=f"{error:.4g}", expected=f"at most max_error={most:.4g}")


def _with_notes(program: Program, report: PackReport) -> Program:
    program.metadata = {**program.metadata, "pack": notes_of(report)}
    return program


def _without_names(program: Program) -> Program:
    return program.map_ops(lambda op: replace(op, name=""))


def _warn(report: PackReport, quantized: Quantized, stacklevel: int) -> None:
    """Warn of missing measurements, and of a large error by the name of its main cause."""
    for check in report.checks:
        if check.skipped:
            warnings.warn(f"not compared with the original on {check.what}: {check.skipped}", stacklevel=stacklevel)
    if not report.calibrated and report.weights != "float32":
        warnings.warn(
            "no calibration data: the quantization error is measured on example_inputs only, which may be noise;"
            " pass calibration=[batches of real data]",
            stacklevel=stacklevel,
        )
    if quantized.error > LIMIT:
        message = f"quantization changes the outputs by {quantized.error:.1%} (relative root mean square error)"
        for name, share in list(quantized.shares.items())[:1]:
            message += f"; {name} causes {share:.0%} of it, which weights={{{name!r}: 'float32'}} avoids"
        warnings.warn(message, stacklevel=stacklevel)
