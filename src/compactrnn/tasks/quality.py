"""Metrics of predicted symbols, in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._errors import invalid
from .._text import shortened as shortened

METRIC = {"character": "bits_per_character", "word": "perplexity"}


def from_nats(nats: float, level: str) -> float:
    """Bits per character or perplexity from the mean negative log-likelihood of a symbol.

    >>> from_nats(math.log(2), "character"), from_nats(math.log(2), "word")
    (1.0, 2.0)
    """
    if level == "character":
        return nats / math.log(2)
    return math.exp(nats) if nats < 700 else math.inf


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum over time of `-log softmax(logits)[target]`: (time, symbols), (time,) -> nats.

    >>> round(negative_log_likelihood(np.zeros((3, 4)), np.array([0, 1, 2])) / 3, 4) == round(math.log(4), 4)
    True
    """
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    normalizer = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return float((normalizer - logits[np.arange(len(targets)), targets]).sum())


def evaluate_stream(engine: Any, tokens: np.ndarray, level: str, chunk: int = 1024) -> float:
    """The metric of a packed language model over one stream of `tokens`, its state carried all the way."""
    if len(tokens) < 2:
        raise invalid("text", got=f"{len(tokens)} symbols", expected="at least 2")
    stream, total = engine.stream(), 0.0
    inputs, targets = tokens[:-1], tokens[1:]
    for start in range(0, len(inputs), chunk):
        logits = stream.run(inputs[start : start + chunk])
        total += negative_log_likelihood(np.asarray(logits), targets[start : start + chunk])
    return from_nats(total / len(inputs), level)
