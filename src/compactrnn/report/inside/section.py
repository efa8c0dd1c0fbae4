"""The part of a report that shows the inside of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...training.run_folder import RunFolder
from ..markup import figure, shown, table
from .pictures import (
    gradient_picture,
    memory_picture,
    saturation_over_time_picture,
    saturation_picture,
    spectrum_picture,
    states_picture,
)
from .see import see_inside
from .view import HIGH, LOW, LayerView

PART = "test"
MOST_STEPS = 5000


@dataclass(frozen=True)
class Choice:
    """The example that is looked at: sequence `number` of the test part, from 1, or a `text` for a language model."""

    number: int = 1
    text: str | None = None


def inside_section(run: Path, choice: Choice) -> list[str]:
    """HTML of the layers of a run's model on the chosen example.

    Raises:
        ValueError: there is no such example, or its task reads no text.
    """
    model, task, _ = RunFolder(run).load()
    inputs = task.example(PART, choice.number) if choice.text is None else task.text_inputs(choice.text)
    steps = inputs[0].shape[1]
    inputs = tuple(x[:, :MOST_STEPS] for x in inputs)
    labels = task.step_labels(inputs)
    views = see_inside(model, inputs)
    what = f"example {choice.number} of the {PART} part" if choice.text is None else "the given text"
    cut = "" if steps <= MOST_STEPS else f", the first {MOST_STEPS:,} of which are read"
    parts = [f"<h3>Inside, on {what}</h3>", f"<p>{shown(f'{steps:,} steps{cut}.')}</p>"]
    if labels:
        text = (" " if max(map(len, labels)) > 1 else "").join(labels)
        parts.append("<pre>" + "\n".join(shown(line) for line in text.split("\n")) + "</pre>")
    parts.append(_overview(views))
    described = "Norm of the gradient against the lag, falling or not, for each layer"
    caption = (
        "Derivative of the largest output at the last step by the states that enter the step so many steps before the"
        " end. What falls steeply is forgotten, or was never needed."
    )
    parts.append(figure(gradient_picture(views), described, caption))
    for view in views:
        parts += _layer(view, labels)
    return parts


def _overview(views: tuple[LayerView, ...]) -> str:
    header = ("layer", "cell", "gates below 0.1", "above 0.9", "memory", "gradient", "largest eigenvalue")
    rows = []
    for view in views:
        left, right = (
            f"{100 * np.mean([side.mean() for side in sides]):.0f} %" if view.gates else "-"
            for sides in (tuple(zip(*(view.saturation(gate) for gate in view.gates), strict=True)) or ((), ()))
        )
        radius = "-" if view.step is None else f"{abs(view.step[0]):.3f}"
        rows.append((view.name, view.cell, left, right, _memory_lag(view), _gradient_lag(view), radius))
    note = (
        "Memory: the first lag at which the autocorrelation of the slowest state is below 1/e. Gradient: the first lag"
        " at which its norm is below a hundredth of the largest. Eigenvalue: of the whole step, its absolute value."
    )
    return table(header, rows) + f"<p><small>{note}</small></p>"


def _memory_lag(view: LayerView) -> str:
    lags = []
    for name, values in view.states.items():
        below = np.flatnonzero(view.memory(name) < np.exp(-1))
        if len(below):
            lags.append((int(below[0]), f"{below[0]}"))
        elif np.isfinite(view.memory(name)).all():
            lags.append((len(values), f"> {len(values) - 1}"))
    return max(lags)[1] if lags else "-"


def _gradient_lag(view: LayerView) -> str:
    norms = view.gradient
    if not norms.max(initial=0.0) > 0:
        return "-"
    above = np.flatnonzero(norms >= 0.01 * norms.max())
    return f"{above[-1] + 2}" if above[-1] + 1 < len(norms) else f"> {len(norms)}"


def _layer(view: LayerView, labels: tuple[str, ...]) -> list[str]:
    parts = [f"<h4>{shown(view.name)}: {shown(view.cell)}</h4>", "<div class='row'>"]
    for name, values in view.states.items():
        described = f"Heat map of state {name}: {values.shape[1]} units over {len(values)} steps"
        caption = f"State {name} of each unit over time; blue is negative, yellow positive, gray near 0."
        parts.append(figure(states_picture(values, labels), described, caption))
    if view.gates:
        described = f"Saturation of the gates {', '.join(view.gates)} of each unit"
        caption = (
            f"Each dot is a unit of a gate. At the lower right it is always closed (below {LOW}), at the upper left"
            f" always open (above {HIGH}), at the lower left it never saturates."
        )
        parts.append(figure(saturation_picture(view), described, caption))
        described = f"Share of saturated units over time of the gates {', '.join(view.gates)}"
        caption = "How many units of a gate are open (upward) and closed (downward) at each step."
        parts.append(figure(saturation_over_time_picture(view), described, caption))
    if view.states:
        caption = "Memory over time: how like a state is to itself so many steps later (1: the same)."
        parts.append(figure(memory_picture(view), "Autocorrelation of each state by lag", caption))
    if view.matrices or view.step is not None:
        caption = (
            "Eigenvalues of the recurrent matrices and of a whole step in the middle of the example; the circle has"
            " radius 1: outside things grow, inside they fade, beside the right end they stay."
        )
        parts.append(figure(spectrum_picture(view), "Eigenvalues in the complex plane", caption))
    return [*parts, "</div>"]
