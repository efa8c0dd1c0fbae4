"""Neuron selection: learn by gates which hidden units a recurrent network needs, down to a size that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .._errors import check_positive, invalid
from .l0_selection import L0Selection
from .pruner import Pruner
from .sizes import counts
from .wrappers import unwrap


class NeuronSelection(Pruner):
    """Gives every hidden unit a trained gate, and cuts out the units whose gate is zero in the end.

    The gate of unit k multiplies the unit wherever it is read; it is a hard concrete number, see `HardConcrete`, one
    sample for each step of the optimizer. The expected L0 norm of the matrices is bilinear in the chances `p` that
    gates are not zero, as entry (i, j) of a matrix is needed only while both of its units are:

        E |W|_0 = sum_ij p_i q_j,    E |U|_0 = sum_i p_i + sum_{i != j} p_i p_j    for each gate of the cell

    so that a unit costs what it is connected to: larger layers are cut more than smaller ones that matter as much.

    - `keep`, `macs`, `bytes` (one of them) with `steps`: the size that is left after so many calls of `step`, of all
      layers together. How it is divided among the layers is learned. The pruner moves the gates itself: no strength is
      to be found, and the optimizer need not know them. The size stays for the first tenth of the schedule, is reached
      after seven tenths, and the units that stay are fixed at its end; train on then.
    - `strength`: `penalty()` is `strength * E[MACs] / MACs`, as published. Make the optimizer after the pruner, with
      the gates' parameters, which are parameters of the model.

    Gates between zero and one are multiplied into the weights by `shrink()`. What `GroupLasso` says about models,
    frozen parameters and wrappers holds here, too.

    Args:
        model: any module with recurrent layers inside; it gets gates as parametrizations.
        example_inputs: what the model is called with: a tensor, a tuple of arguments, or a dict of keyword arguments.
        keep: fraction of the units of all layers together, in (0, 1].
        macs: multiply-accumulates of the recurrent layers for a step.
        bytes: of all parameters of the model, four for each.
        steps: length of the schedule in steps of the optimizer.
        strength: weight of the penalty, >= 0; excludes the others.
        exclude: names of modules whose recurrent layers keep all of their units.
        embeddings: whether columns of embedding tables are units, too, as in `GroupLasso`.

    Raises:
        ValueError: for arguments out of range, and names that the model does not have.
        UnsupportedModelError: when the model cannot be followed or cut, which is tried on a copy.

    Source: L. Wen, X. Zhang, H. Bai, Z. Xu, Structured Pruning of Recurrent Neural Networks through Neuron Selection,
    Neural Networks 123, 2020. The constraint, in place of a strength, and the pace of the gates are ours.

    >>> import torch
    >>> from torch import nn
    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> model, x = Tagger(), torch.randn(2, 5, 4)
    >>> pruner = cr.NeuronSelection(model, x, keep=0.25, steps=40)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for _ in range(40):
    ...     loss = model(x).square().mean()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); pruner.step(optimizer)
    >>> pruner.shrink().lstm.hidden_size
    4
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        keep: float | None = None,
        macs: int | None = None,
        bytes: int | None = None,
        steps: int | None = None,
        strength: float | None = None,
        exclude: Iterable[str] = (),
        embeddings: bool = False,
    ):
        sizes = {name: size for name, size in (("keep", keep), ("macs", macs), ("bytes", bytes)) if size is not None}
        given = [*sizes, *(["strength"] if strength is not None else [])]
        if len(given) != 1:
            got = ", ".join(given) or "none of them"
            raise invalid("NeuronSelection", got=got, expected="one of keep, macs, bytes (with steps) and strength")
        if (steps is None) != (strength is not None):
            expected = "steps, a positive int, with a size" if sizes else "no steps with a strength"
            raise invalid("steps", got=steps, expected=expected)
        parameters, _, products = counts(unwrap(model))
        if strength is not None:
            method = L0Selection("macs", products, strength=strength)
        else:
            ((name, size),) = sizes.items()
            _check(name, size, {"macs": products, "bytes": 4 * parameters})
            assert steps is not None
            if name == "keep":
                method = L0Selection("units", fraction=size, steps=steps)
            elif name == "macs":
                method = L0Selection("macs", products, fraction=size / products, steps=steps)
            else:
                method = L0Selection("parameters", parameters, fraction=size / (4 * parameters), steps=steps)
        super().__init__(model, example_inputs, method, exclude=exclude, embeddings=embeddings)


def _check(name: str, size: float, whole: dict[str, int]) -> None:
    if name == "keep":
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size <= 1:
            raise invalid("keep", got=repr(size), expected="a fraction of the units in (0, 1]")
        return
    check_positive(size, name)
    if size >= whole[name]:
        raise invalid(name, got=size, expected=f"less than the model has, {whole[name]}")
