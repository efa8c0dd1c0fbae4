"""Vocabularies of characters or words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from .._errors import invalid

UNKNOWN = {"character": "\ufffd", "word": "<unk>"}
END_OF_LINE = "<eos>"


class Vocabulary:
    """The symbols of a training text; all others are encoded as the unknown one.

    >>> vocabulary = Vocabulary.of("abracadabra", "character")
    >>> vocabulary.symbols
    ('a', 'b', 'c', 'd', 'r', '�')
    >>> vocabulary.encode("bazar").tolist()
    [1, 0, 5, 0, 4]
    """

    def __init__(self, symbols: Sequence[str], level: str):
        if level not in UNKNOWN:
            raise invalid("level", got=repr(level), expected="character or word")
        self.level = level
        self.symbols = tuple(symbols)
        self._index = {symbol: number for number, symbol in enumerate(self.symbols)}
        if len(self._index) != len(self.symbols) or UNKNOWN[level] not in self._index:
            raise invalid(
                "vocabulary", got=f"{len(self.symbols)} symbols", expected="each once, the unknown one among them"
            )
        self.unknown = self._index[UNKNOWN[level]]

    @classmethod
    def of(cls, text: str, level: str, minimum_count: int = 1) -> Vocabulary:
        """Those symbols of `text` that occur `minimum_count` times, in code-point order, and the unknown symbol."""
        if level not in UNKNOWN:
            raise invalid("level", got=repr(level), expected="character or word")
        counts = Counter(split_symbols(text, level))
        known = {symbol for symbol, count in counts.items() if count >= minimum_count} | {UNKNOWN[level]}
        return cls(sorted(known), level)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`: int64, (time,)."""
        find, unknown = self._index.get, self.unknown
        return np.fromiter((find(s, unknown) for s in split_symbols(text, self.level)), np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`."""
        symbols = [self.symbols[token] for token in tokens]
        if self.level == "character":
            return "".join(symbols)
        return " ".join(symbols).replace(f" {END_OF_LINE} ", "\n").replace(END_OF_LINE, "\n")


def split_symbols(text: str, level: str) -> Iterable[str]:
    """The characters of a text, or its words with `<eos>` at every line end.

    >>> list(split_symbols("to be\\nor not", "word"))
    ['to', 'be', '<eos>', 'or', 'not', '<eos>']
    """
    if level == "character":
        return text
    return (word for line in text.splitlines() for word in (*line.split(), END_OF_LINE))
