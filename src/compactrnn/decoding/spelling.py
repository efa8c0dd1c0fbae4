"""A lexicon as a tree of its spellings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._errors import invalid
from .alphabet import Alphabet

NO_WORD = -1


class Move(NamedTuple):
    """One symbol further, to another node."""

    symbol: int
    node: int


class SpellingTree:
    """The prefixes of the words of a lexicon; node 0 is the empty one.

    `symbols[n]` is the last symbol of node n, `texts[n]` what it spells, `words[n]` the number of the word that it is,
    or `NO_WORD`. `within[n]` leads to the nodes that are longer by a symbol, `between` on from a word that has ended:
    by a separator back to node 0, or, where the alphabet has none, by the first symbol of the next word.

    >>> tree = SpellingTree(["A", "AN"], Alphabet(["", " ", "A", "N"]))
    >>> tree.texts, tree.words
    (['', 'A', 'AN'], [-1, 0, 1])
    >>> tree.within[1], tree.between
    ([Move(symbol=3, node=2)], [Move(symbol=1, node=0)])
    """

    def __init__(self, lexicon: Iterable[str], alphabet: Alphabet):
        self.lexicon = tuple(dict.fromkeys(lexicon))
        if not self.lexicon:
            raise invalid("lexicon", got="no words", expected="at least one")
        separator = alphabet.separator
        self.symbols = [alphabet.blank if separator is None else separator]
        self.texts, self.words = [""], [NO_WORD]
        children: list[dict[int, int]] = [{}]
        on_the_way: list[tuple[int, int]] = []  # each node of each word
        for word, text in enumerate(self.lexicon):
            node = 0
            on_the_way.append((node, word))
            for symbol in alphabet.spell(text):
                if symbol not in children[node]:
                    children[node][symbol] = len(children)
                    children.append({})
                    self.symbols.append(symbol)
                    self.texts.append(self.texts[node] + alphabet.symbols[symbol])
                    self.words.append(NO_WORD)
                node = children[node][symbol]
                on_the_way.append((node, word))
            self.words[node] = word
        self._nodes, self._below = np.array(on_the_way).T
        self.within = [[Move(symbol, node) for symbol, node in below.items()] for below in children]
        self.between = self.within[0] if separator is None else [Move(separator, 0)]

    def __len__(self) -> int:
        return len(self.words)

    def best_below(self, scores: np.ndarray) -> np.ndarray:
        """The best of `scores` (words,) among the words that begin with each node: (nodes,)."""
        best = np.full(len(self), -np.inf)
        np.maximum.at(best, self._nodes, scores[self._below])
        return best
