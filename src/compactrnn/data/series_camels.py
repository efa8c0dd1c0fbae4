"""Catchments of CAMELS-US: daily weather and runoff, in the archive in which they are published."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from datetime import date
from pathlib import Path

import numpy as np

from .._errors import invalid
from .._files import read_file
from .._text import shortened
from .series_table import SeriesTable

ARCHIVE = ".tar.gz"
WEATHER = ("dayl", "prcp", "srad", "swe", "tmax", "tmin", "vp")
PLACE = ("latitude", "elevation", "area")  # degrees, meters, square kilometers
LITERS = 28.316846592  # of a cubic foot
MISSING = -999.0  # cubic feet a second
_MAX_BYTES, _MAX_FILE = 1 << 28, 1 << 26
_FORCING = re.compile(r"basin_mean_forcing/.*?(\d{8})_lump[^/]*\.txt$")
_FLOW = re.compile(r"usgs_streamflow/.*?(\d{8})_streamflow[^/]*\.txt$")


def read_camels(path: str | Path) -> SeriesTable:
    """Read a .tar.gz archive with the folders `basin_mean_forcing` and `usgs_streamflow` of CAMELS-US.

    A sequence a basin, in the order of their numbers, of the days of which there are weather and runoff. Columns:
    `date`; the weather of the day `dayl` (seconds of light), `prcp` (mm), `srad` (W/m2), `swe` (mm of snow water),
    `tmax`, `tmin` (degrees Celsius), `vp` (Pa); `latitude`, `elevation` (m) and `area` (km2), which do not change; and
    `runoff`, the flow of the river over the area in mm a day, NaN where it was not measured. `basin` is an attribute.

        runoff = 28.316846592 * 86400 * cubic feet per second / area in square meters

    Newman et al.: Development of a large-sample watershed-scale hydrometeorological data set, 2015; Addor et al.: The
    CAMELS data set, 2017.

    Raises:
        ValueError: the file is damaged, holds no basin, or a line is not as published; says where.
    """
    weather, flow = {}, {}
    for name, text in _texts(path):
        for pattern, read, found in ((_FORCING, _forcing, weather), (_FLOW, _flow, flow)):
            if match := pattern.search(name):
                found[match[1]] = read(f"{path}: {name}", text.splitlines())
    basins = sorted(weather.keys() & flow.keys())
    if not basins:
        got = f"{len(weather)} basins with weather, {len(flow)} with streamflow"
        raise invalid(f"{path}", got=got, expected="files of the same basins in CAMELS-US's folders")
    days, rows, lengths = [], [], []
    for basin in basins:
        place, weather_of = weather[basin]
        common = sorted(weather_of.keys() & flow[basin].keys())
        if not common:
            raise invalid(f"{path}: basin {basin}", got="no day with weather and streamflow", expected="some")
        per_unit = LITERS * 86400 / (place[2] * 1e6)
        days += [day.isoformat() for day in common]
        rows += [[*weather_of[day], *place, flow[basin][day] * per_unit] for day in common]
        lengths.append(len(common))
    values = np.array(rows)
    columns = {"date": days, **dict(zip((*WEATHER, *PLACE, "runoff"), values.T, strict=True))}
    return SeriesTable(str(path), columns, {"basin": basins}, len(days), np.cumsum([0, *lengths]))


def _texts(path: str | Path) -> list[tuple[str, str]]:
    """Name and content of the text files of an archive."""
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(read_file(path, "archive", _MAX_BYTES)), mode="r:gz") as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(".txt"):
                    continue
                if member.size > _MAX_FILE:
                    raise ValueError(f"{member.name} has {member.size:,} bytes, more than {_MAX_FILE:,}")
                content = archive.extractfile(member)
                assert content is not None
                found.append((member.name, content.read().decode("ascii", "replace")))
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        got = f"{path} ({getattr(error, 'strerror', None) or error})"
        raise invalid("archive", got=got, expected="a .tar.gz file of CAMELS-US") from error
    return found


def _forcing(where: str, lines: list[str]) -> tuple[tuple[float, ...], dict[date, tuple[float, ...]]]:
    """Latitude, elevation and area, and the weather of each day."""
    found, place = {}, []
    for number, line in enumerate(lines[:3], 1):
        place.append(_numbers(where, number, line.split(), 1)[0])
    if len(place) < 3 or place[2] <= 0:
        raise invalid(where, got=f"{place}", expected="latitude, elevation and area in the first three lines")
    for number, line in enumerate(lines[4:], 5):
        if fields := line.split():
            day, values = _day(where, number, fields[:3]), _numbers(where, number, fields[4:], len(WEATHER))
            found[day] = tuple(values)
    return (place[0], place[1], place[2] / 1e6), found


def _flow(where: str, lines: list[str]) -> dict[date, float]:
    """Cubic feet a second of each day; NaN where they were not measured."""
    found = {}
    for number, line in enumerate(lines, 1):
        if fields := line.split():
            (value,) = _numbers(where, number, fields[4:5], 1)
            found[_day(where, number, fields[1:4])] = np.nan if value == MISSING else value
    return found


def _day(where: str, number: int, fields: list[str]) -> date:
    try:
        year, month, day = map(int, fields)
        return date(year, month, day)
    except (ValueError, OverflowError):
        got = shortened(" ".join(fields))
        raise invalid(f"{where}, line {number}", got=got, expected="year, month and day") from None


def _numbers(where: str, number: int, fields: list[str], count: int) -> list[float]:
    try:
        found = [float(field) for field in fields]
    except ValueError:
        found = []
    if len(found) != count or not np.isfinite(found).all():
        got = shortened(" ".join(fields))
        raise invalid(f"{where}, line {number}", got=got, expected=f"{count} finite numbers")
    return found
