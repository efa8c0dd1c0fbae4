"""The interface of a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from .alphabet import Alphabet


class AbstractDecoder(ABC):
    """Words from the log-probabilities of an acoustic model, given at once or in chunks of any length.

    Words do not depend on how the frames are cut into chunks.
    """

    alphabet: Alphabet

    @abstractmethod
    def feed(self, log_probabilities: np.ndarray) -> list[str]:
        """Read the next frames, (time, symbols); the words that have become certain by them."""

    @property
    @abstractmethod
    def partial(self) -> str:
        """What is likely to follow the words returned so far; later frames may change it."""

    @abstractmethod
    def finish(self) -> list[str]:
        """The remaining words; the next `feed` begins another recording."""

    def decode(self, log_probabilities: np.ndarray) -> list[str]:
        """The words of a whole recording."""
        return self.feed(log_probabilities) + self.finish()
