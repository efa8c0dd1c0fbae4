"""ONNX files on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import invalid

if TYPE_CHECKING:
    from ..runtime.audio import Audio


def pack_file(
    source: Path,
    out: Path,
    weights: str | dict[str, str],
    *,
    max_bytes: int | None,
    constants: list[str] | None,
    dims: list[str] | None,
    states: list[str] | None,
    inputs: list[str] | None,
    outputs: list[str] | None,
    tokens: list[str] | None,
    lengths: list[str] | None,
    audio: str | None,
    calibration: list[Path] | None,
    notes: bool,
) -> dict[str, Any]:
    """Pack an ONNX file; what is printed about it."""
    from ..packing import pack
    from ..runtime.wav import read_wav

    heard = _audio(audio)
    if calibration and heard is None:
        raise invalid(
            "--calibration", got="no --audio", expected="--audio, which says what a model takes of recordings"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = pack(
            source,
            out,
            weights=weights,
            max_bytes=max_bytes,
            constants=_numbers("--constant", constants),
            dims=_numbers("--dim", dims),
            states=dict(_pairs("--state", states)) if states else None,
            inputs=_shapes(inputs),
            outputs=outputs or None,
            tokens=tokens or None,
            lengths=lengths or None,
            audio=heard,
            calibration=[read_wav(path, heard.rate) for path in calibration or ()] if heard else None,
            notes=notes,
        )
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return {
        "bytes": report.bytes,
        "macs_per_step": report.macs_per_step,
        "parity": report.parity,
        "error": report.error,
        "checks": ", ".join(c.what for c in report.checks if not c.skipped) or "none",
        **({"warnings": "; ".join(said)} if said else {}),
    }


def describe_file(path: Path) -> dict[str, Any]:
    """What `info` shows of an ONNX file."""
    try:
        from ..onnx_import.describe import describe
    except ImportError as error:
        raise ModuleNotFoundError(str(error), name="onnx") from None
    return describe(path)


def _audio(text: str | None) -> Audio | None:
    """An `Audio` from its fields.

    >>> str(_audio("rate=16000,width=512,hop=128,takes=magnitude,gives=mask"))
    '16000 samples a second, frames of 512 every 128, window none: takes magnitude, gives mask'
    """
    if text is None:
        return None
    from ..runtime.audio import Audio

    given = _pairs("--audio", text.split(","))
    names = [f.name for f in fields(Audio)]
    found = {name: _number(value) if name in ("rate", "width", "hop", "least_gain") else value for name, value in given}
    if not {"rate", "width", "hop"} <= set(found) <= set(names) or len(found) < len(given):
        expected = f"rate, width and hop, once, and some of {', '.join(names[3:])}"
        raise invalid("--audio", got=repr(text), expected=expected)
    try:
        return Audio(**found)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ValueError(f"--audio: {error}") from None


def _number(text: str) -> int | float | str:
    """The number, or the text where it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _numbers(option: str, given: list[str] | None) -> Mapping[str, Any] | None:
    found = {}
    for name, value in _pairs(option, given):
        found[name] = _number(value)
        if isinstance(found[name], str):
            raise invalid(option, got=repr(f"{name}={value}"), expected="NAME=NUMBER")
    return found or None


def _shapes(given: list[str] | None) -> dict[str, list[int | str] | None] | None:
    """Names, and shapes where these are given.

    >>> _shapes(["features=1,time,64", "gain"])
    {'features': [1, 'time', 64], 'gain': None}
    """
    found: dict[str, list[int | str] | None] = {}
    for text in given or ():
        name, _, sizes = text.partition("=")
        found[name] = [int(n) if n.isdecimal() else n for n in sizes.split(",")] if sizes else None
    return found or None


def _pairs(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    pairs = [tuple(text.split("=", 1)) for text in given or ()]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise invalid(option, got=repr("=".join(pair)), expected="NAME=VALUE")
    return pairs  # pyright: ignore[reportReturnType]
