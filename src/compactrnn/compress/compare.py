"""Comparison of the outputs of a pruned model with those of the original."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UnsupportedModelError
from ..graph.copy import copy_module
from ..graph.example import Example
from ..graph.plain_outputs import plain
from ..graph.seeded import seeded
from ..graph.trace import Trace, beside
from ..layers import is_recurrent
from .fixed_random import FixedRandom


class Comparison:
    """The outputs of `model`: on its example and on random inputs, in eval and in train mode, in float64.

    In float32, less closely, where the model's code insists on it. Both models see the same random numbers. What the
    model itself does not take, such as random lengths in a wrong order, is left out; so is train mode, if it runs in
    that on other arguments only. States that are handed back beside another output may be narrower.
    """

    def __init__(self, model: nn.Module, trace: Trace, example_inputs: tuple[Tensor, ...]):
        example = trace.example.with_tensors(beside(model, example_inputs))
        self.cases: list[tuple[Example, bool, list[bool], Any]] = []
        try:
            self.dtype, self.tolerance = torch.float64, 1e-6  # what became dense was rounded to float32
            self._add(model, example, False, trace)
        except (RuntimeError, ValueError):  # the second from a recurrent layer of torch, for inputs of another type
            self.dtype, self.tolerance = torch.float32, 1e-5
            try:
                self._add(model, example, False, trace)
            except (RuntimeError, ValueError) as error:
                raise UnsupportedModelError(
                    f"{type(model).__name__}: runs neither in float64 nor in float32, where outputs are compared"
                    f" ({str(error).strip().splitlines()[0]}): let its code convert to the type of a weight,"
                    " x.to(self.fc.weight.dtype), and not to a certain one"
                ) from error
        varied = example.with_tensors(_varied(example.tensors))
        further = [(varied, False, trace)]
        if not trace.trains_alike:
            further += [(varied, True, trace.training or trace), (example, True, trace.training or trace)]
        for inputs, training, graph in further:
            with contextlib.suppress(Exception):
                self._add(model, inputs, training, graph)

    def _add(self, model: nn.Module, inputs: Example, training: bool, graph: Trace) -> None:
        expected = run(model, inputs, training, self.dtype)
        self.cases.append((inputs, training, graph.state_outputs(), expected))

    def difference(self, small: nn.Module) -> str:
        """Where the outputs of `small` differ, for messages; empty if they do not."""
        for i, (inputs, training, states, expected) in enumerate(self.cases):
            if not _agree(expected, run(small, inputs, training, self.dtype), iter(states), self.tolerance):
                return f"other outputs for {'random inputs' if i else 'the example'}{' in train mode' * training}"
        return ""


@torch.no_grad()
def run(model: nn.Module, inputs: Example, training: bool, dtype: torch.dtype) -> Any:
    """The outputs of a copy of `model` in `dtype` for `inputs`, with fixed random numbers and without dropout."""
    model = copy_module(model).train(training).to(dtype)
    for module in model.modules():
        if is_recurrent(module):
            module.dropout = 0.0  # pyright: ignore
    inputs = inputs.with_tensors([x.to(dtype) if x.is_floating_point() else x for x in inputs.tensors])
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)  # for what the model's code makes itself: torch.zeros(...)
        with seeded(), FixedRandom(0):
            return plain(inputs.call(model))
    finally:
        torch.set_default_dtype(usual)


def _varied(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Random inputs like the example; what is constant there, such as a first state of zeros, is not."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_random_like(x, generator) for x in inputs)


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    numbers = x.detach().cpu().flatten()
    if not len(numbers) or x.dtype == torch.bool:
        return x
    is_mask = bool(((numbers == 0) | (numbers == 1)).all()) and numbers.min() != numbers.max()
    if not x.is_floating_point() or is_mask:
        return numbers[torch.randint(len(numbers), (len(numbers),), generator=generator)].view(x.shape).to(x)
    spread = numbers.std() if len(numbers) > 1 else numbers.new_zeros(())
    spread = spread if spread > 0 and spread.isfinite() else numbers.new_ones(())
    drawn = torch.randn(x.shape, generator=generator) * spread + numbers.mean().nan_to_num()
    return drawn.to(x)


def _agree(old: Any, new: Any, is_state: Iterator[bool], tolerance: float) -> bool:
    if isinstance(old, Tensor):
        narrower = not isinstance(new, Tensor) or old.shape != new.shape
        if next(is_state, False) and narrower:
            return True
        if narrower:
            return False
        return torch.allclose(old, new.to(old.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(old, dict):
        return isinstance(new, dict) and all(k in new and _agree(old[k], new[k], is_state, tolerance) for k in old)
    if isinstance(old, list | tuple):
        same_kind = isinstance(new, list | tuple) and len(old) == len(new)
        return same_kind and all(_agree(a, b, is_state, tolerance) for a, b in zip(old, new, strict=True))
    if hasattr(old, "__dict__") and not callable(old):
        return _agree(vars(old), vars(new), is_state, tolerance) if type(old) is type(new) else False
    return True
