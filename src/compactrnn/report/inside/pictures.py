"""Pictures of what was seen of a layer: narrow, to be read on a phone, and in colors that everyone can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..plot import COLORS, DASHES, NARROW, ROW, plain, svg
from .view import HIGH, LOW, LayerView

LONGEST, ROOM = 48, 60  # letters of a name, and of a line of names
LABELED = 40  # steps that still have room for what is read at each
MARKERS = "o^sDvPX"


def states_picture(values: np.ndarray, labels: Sequence[str] = ()) -> str:
    """SVG of each number of a state (row) at each step (column), (T, n)."""
    steps, units = values.shape
    figure, axes = _new(min(4.5, 1.5 + 0.03 * units))
    finite = np.abs(values[np.isfinite(values)])
    size = float(finite.max(initial=0.0)) or 1.0
    image = axes.imshow(
        values.T, aspect="auto", cmap="cividis", vmin=-size, vmax=size, interpolation="nearest",
        extent=(0.5, steps + 0.5, units + 0.5, 0.5),
    )  # fmt: skip
    figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    if labels and steps <= LABELED:
        axes.set_xticks(range(1, steps + 1), [_symbol(label) for label in labels])
        upright = 90 if max(map(len, labels)) > 1 else 0  # words
        axes.tick_params(axis="x", labelsize=7, length=0, rotation=upright)
    _whole_numbers(axes.yaxis)
    _label(axes, "what is read" if labels and steps <= LABELED else "step", "unit")
    return svg(figure)


def saturation_picture(view: LayerView) -> str:
    """SVG of a dot for each unit of each gate: how often it is below 0.1 and above 0.9."""
    figure, axes = _new(3.6)
    axes.plot([0, 1], [1, 0], color="0.8", zorder=0)  # always saturated
    for name, color, marker in zip(view.gates, _colors(view.gates), _cycle(MARKERS, view.gates), strict=True):
        left, right = view.saturation(name)
        axes.scatter(left, right, s=22, color=color, marker=marker, alpha=0.6, linewidths=0, label=plain(name))
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    _label(axes, f"share of steps below {LOW}", f"share of steps above {HIGH}")
    _legend(figure)
    return svg(figure)


def saturation_over_time_picture(view: LayerView) -> str:
    """SVG of the share of the units of each gate that are above 0.9 (upward) and below 0.1 (downward) at each step."""
    figure, axes = _new(3.2)
    for name, color, dash in zip(view.gates, _colors(view.gates), _cycle(DASHES, view.gates), strict=True):
        values = view.gates[name]
        steps = range(1, len(values) + 1)
        axes.plot(steps, (values > HIGH).mean(1), color=color, linestyle=dash, linewidth=1.2, label=plain(name))
        axes.plot(steps, -(values < LOW).mean(1), color=color, linestyle=dash, linewidth=1.2)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(-1.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    _label(axes, "step", f"below {LOW}    share of units    above {HIGH}")
    _whole_numbers(axes.xaxis)
    _legend(figure)
    return svg(figure)


def memory_picture(view: LayerView) -> str:
    """SVG of how like each state is to itself k steps later."""
    figure, axes = _new(3.2)
    for name, color, dash in zip(view.states, _colors(view.states), _cycle(DASHES, view.states), strict=True):
        axes.plot(view.memory(name), color=color, linestyle=dash, label=plain(name))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    _label(axes, "lag in steps", "autocorrelation")
    _whole_numbers(axes.xaxis)
    _legend(figure)
    return svg(figure)


def gradient_picture(views: Sequence[LayerView]) -> str:
    """SVG of the norm of the gradient against the lag, on a logarithmic axis, a line for each layer."""
    figure, axes = _new(3.2)
    for view, color, dash in zip(views, _colors(views), _cycle(DASHES, views), strict=True):
        norms = np.where(view.gradient > 0, view.gradient, np.nan)
        axes.plot(range(1, len(norms) + 1), norms, color=color, linestyle=dash, label=plain(view.name))
    if any((view.gradient > 0).any() for view in views):
        axes.set_yscale("log")
    _label(axes, "lag in steps", "norm of the gradient (log scale)")
    _whole_numbers(axes.xaxis)
    _legend(figure)
    return svg(figure)


def spectrum_picture(view: LayerView) -> str:
    """SVG of the eigenvalues of each recurrent matrix and of the whole step, with the unit circle."""
    figure, axes = _new(4.2)
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.6", linewidth=1)
    for name, color, marker in zip(view.matrices, _colors(view.matrices), _cycle(MARKERS, view.matrices), strict=True):
        _dots(axes, view.matrices[name], s=16, color=color, marker=marker, alpha=0.6, linewidths=0, label=plain(name))
    if view.step is not None:
        _dots(axes, view.step, s=26, color="black", marker="+", linewidths=0.9, label="whole step")
    axes.set_aspect("equal", adjustable="datalim")
    _label(axes, "real part", "imaginary part")
    _legend(figure)
    return svg(figure)


def _dots(axes: Any, values: np.ndarray, **options: Any) -> None:
    axes.scatter(np.real(values), np.imag(values), **options)


def _new(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW, height), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _legend(figure: Any) -> None:
    """Names above the plot, which stays as high as it is; of a long one its end."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    labels = [label if len(label) <= LONGEST else f"\u2026{label[1 - LONGEST :]}" for label in labels]
    columns = max(1, min(3, ROOM // (6 + max(map(len, labels)))))
    figure.set_figheight(figure.get_figheight() + ROW * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=True))


def _cycle(of: Sequence[str], things: Any) -> list[str]:
    return [of[i % len(of)] for i in range(len(things))]


def _colors(things: Any) -> list[str]:
    return _cycle(COLORS, things)


def _symbol(label: str) -> str:
    return {" ": "\u2423", "\n": "\u21b5"}.get(label, plain(label))
