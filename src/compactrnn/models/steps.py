"""The time steps of a batch: all sequences of one length, or packed ones of several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..layers import Recurrent


class FullSteps:
    """Sequences of one length; `data` is (time, batch, n)."""

    def __init__(self, x: Tensor):
        self.data = x.transpose(0, 1)

    def run(self, layer: nn.Module, data: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """What a recurrent layer gives at every step from its first states or from `states`, and its last states."""
        return layer(data) if states is None else layer(data, states)

    def run_to_end(self, layer: nn.Module, data: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """What a recurrent layer gives at the last step, (batch, n), and its last states.

        Where nobody else looks at it, its outputs at other steps may be left out (`Recurrent.last`).
        """
        if type(layer) is Recurrent and not (layer._forward_hooks or layer._forward_pre_hooks):
            return layer.last(data, states)
        y, states = self.run(layer, data, states)
        return self.last(y), states

    def last(self, data: Tensor) -> Tensor:
        """The last step of each sequence: (batch, n)."""
        return data[-1]

    def at_every_step(self, values: Tensor) -> Tensor:
        """`values` (batch, n) of the sequences, to be multiplied with `data`."""
        return values

    def padded(self, data: Tensor) -> Tensor:
        return data.transpose(0, 1)


class PackedSteps:
    """Sequences of several lengths, without their padding; `data` is (steps, n), all first steps before all second.

    >>> x = torch.arange(6.0).reshape(2, 3, 1)
    >>> steps = PackedSteps(x, torch.tensor([2, 3]))
    >>> steps.data.flatten().tolist(), steps.last(steps.data).flatten().tolist()
    ([3.0, 0.0, 4.0, 1.0, 5.0], [1.0, 5.0])
    """

    def __init__(self, x: Tensor, lengths: Tensor):
        self._time, self._lengths = x.shape[1], lengths.cpu()
        self._packed = pack_padded_sequence(x, self._lengths, batch_first=True, enforce_sorted=False)
        self.data = self._packed.data

    def run(self, layer: nn.Module, data: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """What a recurrent layer gives at every step, and the states at the end of each sequence."""
        packed = self._with(data)
        y, states = layer(packed) if states is None else layer(packed, states)
        return y.data, states

    def run_to_end(self, layer: nn.Module, data: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """What a recurrent layer gives at the last step of each sequence, (batch, n), and the states there."""
        y, states = self.run(layer, data, states)
        return self.last(y), states

    def last(self, data: Tensor) -> Tensor:
        """The last step of each sequence: (batch, n)."""
        sizes, order = self._packed.batch_sizes, self._packed.unsorted_indices
        assert order is not None
        first = sizes.cumsum(0) - sizes  # where each step begins
        return data[first[self._lengths - 1].to(order.device) + order]

    def at_every_step(self, values: Tensor) -> Tensor:
        """`values` (batch, n) of the sequences, to be multiplied with `data`."""
        sizes, order = self._packed.batch_sizes, self._packed.sorted_indices
        assert order is not None
        sequences = (torch.arange(len(order)) < sizes[:, None]).nonzero()[:, 1]
        return values[order[sequences.to(order.device)]]

    def padded(self, data: Tensor) -> Tensor:
        """(batch, time, n), with zeros as padding."""
        return pad_packed_sequence(self._with(data), batch_first=True, total_length=self._time)[0]

    def _with(self, data: Tensor) -> PackedSequence:
        return PackedSequence(
            data, self._packed.batch_sizes, self._packed.sorted_indices, self._packed.unsorted_indices
        )
