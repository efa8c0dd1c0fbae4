"""The output symbols of an acoustic model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._errors import invalid

SEPARATOR = " "
FLOOR = -1e30  # what a log-probability counts as at least: sums of them stay finite


class Alphabet:
    """The output symbols of a CTC model, by number; number `blank` is the blank.

    Words are spelled by the symbols between two `" "`. Without a `" "` among them each symbol is a word.

    Raises:
        ValueError: fewer than two symbols, the same one twice, an empty one (but for the blank), or no such blank.

    >>> letters = Alphabet(["", " ", "a", "b"])
    >>> letters.words([2, 3, 1, 2])
    ['ab', 'a']
    >>> Alphabet(["", "one", "two"]).words([2, 1])
    ['two', 'one']
    """

    def __init__(self, symbols: Sequence[str], blank: int = 0):
        self.symbols = tuple(symbols)
        if len(self.symbols) < 2 or not all(isinstance(symbol, str) for symbol in self.symbols):
            raise invalid("symbols", got=f"{len(self.symbols)} of them", expected="two texts or more")
        if isinstance(blank, bool) or not isinstance(blank, int) or not 0 <= blank < len(self.symbols):
            raise invalid("blank", got=repr(blank), expected=f"a number from 0 to {len(self.symbols) - 1}")
        written = [symbol for number, symbol in enumerate(self.symbols) if number != blank]
        if "" in written or len(set(written)) != len(written):
            raise invalid("symbols", got="the same twice, or an empty one", expected="each once; only blank is empty")
        self.blank = blank
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols) if number != blank}
        self.separator = self.numbers.get(SEPARATOR)

    def __len__(self) -> int:
        return len(self.symbols)

    def words(self, numbers: Sequence[int]) -> list[str]:
        """The words that a row of symbols spells."""
        texts = [self.symbols[number] for number in numbers]
        return texts if self.separator is None else "".join(texts).split()

    def spell(self, word: str) -> list[int]:
        """The symbols of a word; `ValueError` where it has another character."""
        letters = [word] if self.separator is None else list(word)
        if not letters or SEPARATOR in letters or not all(letter in self.numbers for letter in letters):
            raise invalid("word", got=repr(word), expected="one or more symbols of the model, without ' '")
        return [self.numbers[letter] for letter in letters]

    def frames(self, log_probabilities) -> np.ndarray:
        """Log-probabilities as float64, (time, symbols), none below `FLOOR`; `ValueError` for any other array."""
        frames = np.asarray(log_probabilities)
        if frames.ndim != 2 or frames.shape[1] != len(self) or frames.dtype.kind != "f":
            got = f"{frames.dtype} {frames.shape}"
            raise invalid("log-probabilities", got=got, expected=f"numbers of shape (time, {len(self)})")
        if np.isnan(frames).any() or (frames > 1e-3).any():
            raise invalid(
                "log-probabilities", got="NaN or numbers above 0", expected="logarithms", hint="log_softmax(logits)"
            )
        return np.maximum(frames.astype(np.float64), FLOOR)


def log_softmax(logits) -> np.ndarray:
    """`logits - log(sum(exp(logits)))` over the last axis, in float64; log-probabilities stay what they are.

    >>> np.exp(log_softmax([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
