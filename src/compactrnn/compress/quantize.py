"""Quantization-aware training: the model learns with the products of the packed file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import invalid
from ..cells.base import AbstractCell
from ..cells.projected import Projected
from ..graph.copy import copy_module
from ..layers.matrices import ModelMatrix, Place, matrices
from ..runtime.storage import WeightTypes, best_key, matches
from ..weights.base import AbstractWeight
from ..weights.dense import DenseWeight
from ..weights.masked import MaskedWeight
from ..weights.quantized import Quantized, QuantizedWeight
from .optimizer_state import move_optimizer_
from .table import size_lines, table
from .wrappers import inner_names, unwrap


@dataclass(frozen=True)
class QuantizedMatrix:
    """What becomes of one matrix, which may stand in several places, `names`.

    `type` is float32 where it is not quantized in training, for `reason`; `bytes` are before and after.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    type: str
    bytes: tuple[int, int]
    reason: str = ""


@dataclass(frozen=True)
class QuantizeReport:
    """The matrices of a model in quantization-aware training; `print` shows a table. Pairs are before and after."""

    matrices: tuple[QuantizedMatrix, ...]

    @property
    def bytes(self) -> tuple[int, int]:
        """Of all matrices together."""
        return sum(m.bytes[0] for m in self.matrices), sum(m.bytes[1] for m in self.matrices)

    def __str__(self) -> str:
        rows = [["matrix", "shape", "type", "bytes"]]
        for m in self.matrices:
            start = [" = ".join(m.names), f"{m.shape[0]}x{m.shape[1]}"]
            rows.append(
                [*start, f"as it is: {m.reason}"] if m.reason else [*start, m.type, "{} -> {}".format(*m.bytes)]
            )
        return "\n".join([*table(rows), *size_lines(self, ("bytes",))])


