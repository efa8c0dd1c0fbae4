"""The pruner of a phase, as a recipe describes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .._bounds import Count, CountFrom0, Flag, Positive, PositiveOrZero, Share, ShareAbove0, ShareBelow1, Word

_SIZES = ("keep", "macs", "bytes", "strength")
_KNOWN = {
    "group_lasso": ("keep", "steps", "strength", "loss_steps", "threshold", "decay", "minimum", "embeddings"),
    "neuron_selection": ("keep", "macs", "bytes", "steps", "strength", "embeddings"),
    "magnitude": ("keep", "block", "steps", "start", "interval", "schedule", "ramp", "slope"),
    "doping": ("steps", "dropout", "interval"),
    "quantize": ("weights", "start"),
    "delta": ("keep", "threshold", "steps", "interval"),
}


@dataclass(frozen=True)
class CompressOptions:
    """Arguments of `GroupLasso`, `NeuronSelection`, `Magnitude`, `Doping`, `Quantize` or `Delta` in a phase.

    The first three take the fraction `keep`, of the units or of the entries of each row, in `steps` updates; for the
    first it may be a table of fractions by name of the layer, `{ "recurrent[0]" = 0.25 }`. The first two may have a
    `strength` instead, the second `macs` or `bytes`, and columns of embeddings are units for them with `embeddings =
    true`. The third prunes blocks if `block` = (rows, columns) is given, and with `schedule` = "threshold" by a
    `ThresholdRamp` of the weights that the phase begins with. `Doping` finds the entries of the model's `Doped` and
    `Sparse` weights in `steps` updates, in a phase with `[factorize]` from the trained matrices on. With `Quantize` the
    model learns from update `start` on with `weights` of a type, or of types by name. `Delta` keeps the share `keep` of
    the products of recurrent layers, or has one `threshold`, after `steps` updates.
    """

    method: Literal["group_lasso", "neuron_selection", "magnitude", "doping", "quantize", "delta"] = "group_lasso"
    keep: ShareAbove0 | dict[str, ShareAbove0] | None = None
    macs: Count | None = None
    bytes: Count | None = None
    block: tuple[Count, Count] | None = None
    steps: Count | None = None
    start: CountFrom0 | None = None
    interval: Count | None = None
    schedule: Literal["cubic", "threshold"] | None = None
    ramp: Count | None = None
    slope: Positive | None = None
    strength: PositiveOrZero | None = None
    loss_steps: Count | None = None
    threshold: PositiveOrZero | None = None
    decay: ShareBelow1 | None = None
    minimum: Count | None = None
    dropout: Share | None = None
    embeddings: Flag | None = None
    weights: Word | dict[str, Word] | None = None

    def __post_init__(self):
        given, known = self.arguments(), _KNOWN[self.method]
        for name in given:
            if name not in known:
                raise ValueError(f"{name}: expected none with method = {self.method!r}, got {given[name]}")
        if isinstance(self.keep, dict) and self.method != "group_lasso":
            raise ValueError(f"keep: expected one fraction with method = {self.method!r}, got {self.keep}")
        if self.method == "quantize":
            if self.weights is None:
                raise ValueError('give weights: "int8" or "int4", or types by name')
            return
        if self.method == "delta":
            if (self.keep is None) == (self.threshold is None):
                raise ValueError("give keep, the share of the products, or threshold")
            return
        if self.schedule != "threshold" and (self.ramp or self.slope):
            raise ValueError('give ramp and slope with schedule = "threshold"')
        sizes = [name for name in _SIZES if name in known]
        chosen = [name for name in sizes if name in given]
        if (bool(sizes) and len(chosen) != 1) or ("steps" in given) == ("strength" in given):
            scheduled = " or ".join(name for name in sizes if name != "strength")
            text = f"give {scheduled} and steps" if scheduled else "give steps"
            raise ValueError(text + (", or strength" if "strength" in known else ""))

    @property
    def last(self) -> int:
        """The update that the schedule ends with; 0 without one."""
        return (self.start or 0) + (self.steps or 0)

    def arguments(self) -> dict[str, Any]:
        """What is given."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "method"}
