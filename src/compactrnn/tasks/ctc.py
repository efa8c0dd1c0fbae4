"""Connectionist temporal classification: symbols without times as targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._errors import invalid
from .batch import Batch

BLANK = 0


def ctc_loss(log_probabilities: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood of the targets, summed over all alignments, per target symbol of the batch, in nats.

    `log_probabilities` (batch, steps, symbols), of which number 0 is the blank; `batch.targets` (batch, most symbols),
    int64 from 1 on, followed by zeros. A target that does not fit into its steps counts as 0.

    >>> x = torch.full((1, 2, 3), 1 / 3).log()  # "a" in two steps: "a-", "-a" or "aa", of 9
    >>> round(float(ctc_loss(x, Batch(x, torch.tensor([[1]])))), 4) == round(float(torch.log(torch.tensor(3.0))), 4)
    True

    Graves, Fernández, Gomez, Schmidhuber: Connectionist temporal classification, 2006.
    """
    count, steps = log_probabilities.shape[:2]
    lengths = torch.full((count,), steps) if batch.lengths is None else batch.lengths
    targets = (batch.targets > 0).sum(1)
    total = nn.functional.ctc_loss(
        log_probabilities.transpose(0, 1), batch.targets, lengths, targets, BLANK, "sum", zero_infinity=True
    )
    return total / targets.sum().clamp(min=1)


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
