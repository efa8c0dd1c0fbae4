"""`pack`, for models of torch and for ONNX files; loads torch for the former alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._errors import invalid, missing_extra
from .emit.packed_file import PackReport
from .runtime.audio import Audio

if TYPE_CHECKING:
    import torch
    from torch import nn


def pack(
    model: nn.Module | torch.export.ExportedProgram | str | PathLike[str],
    path: str | PathLike[str],
    example_inputs: Any = None,
    *,
    weights: str | Mapping[str, str] = "int8",
    calibration: Iterable[Any] | None = None,
    max_error: float | None = None,
    max_bytes: int | None = None,
    fold: str | bool = "auto",
    metadata: dict[str, Any] | None = None,
    states: Any = None,
    initial: Mapping[str, Any] | None = None,
    notes: bool = True,
    audio: Audio | None = None,
    constants: Mapping[str, object] | None = None,
    dims: Mapping[str, int] | None = None,
    time: str | int | None = None,
    inputs: Sequence[str] | Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
    lengths: Sequence[str] | None = None,
) -> PackReport:
    """Write a model as a file that `Engine` runs without torch: a torch model, or the ONNX file of that path.

    The float32 program is compared with the original first, on random numbers, longer sequences, zeros, large inputs
    and the calibration data; a model is refused where an output is off by more than 1e-4 of its largest value, or by 16
    times what float32 itself loses. What is a time step, a state and an output: `compactrnn.lower.pack` for torch
    models, `compactrnn.onnx_import.pack_onnx` for ONNX files (extra `onnx`, no torch).

    Args:
        model: any nn.Module of recurrent layers, linear, embedding, point-wise functions, ..., taken in eval mode and
            not changed; a `torch.export.ExportedProgram` or a `torch.jit.ScriptModule` of such; or the path of an ONNX
            file.
        path: the file to write; replaced only when all checks have passed.
        example_inputs: what a torch model is called with, batch and time axes included: a tensor, a tuple, or a dict;
            an exported program has its own.
        weights: "float32", "int8", "int4" or "auto", or a dict of types by name: `{"fc": "float32", "*": "int4"}`.
        calibration: real data, to measure the error of quantization on and to choose by: batches like
            `example_inputs`; for an ONNX file sequences as `Engine.run` takes them, or recordings, with `audio`.
        max_error: refuse to write beyond this relative error (`PackReport.error`).
        max_bytes: refuse to write a larger file; with "auto", matrices are in int4 where the file has to get smaller.
        fold: fold a token's input product into its table: "auto" where file or working set gets smaller, True, False.
        metadata: JSON for `Engine.metadata` (task, vocabulary, labels, ...).
        states: of a model that is one time step: the arguments that are states, or outputs by inputs.
        initial: what states start from, by name; zeros by default.
        notes: write the names of weights and what the report says into the file, for `compactrnn info`.
        audio: how a model takes and gives audio, which makes `AudioStream` and `compactrnn run` run it on recordings.
        constants: ONNX only: inputs that are bound to numbers: `{"sr": 16000}`.
        dims: ONNX only: sizes of axes that the file leaves open, by name.
        time: the time axis, where it is not found by itself: of an ONNX file its name, of a torch model whose recurrent
            layers run along several axes its number in the first tensor of `example_inputs`.
        inputs: ONNX only: names of values within the graph that become inputs, to import the part after them.
        outputs: ONNX only: names of outputs, or of values within the graph, to import the part before them.
        tokens: ONNX only: names of inputs that are token ids, for files that take them as floats.
        lengths: names of inputs that are the number of steps of a sequence, such as `x_len`; of a torch model the
            argument that its `forward` packs, masks or gathers by. An engine runs sequences without padding.

    >>> import tempfile, torch, compactrnn as cr
    >>> path = tempfile.mkdtemp() + "/gru.crnn"
    >>> model, example = torch.nn.GRUCell(8, 16), (torch.randn(1, 8), torch.zeros(1, 16))
    >>> report = pack(model, path, example, states=["hx"], weights="float32")
    >>> cr.Engine(path).stream().step([0.0] * 8).shape
    (16,)

    Raises:
        UnsupportedModelError: the model is not taken, or its program differs from the original.
        ModelFileError: the ONNX file is damaged.
        ValueError: bad arguments, or a limit that cannot be kept.
    """
    common = dict(
        weights=weights,
        calibration=calibration,
        max_error=max_error,
        max_bytes=max_bytes,
        fold=fold,
        metadata=metadata,
        states=states,
        initial=initial,
        notes=notes,
        audio=audio,
        lengths=lengths,
    )
    of_onnx = dict(constants=constants, dims=dims, inputs=inputs, outputs=outputs, tokens=tokens)
    if isinstance(model, str | PathLike):
        if example_inputs is not None and not str(model).endswith(".onnx"):
            expected = "a torch model, or the path of an ONNX file"
            hint = "load a checkpoint yourself, and give the module"
            raise invalid("model", got=repr(str(model)), expected=expected, hint=hint)
        if example_inputs is not None:
            raise invalid("example_inputs", got="some", expected="none: an ONNX file has the shapes of its inputs")
        try:
            import onnx  # noqa: F401
        except ImportError:
            raise missing_extra("packing an ONNX file", "onnx") from None
        from .onnx_import import pack_onnx

        if isinstance(time, int):
            raise invalid("time", got=repr(time), expected="the name of an axis: a number is for torch models")
        return pack_onnx(model, path, time=time, **common, **of_onnx)  # pyright: ignore[reportArgumentType]
    for name, value in of_onnx.items():
        if value is not None:
            raise invalid(name, got="some", expected="none: only the inputs of an ONNX file have it")
    from .lower import pack as pack_model

    if isinstance(time, str):
        raise invalid("time", got=repr(time), expected="the number of an axis: names are those of an ONNX file")
    return pack_model(model, path, example_inputs, time=time, **common)  # pyright: ignore[reportArgumentType]
