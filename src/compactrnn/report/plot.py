"""Plots as SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._text import printable

NARROW = 4.4  # inches, at which letters of 9 points can be read on a screen of 360 pixels
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito, 2008
DASHES = ("-", "--", "-.", ":")
LABELED = 8  # points that are still labeled by their names
ROW = 0.175  # inches, of a name beside a plot


@dataclass(frozen=True)
class Point:
    """One model in a plot: label, size, quality."""

    name: str
    size: float
    quality: float


def quality_plot(points: Sequence[Point], *, size_label: str, quality_label: str, width: float = 6) -> str:
    """SVG of quality against size (logarithmic); many models have numbers, and their names stand beside the plot.

    It is `width` inches wide, wider with many models.

    Quality has a logarithmic axis, too, where it covers more than a factor of four.

    >>> quality_plot([Point("dense", 4e6, 82.7)], size_label="bytes", quality_label="perplexity")[:5]
    '<?xml'
    """
    from matplotlib.figure import Figure

    crowded = len(points) > LABELED
    height = max(4, 0.3 + ROW * len(points)) if crowded else 4
    figure = Figure(figsize=(8.5 if crowded else width, height), layout="constrained")
    axes = figure.subplots()
    for number, point in enumerate(points, 1):
        name = plain(point.name)
        axes.scatter(
            point.size, point.quality, s=60, color=f"C{(number - 1) % 10}", zorder=3, label=f"{number}  {name}"
        )
        label = str(number) if crowded else name
        axes.annotate(label, (point.size, point.quality), xytext=(7, 5), textcoords="offset points")
    if 0 < 4 * min(point.quality for point in points) < max(point.quality for point in points):
        axes.set_yscale("log")
        _sparse_labels(axes.yaxis)
    axes.margins(0.2)
    _name_axes(axes, size_label, quality_label)
    if crowded:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return svg(figure)


def frontier_plot(points: Sequence[Point], front: Sequence[Point], *, size_label: str, quality_label: str) -> str:
    """SVG of quality against size (logarithmic) of many models; those of the Pareto `front` are joined and named.

    Quality has a logarithmic axis, too, where it covers more than a power of ten.

    >>> best, other = Point("a", 900, 2.0), Point("b", 900, 3.0)
    >>> frontier_plot([best, other], [best], size_label="parameters", quality_label="error")[:5]
    '<?xml'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.subplots()
    others = [point for point in points if point not in front]
    axes.scatter([point.size for point in others], [point.quality for point in others], color="0.7")
    axes.plot([point.size for point in front], [point.quality for point in front], color="C0")
    for number, point in enumerate(front, 1):
        axes.scatter(point.size, point.quality, color="C0", zorder=3, label=f"{number}  {plain(point.name)}")
        axes.annotate(str(number), (point.size, point.quality), xytext=(5, 5), textcoords="offset points")
    if 0 < 10 * min(point.quality for point in points) < max(point.quality for point in points):
        axes.set_yscale("log")
        _sparse_labels(axes.yaxis)
    axes.margins(0.1)
    _name_axes(axes, size_label, quality_label)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, markerscale=0)
    return svg(figure)


def curves_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    width: float = 6,
) -> str:
    """The text of an SVG with one line per name: `{name: (x, y)}`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker=".", label=plain(name))
    if log_y:
        axes.set_yscale("log")
        _sparse_labels(axes.yaxis)
    axes.set_xlabel(plain(x_label))
    axes.set_ylabel(f"{plain(y_label)} (log scale)" if log_y else plain(y_label))
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    columns = 2 if width >= 6 else 1
    # no place within is sure to be free
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
    return svg(figure)


@contextmanager
def distinct_colors() -> Iterator[None]:
    """Within it, names and lines get colors, and dashes, that the color-blind can tell apart."""
    from cycler import cycler
    from matplotlib import rc_context

    dashes = [DASHES[i % len(DASHES)] for i in range(len(COLORS))]
    with rc_context({"axes.prop_cycle": cycler(color=COLORS, linestyle=dashes)}):
        yield


def roofline_plot(ceiling: Mapping[float, float], points: Mapping[str, Sequence[Point]]) -> str:
    """The text of an SVG: bytes of a working set against bytes a second, the ceiling as a line, groups of points.

    A point's `size` is the bytes it reads, its `quality` the bytes a second.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(ceiling), [rate / 1e9 for rate in ceiling.values()], color="0.4", label="plain read", zorder=1)
    names = list(dict.fromkeys(point.name for group in points.values() for point in group))
    for marker, (name, group) in zip("os^vDx", points.items(), strict=False):
        axes.scatter([], [], marker=marker, color="0.4", label=plain(name))
        for point in group:
            color = f"C{names.index(point.name)}"
            axes.scatter(point.size, point.quality / 1e9, marker=marker, color=color, zorder=3)
    for number, name in enumerate(names):
        axes.scatter([], [], marker="s", color=f"C{number}", label=plain(name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bytes that a step reads (log scale)")
    axes.set_ylabel("gigabytes a second (log scale)")
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return svg(figure)


def bars_plot(groups: Mapping[str, Mapping[str, float]], *, x_label: str) -> str:
    """The text of an SVG: for each group a bar for each name, on a logarithmic axis; names keep their color."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    count = sum(len(group) + 1 for group in groups.values())
    figure = Figure(figsize=(7.5, 0.6 + 0.16 * count), layout="constrained")
    axes = figure.subplots()
    ticks, place = [], 0.0
    for group in groups.values():
        first = place
        for name, value in group.items():
            label = None if plain(name) in axes.get_legend_handles_labels()[1] else plain(name)
            axes.barh(place, value, height=0.9, color=f"C{names.index(name)}", label=label)
            place += 1
        ticks.append((first + place - 1) / 2)
        place += 1
    axes.set_yticks(ticks, [plain(group) for group in groups])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"{x_label} (log scale)")
    axes.grid(True, axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False, fontsize=8)
    return svg(figure)


def plain(text: str) -> str:
    """A name as it is: matplotlib takes `$` for mathematics and leaves labels that begin with `_` out of legends."""
    text = printable(text).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _name_axes(axes: Any, size_label: str, quality_label: str) -> None:
    """Of quality against size, which is logarithmic."""
    axes.set_xscale("log")
    _sparse_labels(axes.xaxis)
    axes.set_xlabel(f"{plain(size_label)} (log scale)")
    axes.set_ylabel(f"{plain(quality_label)} (lower is better)")
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _sparse_labels(axis: Any) -> None:
    """Label 1, 2 and 5 times the powers of ten on a logarithmic axis."""
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(lambda value, _: f"{value:,.10g}" if f"{value:.0e}"[0] in "25" else "")


def svg(figure: Any) -> str:
    """The same text for the same figure, whenever it is drawn."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.hashsalt": "compactrnn"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a name in a script that its font lacks
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