class Quantize:
    """Quantization-aware training of a model's recurrent, linear and embedding layers, in place.

    Each matrix becomes a `Quantized` weight: every product is of the weights and inputs that the engine will multiply,
    quantized in the same way, and gradients go straight through. Inputs and hidden states are int8, of one scale for
    each vector; the hidden state of an LSTM or GRU, which never leaves [-1, 1], has the fixed scale 1/127. The weights
    that are learned stay the same parameters, in float32; their names get `.weight` added.

    `cr.pack(model, ...)` then stores what was trained. On the CPU in float32 the products, LSTM and GRU layers, and
    cells of the operations of docs/operations.md, give in training the bits that the engine gives; what torch computes
    elsewhere (a softmax, a layer norm) differs in the last digit, and with it what is quantized behind it, by a step.

    Args:
        model: any module; wrappers such as `torch.compile` are looked through.
        weights: "int8" or "int4" for all, or types by name as in `pack`: `{"head": "float32", "*": "int4"}`. Tables of
            embeddings are int8 in both, unless they are tied to a product in int4 or named. What is "float32" is not
            touched.
        start: steps of the optimizer before the quantization begins.

    Raises:
        ValueError: another type, unknown names, no matrix to quantize, or a named matrix that cannot be.

    >>> import compactrnn as cr
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> quantizer = cr.Quantize(model, {"0": "int4", "*": "int8"})
    >>> print(quantizer.report())
    matrix  shape  type  bytes
    0       64x64  int4  16384 -> 2368
    2       2x64   int8  512 -> 136
    bytes: 16,896 -> 2,504 (6.75x)
    >>> for _ in range(3):
    ...     loss = model(torch.randn(8, 64)).square().mean() + quantizer.penalty()
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); quantizer.step(optimizer)

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018.
    """

    def __init__(self, model: nn.Module, weights: str | Mapping[str, str] = "int8", *, start: int = 0):
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise invalid("start", got=repr(start), expected="an int of 0 or more")
        self.model, self.start, self.count = unwrap(model), start, 0
        if any(isinstance(module, MaskedWeight) for module in self.model.modules()):
            raise invalid("model", got="one that a pruner is at work on", expected="what its shrink() gives")
        types = WeightTypes.of(inner_names(model, weights))
        if "auto" in types.by_key.values():
            raise invalid("weights", got="'auto'", expected="'int8', 'int4' or 'float32': the type is trained for")
        found = matrices(self.model)
        _check_names(types, found)
        chosen = [(matrix, *_choose(matrix, types)) for matrix in found]
        if not any(spec for _, spec, _ in chosen):
            why = "; ".join(f"{matrix.name}: {reason}" for matrix, _, reason in chosen[:3])
            raise invalid("model", got="no matrix to quantize" + (f" ({why})" if why else ""), expected="one or more")
        self._reasons = {matrix.name: reason for matrix, _, reason in chosen if reason}
        for matrix, spec, _ in chosen:
            if spec is not None:
                matrix.put(QuantizedWeight.of(spec, _parameter(matrix), matrix.gates))
        self._switch()

    def penalty(self) -> Tensor:
        """Zero: nothing is added to the loss."""
        return torch.zeros((), device=next(self.model.parameters()).device)

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Call after each `optimizer.step()`."""
        self.count += 1
        self._switch()

    def report(self) -> QuantizeReport:
        """The types of all matrices, and their bytes in float32 and as they are packed."""
        found = matrices(self.model)
        known = {id(p) for matrix in found for p in matrix.parameters()}
        others = {name: p for name, p in self.model.named_parameters() if p.dim() > 1 and id(p) not in known}
        return QuantizeReport((*map(self._row, found), *(_unknown(name, p) for name, p in others.items())))

    def shrink(self, optimizer: Optimizer | None = None) -> nn.Module:
        """A copy of the model to pack or to train on; `optimizer`, if given, goes on with it.

        Warns:
            UserWarning: the quantization has not begun: what it changes is not trained for.
        """
        if self.count < self.start:
            warnings.warn(
                f"shrink() at step {self.count}, before the quantization begins at {self.start}", stacklevel=2
            )
        copy = _enabled(copy_module(self.model))
        if optimizer is not None:
            move_optimizer_(optimizer, self.model, copy, copy_module)
        return copy

    def state_dict(self) -> dict[str, Tensor]:
        """How many steps there have been; the weights are the model's."""
        return {"count": torch.tensor(self.count)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: it is that of something else.
        """
        if set(state) != {"count"}:
            raise invalid("state of Quantize", got=sorted(state), expected="['count']")
        self.count = int(state["count"])
        self._switch()

    def _switch(self) -> None:
        _enabled(self.model, self.count >= self.start)

    def _row(self, matrix: ModelMatrix) -> QuantizedMatrix:
        held, before = matrix.held, matrix.numbers * matrix.number_size
        if isinstance(held, QuantizedWeight):
            return QuantizedMatrix(matrix.names, matrix.shape, held.kind, (before, _stored_bytes(matrix, held)))
        reason = self._reasons.get(matrix.name, "")
        return QuantizedMatrix(matrix.names, matrix.shape, "float32", (before, before), reason)


def _unknown(name: str, parameter: Tensor) -> QuantizedMatrix:
    size = parameter.numel() * parameter.element_size()
    shape = len(parameter), parameter.numel() // max(len(parameter), 1)
    reason = "it is of no recurrent, linear or embedding layer"
    return QuantizedMatrix((name,), shape, "float32", (size, size), reason)


def _enabled(model: nn.Module, enabled: bool = True) -> nn.Module:
    for module in model.modules():
        if isinstance(module, QuantizedWeight):
            module.enabled = enabled
    return model


def _check_names(types: WeightTypes, found: list[ModelMatrix]) -> None:
    names = [name for matrix in found for name in matrix.names]
    for key in types.by_key:
        if key != "*" and not any(matches(key, name) for name in names):
            listed = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            raise invalid("weights", got=f"the unknown name {key!r}", expected=f"some of {listed}, modules, or '*'")


def _choose(matrix: ModelMatrix, types: WeightTypes) -> tuple[Quantized | None, str]:
    """What becomes of a matrix, or why it stays as it is."""
    keys = [(key == name, len(key), key) for name in matrix.names if (key := best_key(types.by_key, name)) is not None]
    _, _, key = max(keys)
    kind = types.by_key[key]
    if kind == "float32":
        return None, "float32 is asked for"
    reason, held = "" if all(map(_is_projection, matrix.places)) else matrix.left_alone, matrix.held
    if isinstance(held, AbstractWeight) and not isinstance(held, DenseWeight | QuantizedWeight):
        reason = reason or f"it is {held.spec}, which is quantized when it is packed"
    if reason:
        if key in matrix.names:
            raise invalid(matrix.name, got=f"a matrix that must stay: {reason}", expected="one to quantize")
        return None, reason
    looked_up = [place.is_table for place in matrix.places]
    table = kind if any(looked_up) and (not all(looked_up) or key != "*") else "int8"
    return Quantized(kind, all(map(_reads_bounded, matrix.places)), table), ""  # pyright: ignore


def _is_projection(place: Place) -> bool:
    return place.attribute.startswith("weight_hr") or place.attribute == "projection"


def _reads_bounded(place: Place) -> bool:
    """Whether it is multiplied with the state of an LSTM or GRU alone, which never leaves [-1, 1]."""
    module = place.module
    if isinstance(module, nn.RNNBase):
        size = module.proj_size
        return place.attribute.startswith("weight_hh") and module.mode in ("LSTM", "GRU") and size == 0
    fused = isinstance(module, AbstractCell) and module.kernel in ("lstm", "gru") and not isinstance(module, Projected)
    return fused and place.attribute == "hidden"


def _parameter(matrix: ModelMatrix) -> nn.Parameter:
    held = matrix.held
    parameter = held.weight if isinstance(held, DenseWeight | QuantizedWeight) else held
    assert isinstance(parameter, nn.Parameter)
    return parameter


def _stored_bytes(matrix: ModelMatrix, weight: QuantizedWeight) -> int:
    """Of what a file stores, scales included: once for each type in which the matrix is used."""
    rows, columns = matrix.shape
    sizes = {"int8": columns + 4, "int4": -(-columns // 2) + -(-columns // 64) + 4}
    return rows * sum(sizes[kind] for kind in {weight.table if p.is_table else weight.kind for p in matrix.places})
