"""`compactrnn pack`."""

from pathlib import Path
from typing import Annotated

import typer

from .._errors import invalid
from .._files import check_writable
from .onnx_file import pack_file
from .output import JsonFlag, print_json, print_record


def pack(
    run: Annotated[Path, typer.Argument(help="A run folder that train wrote, or an ONNX file.")],
    out: Annotated[Path, typer.Argument(help="The file to write, such as model.crnn.")],
    weights: Annotated[
        str, typer.Option(help="How numbers are stored: float32, int8, int4 or auto, or by name: int8,head=float32.")
    ] = "int8",
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Write no larger file; with --weights auto, int4 where that costs least.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="Of an ONNX file: bind an input to a number, such as sr=16000.")
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="Of an ONNX file: the size of an axis that it leaves open, such as frame=512."),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Of an ONNX file: a state and its new value, such as h=h_new; if any, all.")
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(help="Of an ONNX file: a value within its graph that becomes an input, such as features."),
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option(help="Of an ONNX file: an output, or a value within its graph; all by default.")
    ] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="Of an ONNX file: an input that is a token id, though a float.")
    ] = None,
    length: Annotated[
        list[str] | None, typer.Option(help="Of an ONNX file: an input that is the number of steps of a sequence.")
    ] = None,
    audio: Annotated[
        str | None, typer.Option(help="Of an ONNX file: how it takes and gives audio, see above.", show_default=False)
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.wav", help="With --audio: a recording to measure the error on and to choose by."),
    ] = None,
    notes: Annotated[
        bool, typer.Option(help="Store what info shows: names of weights, checks; half a kilobyte.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Pack a trained model into one file for the native engine.

    The program is checked against torch first; other than float32, the error is measured on validation data. With auto
    a matrix is int8, or int4 where that makes the model fit a cache, or keeps it within --max-bytes; info shows names,
    and which is which.

    --audio says how an ONNX file takes and gives audio, so that `compactrnn run` writes what it makes of a recording:
    rate, width and hop of its frames in samples; window: none, hann, sqrt-hann, sqrt-hann-symmetric; takes: samples,
    spectrum, magnitude, log-power; gives: samples, spectrum, mask; least_gain of a mask.

    Examples:

        compactrnn pack runs/tiny tiny.crnn --weights int8
        compactrnn pack runs/tiny tiny.crnn --weights auto --max-bytes 60000
        compactrnn pack silero_vad.onnx vad.crnn --constant sr=16000
        compactrnn pack enhancer.onnx mask.crnn --input features --output mask
        compactrnn pack gtcrn_stream.onnx gtcrn.crnn --calibration noisy.wav \
            --audio rate=16000,width=512,hop=256,window=sqrt-hann,takes=spectrum,gives=spectrum
    """
    types = _weight_types(weights)
    check_writable(out, "model file")
    if run.suffix.lower() == ".onnx":
        options = dict(max_bytes=max_bytes, constants=constant, dims=dim, states=state, inputs=input, outputs=output)
        options |= dict(tokens=token, lengths=length, audio=audio, calibration=calibration, notes=notes)
        record = pack_file(run, out, types, **options)  # pyright: ignore[reportArgumentType]
    elif not run.is_dir():
        raise invalid("model", got=str(run), expected="a run folder that train wrote, or an .onnx file")
    elif constant or dim or state or input or output or token or length or audio or calibration:
        options = "--constant, --dim, --state, --input, --output, --token, --length, --audio and --calibration"
        raise invalid("model", got=str(run), expected=f"an .onnx file: {options} are for these")
    else:
        from ..training.pack_run import pack_run

        if out.exists() and out.suffix != ".crnn" and out.resolve().parent == run.resolve():
            raise invalid("model file", got=f"{out}, a file of the run", expected="another file")
        record = pack_run(run, out, types, max_bytes, notes)
    if json:
        print_json(record)
    else:
        print_record(str(out), record)


def _weight_types(text: str) -> str | dict[str, str]:
    """`int8`, or `int8,head=float32` as a dict of types by name, checked.

    >>> _weight_types("int8,head=float32")
    {'*': 'int8', 'head': 'float32'}
    """
    from ..runtime.storage import WeightTypes

    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    types = {name or "*": kind for name, kind in pairs}
    if len(types) < len(pairs):
        raise invalid("--weights", got=repr(text), expected="each name once, and one type for all others")
    WeightTypes.of(types)
    return types["*"] if list(types) == ["*"] else types
