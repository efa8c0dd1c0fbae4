"""Files of the time series classification archives (UEA and UCR, sktime, aeon), a sequence a line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._text import shortened
from .series_table import MISSING, SeriesTable
from .text import read_text

LABEL = "label"
_FLAGS = ("timestamps", "univariate", "equallength", "missing")


def read_ts(path: str | Path) -> SeriesTable:
    """Read a .ts or .ts.gz file.

    Lines with @ describe the data; after @data each line is a sequence: the values of each channel with commas, the
    channels, and the label if there is one, with colons between them; `?` and NaN are missing. The channels are called
    x1, x2, ..., the label `label`.

    Raises:
        ValueError: the file is damaged, a class is not among those it names, or its values have time stamps.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.ts"
    >>> _ = path.write_text("@univariate false\\n@classLabel true a b\\n@data\\n1,2,3:4,?,6:a\\n7:8:b\\n")
    >>> table = read_ts(path)
    >>> table.offsets.tolist(), table.numbers("x2").tolist(), table.texts("label")
    ([0, 3, 4], [4.0, nan, 6.0, 8.0], ['a', 'b'])

    Bagnall and others: The UEA multivariate time series classification archive, 2018.
    """
    header: dict[str, list[str]] = {}
    sequences: list[np.ndarray] = []
    labels: list[str] = []
    lines: list[int] = []
    classes: set[str] | None = None
    labeled = data = False
    for number, text in enumerate(read_text(path).split("\n"), 1):
        line, where = text.strip(), f"{path}, line {number}"
        if not line or line[0] in "#%":
            continue
        if not data:
            data = line.lower() == "@data"
            if not data:
                _describe(header, line, where)
            else:
                labeled, classes = _labels(header, path)
            continue
        fields = line.split(":")
        if labeled:
            labels.append(fields.pop().strip())
            if classes is not None and labels[-1] not in classes:
                got, expected = shortened(labels[-1]), f"one of the {len(classes)} classes of @classLabel"
                raise invalid(f"{where}, {LABEL}", got=got, expected=expected)
        sequences.append(_values(fields, where))
        lines.append(number)
        if len(sequences[-1]) != len(sequences[0]):
            got, expected = f"{len(sequences[-1])} channels", f"{len(sequences[0])} as in line {lines[0]}"
            raise invalid(where, got=got, expected=expected)
    if not sequences:
        raise invalid(str(path), got="no sequence" if data else "no @data", expected="sequences after @data")
    values = np.concatenate(sequences, axis=1)
    offsets = np.cumsum([0, *(sequence.shape[1] for sequence in sequences)])
    columns = {f"x{number}": channel for number, channel in enumerate(values, 1)}
    attributes = {LABEL: labels} if labeled else {}
    return SeriesTable(str(path), columns, attributes, values.shape[1], offsets, np.array(lines, np.int64))


def _describe(header: dict[str, list[str]], line: str, where: str) -> None:
    if not line.startswith("@"):
        raise invalid(where, got=shortened(line), expected="@data before the first sequence")
    name, *values = line[1:].split()
    header[name.lower()] = values
    if name.lower() in _FLAGS and [value.lower() for value in values] not in (["true"], ["false"]):
        raise invalid(where, got=shortened(line), expected=f"@{name} true or false")
    if name.lower() == "timestamps" and values[0].lower() == "true":
        raise invalid(where, got="values with time stamps", expected="@timeStamps false, and values alone")


def _labels(header: dict[str, list[str]], path: str | Path) -> tuple[bool, set[str] | None]:
    """Whether each line ends with a label, and the classes that it may be of."""
    for name in ("classlabel", "targetlabel"):
        values = header.get(name, [])
        if values and values[0].lower() == "true":
            if name == "classlabel" and len(values) < 2:
                raise invalid(f"{path}, @classLabel", got="no class", expected="the classes after true")
            return True, set(values[1:]) if name == "classlabel" else None
    return False, None


def _values(channels: list[str], where: str) -> np.ndarray:
    """(channels, steps) of a line."""
    found = []
    for number, channel in enumerate(channels, 1):
        values = []
        for position, entry in enumerate(channel.split(","), 1):
            entry = entry.strip()
            try:
                value = math.nan if entry in MISSING and entry else float(entry)
            except ValueError:
                place = f"{where}, x{number}, step {position}"
                raise invalid(place, got=shortened(entry), expected="a number, or ? for a missing value") from None
            values.append(value)
        found.append(values)
    lengths = [len(values) for values in found]
    if not lengths or len(set(lengths)) > 1:
        got = f"channels of {min(lengths, default=0)} to {max(lengths, default=0)} steps"
        raise invalid(where, got=got, expected="channels of equal length in a sequence")
    return np.array(found, np.float64)
