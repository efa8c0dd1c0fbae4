"""ONNX files on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import invalid


def pack_file(
    source: Path,
    out: Path,
    weights: str | dict[str, str],
    max_bytes: int | None,
    constants: list[str] | None,
    dims: list[str] | None,
    states: list[str] | None,
    inputs: list[str] | None,
    outputs: list[str] | None,
    tokens: list[str] | None,
    notes: bool,
) -> dict[str, Any]:
    """Pack an ONNX file; what is printed about it."""
    from ..packing import pack

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


def _numbers(option: str, given: list[str] | None) -> Mapping[str, Any] | None:
    found = {}
    for name, value in _pairs(option, given):
        try:
            found[name] = int(value)
        except ValueError:
            try:
                found[name] = float(value)
            except ValueError:
                raise invalid(option, got=repr(f"{name}={value}"), expected="NAME=NUMBER") from None
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
