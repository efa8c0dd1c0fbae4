"""Gradient checkpointing over time and truncated back-propagation through time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from .._errors import check_positive, invalid
from .loop import time_loop, wanted_loop

Layer = Callable[[Tensor, Any], tuple[Tensor, Any]]


def checkpointed(layer: Layer, input: Tensor, states: Any = None, *, every: int = 512) -> tuple[Tensor, Any]:
    """`layer(input, states)` with gradient checkpointing every `every` time steps.

    Going back, the steps between two of them are computed once more: T steps need the memory of `every` steps and of
    T / `every` states, and the forward pass is paid twice. Output, states and gradients are those of the plain call;
    dropout draws the same numbers both times, but others than in the plain call, which asks for all at once.

    `layer` is anything called like `torch.nn.LSTM`: the layers here, torch's, or a module of them that takes and gives
    states of any structure. Its `batch_first`, if it has one, says where the time axis of input and output is; input
    (T, N, n), (N, T, n) with `batch_first`, or (T, n) without a batch.

    Raises:
        ValueError: an input that is not a tensor with a time axis, or a layer that reads in both directions.

    >>> import torch
    >>> layer, x = torch.nn.GRU(2, 3), torch.randn(1000, 1, 2)
    >>> output, h_n = checkpointed(layer, x, every=32)
    >>> torch.equal(output, layer(x)[0])
    True

    Source: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    axis, outputs = _time_axis("checkpointed", layer, input), []
    kind = wanted_loop()

    def run(piece: Tensor, states: Any) -> tuple[Tensor, Any]:
        with time_loop(kind):  # what is computed again runs as it ran first
            return layer(piece, states)

    for piece in input.split(check_positive(every, "every"), axis):
        output, states = checkpoint(run, piece, states, use_reentrant=False)  # pyright: ignore
        outputs.append(output)
    return torch.cat(outputs, axis), states


def truncated(layer: Layer, input: Tensor, states: Any = None, *, every: int) -> Iterator[tuple[Tensor, Any, slice]]:
    """Truncated BPTT: runs `layer` on `every` steps at a time and yields `output, states, steps`.

    `steps` is the slice of the time axis that the output belongs to; states are carried from piece to piece, and the
    last ones may begin the next call. What a piece keeps for its gradient is free once that has been taken, and an
    optimizer may step between pieces. `layer` and `input` as in `checkpointed`.

    >>> import torch
    >>> layer, x, target = torch.nn.GRU(2, 3), torch.randn(1000, 1, 2), torch.randn(1000, 1, 3)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> for output, states, steps in truncated(layer, x, every=250):
    ...     loss = (output - target[steps]).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> steps
    slice(750, 1000, None)

    Source: Williams and Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories", 1990.
    """
    axis = _time_axis("truncated", layer, input)
    return _run(layer, input.split(check_positive(every, "every"), axis), states, axis)


def _run(layer: Layer, pieces: Sequence[Tensor], states: Any, axis: int) -> Iterator[tuple[Tensor, Any, slice]]:
    stop = 0
    for piece in pieces:
        output, states = layer(piece, detach(states))
        states = detach(states)
        start, stop = stop, stop + piece.shape[axis]
        yield output, states, slice(start, stop)


def _time_axis(what: str, layer: Any, input: object) -> int:
    for name, module in layer.named_modules() if isinstance(layer, nn.Module) else ():
        if getattr(module, "bidirectional", False):
            place = f"{type(module).__name__} {name!r}" if name else type(module).__name__
            hint = "what it reads backwards has seen the end first"
            raise invalid(f"{what} layer", got=f"{place} of both directions", expected="one direction", hint=hint)
    if not isinstance(input, Tensor) or input.dim() < 2:
        got = f"{input.dim()}D" if isinstance(input, Tensor) else type(input).__name__
        hint = "pad a PackedSequence" if isinstance(input, PackedSequence) else ""
        raise invalid(f"{what} input", got=got, expected="a tensor with a time axis", hint=hint)
    axis = 1 if getattr(layer, "batch_first", False) and input.dim() > 2 else 0
    if input.shape[axis] == 0:
        raise invalid(f"{what} input", got="a sequence of no steps", expected="at least one step")
    return axis


def detach(states: Any) -> Any:
    """The same nested structure with all tensors detached.

    >>> import torch
    >>> detach((torch.ones(1, requires_grad=True), None))
    (tensor([1.]), None)
    """
    if isinstance(states, Tensor):
        return states.detach()
    if isinstance(states, dict):
        return {name: detach(s) for name, s in states.items()}
    return tuple(detach(s) for s in states) if isinstance(states, tuple | list) else states
