"""Greedy decoding of CTC outputs."""

from __future__ import annotations

import numpy as np

from .alphabet import Alphabet
from .base import AbstractDecoder


class GreedyDecoder(AbstractDecoder):
    """The most likely symbol of each frame, repetitions merged, blanks dropped.

    Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, "best path decoding".

    >>> decoder = GreedyDecoder(Alphabet(["", " ", "a", "b"]))
    >>> frames = np.log(np.eye(4)[[2, 2, 0, 2, 3, 1, 3]] * 0.96 + 0.01)  # aa_ab b
    >>> decoder.feed(frames[:5]), decoder.partial, decoder.feed(frames[5:]), decoder.finish()
    ([], 'aab', ['aab'], ['b'])
    """

    def __init__(self, alphabet: Alphabet):
        self.alphabet = alphabet
        self._last = alphabet.blank
        self._open: list[int] = []  # symbols of the word that has begun

    def feed(self, log_probabilities: np.ndarray) -> list[str]:
        best = self.alphabet.frames(log_probabilities).argmax(1)
        before = np.concatenate([[self._last], best])
        new = best[(best != before[:-1]) & (best != self.alphabet.blank)]
        self._last = int(before[-1])
        self._open += new.tolist()
        done = self._settled()
        words = self.alphabet.words(self._open[:done])
        self._open = self._open[done:]
        return words

    def _settled(self) -> int:
        """How many of the open symbols belong to words that have ended."""
        if self.alphabet.separator is None:
            return len(self._open)
        ends = [place for place, number in enumerate(self._open, 1) if number == self.alphabet.separator]
        return ends[-1] if ends else 0

    @property
    def partial(self) -> str:
        return " ".join(self.alphabet.words(self._open))

    def finish(self) -> list[str]:
        words = self.alphabet.words(self._open)
        self._last, self._open = self.alphabet.blank, []
        return words
