"""Texts as targets of connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._errors import invalid


def encode(texts: Sequence[str], symbols: Sequence[str]) -> Tensor:
    """Texts as targets of `ctc_loss`: the position of each character in `symbols` plus one, then zeros."""
    numbers = {symbol: n for n, symbol in enumerate(symbols, 1)}
    try:
        rows = [torch.tensor([numbers[character] for character in text], dtype=torch.int64) for text in texts]
    except KeyError as error:
        raise invalid(
            "transcript", got=f"{error.args[0]!r} in it", expected=f"characters of {''.join(symbols)!r}"
        ) from None
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)
