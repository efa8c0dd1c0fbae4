"""Sample text from a packed language model."""

from __future__ import annotations

from typing import Any

import numpy as np

from .vocabulary import Vocabulary


def generate(engine: Any, vocabulary: Vocabulary, prompt: str, length: int, temperature: float, seed: int) -> str:
    """`prompt`, and `length` symbols sampled after it from `softmax(logits / temperature)`."""
    random = np.random.default_rng(seed)
    stream = engine.stream()
    tokens = vocabulary.encode(prompt).tolist() or [vocabulary.unknown]
    for token in tokens[:-1]:
        stream.step(token)
    for _ in range(length):
        logits = np.asarray(stream.step(tokens[-1]), np.float64) / temperature
        logits[vocabulary.unknown] = -np.inf
        odds = np.exp(logits - logits.max())
        tokens.append(int(random.choice(len(odds), p=odds / odds.sum())))
    return vocabulary.decode(tokens)
