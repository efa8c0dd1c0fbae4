"""Verification of a program against the ONNX file that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from .._errors import UnsupportedModelError
from ..emit.packed_file import Check
from ..runtime.engine import Engine
from ..runtime.file import encode
from ..runtime.measure import compare
from ..runtime.quantize import quantize
from .folded import Typed
from .form import Form
from .lowering import Lowered
from .model_file import ModelFile
from .original import ElsewhereError, Original, Rows, calls_of, steps_of

PARITY = 1e-4
QUANTIZED = "the quantized file"
_STEPS = 48  # of the sequences that are made up
_WHOLE = 4  # the same where each step is a whole sequence
_FEW = (1, 2, 5)  # steps of those of which the ends may differ at other lengths
_LENGTHS = 13, 24  # of those that a module is compared on
_LOSSES = 16  # a program may lose as many times what rounded weights lose
_ROUNDING = 2.0**-23  # of one float32 number
_DRAWS = 4  # of rounded weights
_ALIKE = 0.9  # cosine between the outputs of a quantized file and those of its float form

Sequence_ = tuple[np.ndarray, ...]  # one array of each input


def random_sequence(lowered: Lowered, steps: int | None = None, seed: int = 0) -> Sequence_:
    """Normal numbers, tokens and flags for each input; of more steps where few give no result."""
    most = _WHOLE if lowered.form.whole else _STEPS
    steps = max(most, 2 * lowered.program.least_steps) if steps is None else steps
    rng, found = np.random.default_rng(seed), []
    for port, given in zip(lowered.program.inputs, lowered.form.ports.inputs, strict=True):
        shape = port.shape if port.once else (steps, *port.shape)
        if port.vocabulary:
            found.append(rng.integers(port.vocabulary, size=shape))
        elif given.dtype.kind in "iub":
            found.append(rng.integers(2, size=shape).astype(np.float32))
        else:
            found.append(rng.normal(size=shape).astype(np.float32))
    return tuple(found)


def verify(lowered: Lowered, sequences: Sequence[Sequence_]) -> tuple[list[Check], list[Rows] | None]:
    """Compare the float32 program with the file, and the outputs of the file for `sequences`.

    An error of 1e-4 of the largest value is accepted, or 16 times what rounding the weights changes, if that is more.
    Of a quantized file this is its float form; the file itself rounds its inputs, and only has to be alike.

    Raises:
        UnsupportedModelError: the outputs differ; says which, from which step on, on what data and by how much.
    """
    try:
        return _checks(lowered, sequences)
    except ElsewhereError as error:
        return [Check("the file", 0, None, f"it does not run elsewhere: {error}")], None


def _checks(lowered: Lowered, sequences: Sequence[Sequence_]) -> tuple[list[Check], list[Rows]]:
    original = Original(lowered)
    engine = Engine(encode(quantize(lowered.program, "float32", False)))
    varied = random_sequence(lowered)
    few = [x for x in (random_sequence(lowered, n) for n in _FEW) if _is_taken(lowered, original, engine, x)]
    checks = [
        _check("random numbers", lowered, original, engine, [varied, *(few if engine.offline else ())]),
        _check("zeros", lowered, original, engine, [tuple(np.zeros_like(x) for x in varied)]),
    ]
    if lowered.file.fixed is not None:
        checks.append(_check_fixed(lowered, engine, *lowered.file.fixed))
    if lowered.form.frames > 1:
        checks.append(_check("few steps", lowered, original, engine, few))
    if sequences:
        checks.append(_check("calibration", lowered, original, engine, list(sequences)))
    wanted = [original.run(sequence) for sequence in sequences or [varied]]
    if lowered.file.quantized is not None:
        checks.append(_check_quantized(lowered, sequences or [varied], wanted))
    return checks, wanted


def _is_taken(lowered: Lowered, original: Original, engine: Engine, sequence: Sequence_) -> bool:
    """Whether the file takes a sequence, which may be too short for it, and the engine gives numbers.

    Layers over no steps at all may end onnxruntime.
    """
    try:
        folded = lowered.form.folded(lowered.file, lowered.outputs, steps_of(lowered, sequence))
        if any(isinstance(value, Typed) and 0 in value.shape for value in folded.values.values()):
            return False
        original.run(sequence)
        given = engine.run(sequence[0] if len(sequence) == 1 else sequence)
    except (ElsewhereError, ValueError):
        return False
    return not any(np.isnan(y).any() for y in (given if isinstance(given, tuple) else (given,)))


def _check_fixed(lowered: Lowered, engine: Engine, file: ModelFile, steps: int) -> Check:
    what, frames = "the file of fixed size", lowered.form.frames
    if steps % frames:
        return Check(what, 0, None, f"its {steps} steps are no multiple of the {frames} that the engine takes at once")
    try:
        return _check(what, lowered, Original(lowered, file=file), engine, [random_sequence(lowered, steps // frames)])
    except ElsewhereError as error:
        return Check(what, 0, None, f"it does not run elsewhere: {error}")


def _check_quantized(lowered: Lowered, sequences: Sequence[Sequence_], floats: list[Rows]) -> Check:
    what, steps = QUANTIZED, sum(steps_of(lowered, sequence) for sequence in sequences)
    try:
        original = Original(lowered, file=lowered.file.quantized)
        found = [original.run(sequence) for sequence in sequences]
    except ElsewhereError as error:
        return Check(what, 0, None, f"it does not run elsewhere: {error}")
    return Check(what, steps, _alike(lowered.file.name, found, floats))


def _alike(name: str, quantized: list[Rows], floats: list[Rows]) -> float:
    """The relative error of a float form; refused where it is another model than the quantized file."""
    difference = compare(quantized, floats)
    if not difference.cosine >= _ALIKE:
        raise UnsupportedModelError(
            f"{name}: its float form differs from the quantized file, by a cosine of {difference.cosine:.3g} between"
            f" their outputs; at least {_ALIKE} is expected. Random inputs may be too unlike what it was made for:"
            " calibration=[...] gives real ones; otherwise please report the file"
        )
    return difference.error


def check_module(file: ModelFile, form: Form, outputs: list[str], compute: Callable[..., Sequence[np.ndarray]]) -> None:
    """Refuse what computes the outputs of a whole file, from its inputs, unless it does as the file does.

    Random sequences of two lengths are compared; the error that is accepted is that of `verify`.

    Raises:
        UnsupportedModelError: the outputs differ, or the file does not run elsewhere.
    """
    rng = np.random.default_rng(0)
    for steps in _LENGTHS if form.time is not None else _LENGTHS[:1]:
        known = form.known(steps)
        types = {p.name: p.type(known) for p in form.ports.inputs}
        given = {  # tokens and flags where these are whole numbers
            name: (rng.integers(2, size=t.shape) if t.dtype.kind in "iub" else rng.normal(size=t.shape)).astype(t.dtype)
            for name, t in types.items()
        }
        fixed = {**form.ports.constants, **{p.name: np.zeros(p.type(known).shape, p.dtype) for p in form.ports.shapes}}
        try:
            wanted = calls_of(file, form)(outputs, {**given, **fixed})
            lost = calls_of(file, form, _ROUNDING)(outputs, {**given, **fixed})
        except ElsewhereError as error:
            raise UnsupportedModelError(f"{file.name} does not run, so that nothing can be compared: {error}") from None
        if file.quantized is not None:
            with suppress(ElsewhereError):
                _alike(file.name, [calls_of(file.quantized, form)(outputs, {**given, **fixed})], [wanted])
        for name, a, rounded, b in zip(outputs, wanted, lost, compute(*given.values()), strict=True):
            error = _errors(a, b).max(initial=0.0)
            if error > max(PARITY, _LOSSES * _errors(a, rounded).max(initial=0.0)):
                raise UnsupportedModelError(
                    f"output {name!r}: the module differs from the file, on {steps} random steps, by {error:.3g} of its"
                    " largest value; please report the file"
                )


def _check(what: str, lowered: Lowered, original: Original, engine: Engine, sequences: list[Sequence_]) -> Check:
    worst, steps = 0.0, 0
    for sequence in sequences:
        wanted, got = original.run(sequence), engine.run(sequence[0] if len(sequence) == 1 else sequence)
        got = got if isinstance(got, tuple) else (got,)
        for port, a, b in zip(engine.outputs, wanted, got, strict=True):
            errors = _errors(a, b)
            if errors.max(initial=0.0) > PARITY:
                _judge(what, port.name, lowered, sequence, a, errors)
            worst = max(worst, float(errors[np.isfinite(errors)].max(initial=0.0)))
        steps += steps_of(lowered, sequence)
    return Check(what, steps, worst)


def _errors(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Differences relative to the largest finite number; infinite where only one of the two is a finite number."""
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    if wanted.shape != got.shape:
        raise UnsupportedModelError(f"the program gives shape {got.shape}, the file {wanted.shape}")
    size = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0) or 1.0
    with np.errstate(invalid="ignore"):
        difference = np.asarray(np.abs(wanted - got) / size)
    difference[(wanted == got) | (np.isnan(wanted) & np.isnan(got))] = 0.0
    difference[np.isnan(difference)] = np.inf
    return difference


def _judge(what: str, name: str, lowered: Lowered, sequence: Sequence_, wanted: np.ndarray, errors: np.ndarray) -> None:
    """Raise an error unless rounded weights alone explain the difference.

    Several are tried: what takes the place of the largest of equal numbers changes with few of them.
    """
    number = lowered.outputs.index(name)
    rounded = (Original(lowered, _ROUNDING, seed=seed).run(sequence)[number] for seed in range(_DRAWS))
    lost = max(_errors(wanted, y).max(initial=0.0) for y in rounded)
    allowed = max(PARITY, _LOSSES * lost)
    if errors.max() > allowed:
        raise UnsupportedModelError(
            f"output {name!r}: the program differs from the file, on {what}, by {errors.max():.3g} of its largest"
            f" value; at most {allowed:.3g} is accepted"
        )
