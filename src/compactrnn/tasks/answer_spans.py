"""Spans of text as answers: the best one of two pointers, exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """In lower case, without punctuation marks, articles and further spaces.

    >>> normalized("The  Denver Broncos.")
    'denver broncos'
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Iterable[str]) -> float:
    """1 if the normalized answer is one of the normalized references, else 0."""
    return float(any(normalized(answer) == normalized(reference) for reference in references))


def f1(answer: str, references: Iterable[str]) -> float:
    """The harmonic mean of precision and recall of the words of an answer, for the reference where it is largest.

    >>> f1("the Broncos", ["Denver Broncos", "Denver"])
    0.6666666666666666
    """
    return max(_overlap(normalized(answer).split(), normalized(reference).split()) for reference in references)


def _overlap(answer: list[str], reference: list[str]) -> float:
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def best_spans(start: Tensor, end: Tensor, most: int) -> list[tuple[int, int]]:
    """First and last place of the span of at most `most` places with the largest `p(first) p(last)`, in every row.

    `start`, `end`: logits (batch, places).

    >>> best_spans(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[2.0, 0.0, 1.0]]), most=2)
    [(1, 2)]
    """
    scores = start.log_softmax(1)[:, :, None] + end.log_softmax(1)[:, None, :]
    places = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu().tril(most - 1)
    best = scores.masked_fill(~places, -torch.inf).flatten(1).argmax(1)
    return [divmod(place, scores.shape[2]) for place in best.tolist()]
