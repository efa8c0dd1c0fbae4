"""`pack` for ONNX files: to a verified model file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from .._errors import invalid
from .._files import check_writable
from ..emit.packed_file import Check, FileOptions, PackReport, write_packed
from ..runtime.audio import Audio
from ..runtime.inventory import stored_types
from ..runtime.quantize import Quantized
from .cut import Inputs
from .lowering import Lowered
from .model_file import ModelFile
from .ports import States
from .refusals import lower_or_refuse
from .verify import QUANTIZED, Sequence_, random_sequence, verify


def pack_onnx(
    source: str | PathLike[str],
    path: str | PathLike[str],
    *,
    weights: str | Mapping[str, str] = "int8",
    calibration: Iterable[Any] | None = None,
    max_error: float | None = None,
    max_bytes: int | None = None,
    fold: str | bool = "auto",
    metadata: dict[str, Any] | None = None,
    states: States | None = None,
    initial: Mapping[str, Any] | None = None,
    notes: bool = True,
    audio: Audio | None = None,
    constants: Mapping[str, object] | None = None,
    dims: Mapping[str, int] | None = None,
    time: str | None = None,
    inputs: Inputs | None = None,
    outputs: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    lengths: Sequence[str] | None = None,
) -> PackReport:
    """Write the model of an ONNX file as a file that `Engine` runs, without torch.

    A file is a *sequence*, whose inputs have a time axis along which its recurrent layers run, or *one step*, whose
    states are inputs and outputs: `state` and `stateN`, `h` and `hn`, `cache` and `cache_out`. The stream keeps the
    states under the names of the inputs (`Stream.get_state`, `set_state`, `reset`). Inputs and outputs have the names
    that they have in the ONNX file, and their shapes, without batch and leading axes of length one.

    What depends on no data is computed, and branches that constants decide are taken. Quantized files become float
    first, then they are stored as asked. The float32 program is compared with the file in onnxruntime, where that is
    installed, else in the reference implementation of the standard, and refused where an output is off by more than
    1e-4 of its largest value, or by 16 times what rounding the weights to float32 changes, if that is more.

    Args:
        source: the ONNX file.
        path: the file to write; replaced only when all checks have passed.
        weights: as for torch models, see `compactrnn.lower.pack`; so are `max_error`, `max_bytes`, `fold`, `metadata`,
            `notes` and `audio`. Names are those of the file's weights without ".weight", else of its nodes.
        calibration: sequences as `Engine.run` takes them: (time, ...) of one input, of several a tuple; with `audio`
            also recordings, (samples,).
        states: outputs by inputs, `{"input_3": "stack_2"}`, where names do not show which is which; None as the output
            of an input that is given once a sequence, to `Stream.reset`. A dict names all states.
        initial: what states start from, by name; zeros by default.
        constants: inputs that are bound to numbers: `{"sr": 16000}`.
        dims: sizes of axes that the file leaves open, by their names in the file, "input[1]" where it gives none. Batch
            is 1.
        time: the name of the time axis, where it is not found by itself.
        inputs: names of values within the graph that become inputs, to import the part of the file after them: what
            computes them is left out. Inputs of the file that the part reads stay. A dict gives shapes, too, where the
            file has none: `{"features": [1, "time", 64]}`.
        outputs: names of outputs, or of values within the graph, to import the part of the file before them; all
            outputs by default. States that the part does not read are left out.
        tokens: names of inputs that are token ids, for files that take them as floats: one token a step, looked up.
        lengths: names of inputs that say how many steps a sequence has: an engine runs one sequence, and they are the
            number of its steps. By default whole numbers of shape (), (1,) or (batch,) with a name such as `x_len`,
            with a warning; `lengths=[]` for none.

    Raises:
        ModelFileError: the file is damaged, or no ONNX file.
        UnsupportedModelError: the model is not taken; names node and operator, and what would help.
        ValueError: bad arguments, sizes that are missing, an error beyond `max_error`, or a file beyond `max_bytes`.
    """
    options = FileOptions(weights, fold, max_error, max_bytes, metadata, notes, audio)
    target = check_writable(path, "model file")
    file = ModelFile.read(source)
    if target.exists() and os.path.samefile(target, source):
        raise invalid("model file", got=f"{os.fspath(path)}, the ONNX file itself", expected="another file")
    arguments = dict(constants=constants, states=states, dims=dims, time=time, initial=initial)
    arguments |= dict(inputs=inputs, outputs=outputs, tokens=tokens, lengths=lengths)
    lowered = lower_or_refuse(file, **arguments)  # pyright: ignore[reportArgumentType]
    _warn_of_exporter(file)
    if lengths is None and lowered.form.ports.lengths:
        names = [p.name for p in lowered.form.ports.lengths]
        warnings.warn(
            f"{file.name}: {', '.join(names)} is taken for the number of steps of a sequence, and is no input of the"
            f" engine, which runs one sequence of its own length; lengths={names} says so, lengths=[] that it is data",
            stacklevel=3,
        )
    if lowered.file.fixed is not None:
        warnings.warn(
            f"{file.name}: takes sequences of {lowered.file.fixed[1]} steps alone, and can be compared with for these;"
            " the engine takes any number of steps. To be sure of others, export it with an open time axis, as by"
            " torch.onnx.export(..., dynamic_shapes=...)",
            stacklevel=3,
        )
    if lowered.form.whole:
        shapes = ", ".join(f"{port.name} {port.shape}" for port in lowered.program.inputs)
        warnings.warn(
            f"{file.name}: takes inputs of one size alone ({shapes}), and a call of it is one step of the engine, which"
            " keeps no state. For a model of any number of steps, export it with an open time axis, as by"
            " torch.onnx.export(..., dynamic_shapes=...)",
            stacklevel=3,
        )
    sequences = [_sequence(lowered, _heard(lowered, audio, given)) for given in calibration or ()]
    checks, wanted = verify(lowered, sequences)
    data = sequences or [random_sequence(lowered)]
    return write_packed(
        lowered.program,
        path,
        options,
        lambda quantized: _report(lowered, quantized, weights, checks, bool(sequences)),
        calibration=[s[0] if len(s) == 1 else s for s in data],
        wanted=wanted,
        calibrated=bool(sequences),
        stacklevel=4,
    )


def _heard(lowered: Lowered, audio: Audio | None, given: Any) -> Any:
    """What the model takes of a recording, if it is one and not a sequence already."""
    if audio is None or isinstance(given, tuple | list) or np.ndim(given) != 1:
        return given
    audio.check(lowered.program.inputs, lowered.program.outputs)
    return audio.features(given, lowered.program.inputs[0].shape)


def _sequence(lowered: Lowered, given: Any) -> Sequence_:
    """A sequence of calibration data, one array of each input, which must fit the inputs."""
    arrays = given if isinstance(given, tuple | list) and len(lowered.program.inputs) > 1 else (given,)
    arrays = tuple(np.asarray(x) for x in arrays)
    for port, x in zip(lowered.program.inputs, arrays, strict=False):
        if x.shape != port.shape if port.once else x.ndim != len(port.shape) + 1 or x.shape[1:] != port.shape:
            shape = port.shape if port.once else ("time", *port.shape)
            expected = f"({', '.join(map(str, shape))}) of input {port.name!r}"
            raise invalid("calibration", got=f"shape {x.shape}", expected=expected)
    steps = {len(x) for port, x in zip(lowered.program.inputs, arrays, strict=False) if not port.once}
    if len(arrays) != len(lowered.program.inputs) or len(steps) != 1 or 0 in steps:
        names = ", ".join(port.name for port in lowered.program.inputs)
        raise invalid(
            "calibration", got=f"{len(arrays)} arrays", expected=f"one of each input ({names}), as many steps"
        )
    return arrays


def _report(
    lowered: Lowered, quantized: Quantized, weights: str | Mapping[str, str], checks: list[Check], calibrated: bool
) -> PackReport:
    return PackReport(
        0,
        quantized.program.macs_per_step(),
        weights if isinstance(weights, str) else dict(weights),
        max((c.error or 0.0 for c in checks if c.what != QUANTIZED), default=0.0),
        quantized.error,
        quantized.cosine,
        calibrated,
        stored_types(quantized.program),
        quantized.reasons,
        quantized.shares,
        tuple(checks),
    )


def _warn_of_exporter(file: ModelFile) -> None:
    """Warn of a GRU that PyTorch's exporter wrote in another meaning than its layer has."""
    plain = [
        n
        for n in file.graph.node
        if n.op_type == "GRU" and not any(a.name == "linear_before_reset" and a.i for a in n.attribute)
    ]
    if plain and file.proto.producer_name == "pytorch":
        warnings.warn(
            f"{file.name}: {plain[0].name or 'a GRU'} resets the state before its product, unlike torch.nn.GRU: older"
            " exporters of PyTorch left linear_before_reset out, and such a file means something else than its model",
            stacklevel=4,
        )
