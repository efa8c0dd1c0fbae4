"""Logits of a few symbols."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

NEVER = -1e4  # a logit whose exponential is zero in any precision


def candidate_logits(output: nn.Module, x: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """What the layer `output` gives for the target of each step and for `negatives`, without the rest.

    x (batch, time, n), targets (batch, time), negatives (count,) -> (batch, time, 1 + count). Of a plain linear layer
    only the rows that are needed are multiplied with; any other layer is computed whole.
    """
    if not _is_plain(output):
        logits = output(x)
        return torch.cat([logits.gather(-1, targets[..., None]), logits[..., negatives]], -1)
    weight, bias = output.weight, output.bias
    candidates = torch.cat([targets.flatten(), negatives])
    rows = functional.embedding(candidates, weight)
    offsets = x.new_zeros(len(candidates)) if bias is None else bias[candidates]
    own, others = rows.split([targets.numel(), len(negatives)])
    own_offsets, other_offsets = offsets.split([targets.numel(), len(negatives)])
    first = (x * own.view_as(x)).sum(-1, keepdim=True) + own_offsets.view(*targets.shape, 1)
    return torch.cat([first, functional.linear(x, others, other_offsets)], -1)


def _is_plain(output: nn.Module) -> TypeGuard[nn.Linear]:
    own = type(output).forward is nn.Linear.forward  # also with parametrizations
    return own and not (output._forward_hooks or output._forward_pre_hooks)
