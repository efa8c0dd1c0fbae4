"""Packed sequences made inside a model, traced as gathers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

_ACTIVE: list[FollowPacking] = []


class RecordPacking(TorchFunctionMode):
    """While it is entered, notes the sorted lengths of what is packed, and whether its batch axis is first."""

    def __init__(self):
        super().__init__()
        self.lengths: list[list[int]] = []
        self.batch_first: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_pack_padded_sequence":
            self.lengths.append(args[1].tolist())
            self.batch_first.append(bool(args[2]))
        return func(*args, **(kwargs or {}))


class FollowPacking(TorchFunctionMode):
    """While it is entered, packing and padding are gathers with constant indices, made from the noted lengths.

    So torch.export, which knows no sizes that depend on data, and the labels of units pass through them.
    """

    def __init__(self, lengths: list[list[int]]):
        super().__init__()
        self._lengths = iter(lengths)
        self._known: list[tuple[Tensor, list[int]]] = []

    def __enter__(self) -> Any:
        _ACTIVE.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _ACTIVE.remove(self)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            return self._pack(*args, **(kwargs or {}))
        if name == "_pad_packed_sequence" and self.batch_sizes(args[1]):
            return self._pad(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def batch_sizes(self, tensor: Tensor) -> list[int]:
        """The numbers in a `batch_sizes` made here; none if it was made elsewhere."""
        return next((sizes for known, sizes in self._known if known is tensor), [])

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        lens = next(self._lengths)
        x = x.transpose(0, 1) if batch_first else x
        sizes = [sum(n > t for n in lens) for t in range(max(lens))]
        places = [t * len(lens) + b for t, n in enumerate(sizes) for b in range(n)]
        data = x.flatten(0, 1).index_select(0, torch.tensor(places, device=x.device))
        self._known.append((torch.tensor(sizes), sizes))
        return data, self._known[-1][0]

    def _pad(
        self, data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
    ) -> tuple[Tensor, Tensor]:
        sizes = self.batch_sizes(batch_sizes)
        steps, batch = max(total_length, len(sizes)), sizes[0]
        starts = [sum(sizes[:t]) for t in range(len(sizes))]
        none = sum(sizes)  # the place of the padding
        places = [
            starts[t] + b if t < len(sizes) and b < sizes[t] else none for t in range(steps) for b in range(batch)
        ]
        padding = data.new_full((1, *data.shape[1:]), padding_value)
        rows = torch.cat([data, padding]).index_select(0, torch.tensor(places, device=data.device))
        padded = rows.unflatten(0, (steps, batch))
        lengths = torch.tensor([sum(n > b for n in sizes) for b in range(batch)])
        return (padded.transpose(0, 1) if batch_first else padded), lengths


def followed_batch_sizes(packed: PackedSequence) -> list[int]:
    """The numbers in the `batch_sizes` of a sequence that was packed while being followed; else none."""
    return _ACTIVE[-1].batch_sizes(packed.batch_sizes) if _ACTIVE else []
