"""What words add to the score of a hypothesis."""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._errors import invalid
from .bigram import BOUNDARY, Bigram
from .spelling import NO_WORD, SpellingTree

CACHED = 1 << 20  # numbers


class Row(NamedTuple):
    """After one word: what each next word adds, the best of them by node of the tree, and what the end adds."""

    words: array[float]
    ahead: array[float]
    end: float


class WordScores:
    """`weight * log P(w | v) + bonus` for the words of a tree; without a bigram, `bonus`."""

    def __init__(self, tree: SpellingTree, bigram: Bigram | None, weight: float, bonus: float):
        self._tree, self._bigram, self._weight, self._bonus = tree, bigram, weight, bonus
        self._columns = np.zeros(0, int)
        if bigram is not None:
            number = {word: place for place, word in enumerate(bigram.words)}
            if unknown := [word for word in tree.lexicon if word not in number]:
                raise invalid("lexicon", got=repr(unknown[0]), expected="words of the bigram: Bigram.of(..., words=)")
            self._columns = np.array([number[word] for word in tree.lexicon])
        self.after = lru_cache(max(2, CACHED // len(tree)))(self._after)

    def _after(self, word: int) -> Row:
        """The scores after word number `word`, or at the beginning, after `NO_WORD`."""
        if self._bigram is None:
            words, end = np.full(len(self._tree.lexicon), self._bonus), 0.0
        else:
            row = self._weight * self._bigram.row(BOUNDARY if word == NO_WORD else self._tree.lexicon[word])
            words, end = row[self._columns] + self._bonus, float(row[-1])
        ahead = self._tree.best_below(words)
        return Row(array("d", words.tobytes()), array("d", ahead.tobytes()), end)
