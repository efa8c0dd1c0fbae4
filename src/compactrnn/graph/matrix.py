"""Modules of torch around which people write recurrences out."""

from __future__ import annotations

from torch import nn

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def may_recur(module: nn.Module) -> bool:
    """Whether a recurrence may be written out with the module: all of its rows read all of its columns."""
    return type(module) in _KINDS and getattr(module, "groups", 1) == 1
