"""Hidden states of a student beside those of its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from .._errors import invalid
from ..layers import Recurrent, is_recurrent
from .wrappers import unwrap, without_autocast

LayerWeights = Mapping[str, float] | Mapping[tuple[str, str], float] | Mapping[str | tuple[str, str], float]
Call = tuple[Tensor | PackedSequence, bool]  # the output, and whether the batch is its first axis


@dataclass(frozen=True)
class LayerPair:
    """A recurrent layer of the student and one of the teacher, by name."""

    student: str
    teacher: str
    weight: float


class HiddenStates(nn.Module):
    """How far a student's hidden states are from the teacher's, with a linear map between states of different widths.

        sum over pairs of layers k:  v_k mean_t,i (M_k h_k(t) - h'_k(t))_i^2

    h_k and h'_k are the outputs of the last layer of a recurrent module; M_k is trained with the student, or the
    identity where both are equally wide.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: hints for thin deep nets, 2015.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, hidden: LayerWeights):
        super().__init__()
        self.models = unwrap(student), unwrap(teacher)  # in a tuple: their parameters are not those of this module
        self.pairs = layer_pairs(*self.models, hidden)
        self.widths = [tuple(_width(layer) for layer in self._layers(pair)) for pair in self.pairs]
        self.maps = nn.ModuleList()
        for pair, (own, wanted) in zip(self.pairs, self.widths, strict=True):
            like = next(self._layers(pair)[0].parameters())
            kind = {"device": like.device, "dtype": _at_least_float32(like.dtype)}
            self.maps.append(nn.Identity() if own == wanted else nn.Linear(own, wanted, **kind))
        self._calls: list[tuple[list[Call], list[Call]]] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Keep what the layers put out within a `with` block."""
        self._calls = [([], []) for _ in self.pairs]
        with ExitStack() as stack:
            for pair, (own, wanted) in zip(self.pairs, self._calls, strict=True):
                for layer, calls, detached in zip(self._layers(pair), (own, wanted), (False, True), strict=True):
                    stack.callback(layer.register_forward_hook(_Keep(calls, detached)).remove)
            yield

    def loss(self, lengths: Tensor | None = None) -> Tensor | float:
        """The difference of what was kept, which is forgotten then; 0 without pairs of layers."""
        kept, self._calls = self._calls or [([], []) for _ in self.pairs], []
        return sum(self._difference(number, *calls, lengths) for number, calls in enumerate(kept))

    def _difference(self, number: int, own: list[Call], wanted: list[Call], lengths: Tensor | None) -> Tensor:
        pair, where = self.pairs[number], f"hidden: {self.pairs[number].student!r}"
        if not own or len(own) != len(wanted):
            got = f"{len(own)} calls of it in the student and {len(wanted)} of {pair.teacher!r} in the teacher"
            hint = "call the models by distill(...), or both within distill.watch()"
            raise invalid(where, got=got, expected="equally many, one or more", hint=hint)
        h, target = (torch.cat([_steps(*call, lengths) for call in calls]) for calls in (own, wanted))
        if (h.shape[-1], target.shape[-1]) != self.widths[number]:
            got, expected = f"widths {h.shape[-1]} and {target.shape[-1]}", f"{self.widths[number]}, as at the start"
            raise invalid(where, got=got, expected=expected, hint="make another Distill of a model that was cut")
        if len(h) != len(target):
            got = f"{len(h)} steps in the student and {len(target)} in the teacher"
            raise invalid(where, got=got, expected="equally many")
        with without_autocast():
            difference = functional.mse_loss(
                self.maps[number](h.to(_at_least_float32(h.dtype))), target.to(h.device, _at_least_float32(h.dtype))
            )
        return pair.weight * difference

    def _layers(self, pair: LayerPair) -> tuple[nn.Module, nn.Module]:
        student, teacher = self.models
        return student.get_submodule(pair.student), teacher.get_submodule(pair.teacher)


def layer_pairs(student: nn.Module, teacher: nn.Module, hidden: LayerWeights) -> list[LayerPair]:
    """The pairs of recurrent layers that `hidden` names, the same name in both models or (student's, teacher's).

    Raises:
        ValueError: a name that is none of a recurrent layer, or a weight that is not a positive number.
    """
    pairs = []
    for key, weight in hidden.items():
        names = (key, key) if isinstance(key, str) else key
        if not (isinstance(names, tuple) and len(names) == 2):
            raise invalid("hidden", got=repr(key), expected="a name, or one of the student and one of the teacher")
        for model, name, whose in ((student, names[0], "student"), (teacher, names[1], "teacher")):
            known = [path for path, module in model.named_modules() if is_recurrent(module)]
            if name not in known:
                expected = f"a recurrent layer of the {whose} ({', '.join(map(repr, known)) or 'it has none'})"
                raise invalid("hidden", got=repr(name), expected=expected)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise invalid(f"hidden: {key!r}", got=repr(weight), expected="a positive number")
        pairs.append(LayerPair(*names, float(weight)))
    return pairs


class _Keep:
    """A forward hook that keeps outputs."""

    def __init__(self, calls: list[Call], detached: bool):
        self.calls, self.detached = calls, detached

    def __call__(self, layer: nn.Module, given: object, output: tuple[Tensor | PackedSequence, object]) -> None:
        first = output[0]
        if self.detached:
            first = first._replace(data=first.data.detach()) if isinstance(first, PackedSequence) else first.detach()
        self.calls.append((first, bool(layer.batch_first)))


def _steps(output: Tensor | PackedSequence, batch_first: bool, lengths: Tensor | None) -> Tensor:
    """The steps of all sequences without padding, one sequence after the other: (steps, n)."""
    if isinstance(output, PackedSequence):
        output, lengths = pad_packed_sequence(output, batch_first=True)
    elif output.dim() == 2:
        return output
    elif not batch_first:
        output = output.transpose(0, 1)
    return within(output, lengths)


def within(values: Tensor, lengths: Tensor | None) -> Tensor:
    """`values` (batch, time, ...) at the steps before `lengths`, (batch,): (steps, ...).

    Raises:
        ValueError: lengths that the values do not have.
    """
    if lengths is None:
        return values.flatten(0, 1)
    count, steps = values.shape[:2]
    if lengths.shape != (count,) or int(lengths.max()) > steps:
        got = f"{tuple(lengths.shape)}, up to {int(lengths.max())}"
        raise invalid("lengths", got=got, expected=f"({count},), up to {steps}")
    return values[torch.arange(steps, device=values.device) < lengths.to(values.device)[:, None]]


def _width(layer: Any) -> int:
    """Numbers of the output at each step, without a look at the weights, which may be computed."""
    if isinstance(layer, Recurrent):
        return sum(cell.output_size for cell in layer.rows()[-1])
    sizes = layer.proj_size or layer.hidden_size
    return (sizes[-1] if isinstance(sizes, list) else sizes) * (2 if layer.bidirectional else 1)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
