"""Batches of sequences of similar length."""

from __future__ import annotations

import numpy as np

JITTER = 0.1


def batches_of_similar_length(lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> np.ndarray:
    """The numbers of the sequences of each batch, (batches, batch_size), in random order.

    Sequences are sorted by their length times a random number from 0.9 to 1.1, so that the batches of an epoch are not
    those of the one before. What does not fill a batch is left out, others in every epoch.

    >>> batches_of_similar_length(np.array([5, 90, 6, 80, 7]), 2, np.random.default_rng(0)).tolist()
    [[0, 2], [4, 3]]
    """
    kept = random.permutation(len(lengths))[: len(lengths) // batch_size * batch_size]
    by_length = kept[np.argsort(lengths[kept] * random.uniform(1 - JITTER, 1 + JITTER, len(kept)))]
    return random.permutation(by_length.reshape(-1, batch_size))
