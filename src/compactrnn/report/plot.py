"""Quality against size, as one SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One model: what it is called, how big, how good."""

    name: str
    size: float
    quality: float


def quality_plot(points: Sequence[Point], *, size_label: str, quality_label: str) -> str:
    """The text of an SVG: size on a logarithmic axis, quality upwards from better to worse.

    >>> quality_plot([Point("dense", 4e6, 82.7)], size_label="bytes", quality_label="perplexity")[:5]
    '<?xml'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for point in points:
        axes.scatter(point.size, point.quality, s=60, zorder=3)
        axes.annotate(point.name, (point.size, point.quality), xytext=(7, 5), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(0.2)
    axes.set_xlabel(f"{size_label} (log scale)")
    axes.set_ylabel(f"{quality_label} (lower is better)")
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def curves_plot(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> str:
    """The text of an SVG with one line per name: `{name: (x, y)}`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker=".", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
