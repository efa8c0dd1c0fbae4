"""Connectionist temporal classification: the loss, and the best path through the outputs of a model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLANK = 0


def ctc_loss(log_probabilities: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the targets, summed over all alignments, per target symbol of the batch, in nats.

    `log_probabilities` (batch, steps, symbols), of which number 0 is the blank; `targets` (batch, most symbols), int64
    from 1 on, followed by zeros; `lengths` (batch,), steps of each sequence, None for all. A target that does not fit
    into its steps counts as 0.

    >>> x = torch.full((1, 2, 3), 1 / 3).log()  # "a" in two steps: "a-", "-a" or "aa", of 9
    >>> round(float(ctc_loss(x, torch.tensor([[1]]))), 4) == round(float(torch.log(torch.tensor(3.0))), 4)
    True

    Graves, Fernández, Gomez, Schmidhuber: Connectionist temporal classification, 2006.
    """
    count, steps = log_probabilities.shape[:2]
    lengths = torch.full((count,), steps) if lengths is None else lengths
    sizes = (targets > 0).sum(1)
    total = functional.ctc_loss(
        log_probabilities.transpose(0, 1), targets, lengths, sizes, BLANK, "sum", zero_infinity=True
    )
    return total / sizes.sum().clamp(min=1)


def best_path(outputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The most likely symbol of each step, repetitions merged, blanks dropped: targets as `ctc_loss` takes them.

    >>> outputs = torch.eye(3)[None, [1, 1, 0, 1, 2, 2]]  # (batch, steps, symbols)
    >>> best_path(outputs).tolist(), best_path(outputs, torch.tensor([4])).tolist()
    ([[1, 1, 2]], [[1, 1]])

    Graves, Fernández, Gomez, Schmidhuber: Connectionist temporal classification, 2006, "best path decoding".
    """
    best = outputs.argmax(-1)
    before = torch.cat([torch.full_like(best[:, :1], BLANK), best[:, :-1]], 1)
    new = (best != BLANK) & (best != before)
    if lengths is not None:
        new &= torch.arange(best.shape[1], device=best.device) < lengths.to(best.device)[:, None]
    return torch.nn.utils.rnn.pad_sequence([row[kept] for row, kept in zip(best, new, strict=True)], batch_first=True)
