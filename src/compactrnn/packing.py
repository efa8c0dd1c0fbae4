"""`pack`, for models of torch and for ONNX files; loads torch for the former alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._errors import invalid, missing_extra
from .emit.packed_file import PackReport

if TYPE_CHECKING:
    from torch import nn


def pack(
    model: nn.Module | str | PathLike[str],
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
    constants: Mapping[str, object] | None = None,
    dims: Mapping[str, int] | None = None,
    time: str | None = None,
    outputs: Sequence[str] | None = None,
) -> PackReport:
    """Write a model as a file that `Engine` runs: a torch model, or the ONNX file of that path.

    `compactrnn.lower.pack` says what the arguments mean for a torch model, which takes `example_inputs` and none of
    `constants`, `dims`, `time` and `outputs`; `compactrnn.onnx_import.pack_onnx` for an ONNX file, which needs the
    extra `onnx`, but no torch.

    >>> import tempfile, torch, compactrnn as cr
    >>> path = tempfile.mkdtemp() + "/gru.crnn"
    >>> report = pack(torch.nn.GRU(8, 16), path, torch.randn(9, 1, 8), weights="float32")
    >>> cr.Engine(path).stream().step([0.0] * 8)[0].shape
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
    )
    of_onnx = dict(constants=constants, dims=dims, time=time, outputs=outputs)
    if isinstance(model, str | PathLike):
        if example_inputs is not None:
            raise invalid("example_inputs", got="some", expected="none: an ONNX file has the shapes of its inputs")
        try:
            import onnx  # noqa: F401
        except ImportError:
            raise missing_extra("packing an ONNX file", "onnx") from None
        from .onnx_import import pack_onnx

        return pack_onnx(model, path, **common, **of_onnx)  # pyright: ignore[reportArgumentType]
    for name, value in of_onnx.items():
        if value is not None:
            raise invalid(name, got="some", expected="none: only the inputs of an ONNX file have it")
    from .lower import pack as pack_model

    return pack_model(model, path, example_inputs, **common)  # pyright: ignore[reportArgumentType]
