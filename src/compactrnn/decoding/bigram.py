"""A bigram language model of words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from .._errors import invalid
from .._text import shortened

BOUNDARY = ""  # what stands before the first word and after the last


class Bigram:
    """Word probabilities given the word before, with Witten-Bell smoothing down to unigrams and equal shares.

        P(w | v) = (c(v, w) + T(v) P(w)) / (c(v) + T(v))
        P(w)     = (c(w) + T / V) / (N + T)

    c counts in the transcripts. T(v) is the number of different words after v, N that of all words, T that of different
    words, V the size of the vocabulary. The end of a transcript is a word, `""`, in all of these; before the first
    word, v is `""`.

    `counts[v][w]` is c(v, w); `words` may name words that do not occur.

    Raises:
        ValueError: a count that is no positive int, or nothing counted.

    Source: Witten, Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), 1991, method C;
    interpolated as in Chen, Goodman, "An empirical study of smoothing techniques for language modeling", 1998.

    >>> bigram = Bigram.of(["GO", "STOP", "GO GO STOP"])
    >>> bigram.words
    ('GO', 'STOP')
    >>> round(math.exp(bigram.log_probability("GO", "STOP")), 4)
    0.303
    >>> round(sum(math.exp(bigram.log_probability("GO", w)) for w in ("GO", "STOP", "")), 12)
    1.0
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]], words: Iterable[str] = ()):
        pairs = [(before, word, count) for before, row in counts.items() for word, count in row.items()]
        if not pairs or any(isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 2**53 for *_, n in pairs):
            raise invalid(
                "bigram counts", got="none, or one that is no positive int", expected="positive whole numbers"
            )
        self.counts = {before: dict(row) for before, row in counts.items() if row}
        known = {*words, *(before for before, *_ in pairs), *(word for _, word, _ in pairs)}
        self.words = tuple(sorted(known - {BOUNDARY}))
        self._number = {word: number for number, word in enumerate((*self.words, BOUNDARY))}
        unigrams = np.zeros(len(self._number))
        for _, word, count in pairs:
            unigrams[self._number[word]] += count
        types = np.count_nonzero(unigrams)
        self._unigram = (unigrams + types / len(unigrams)) / (unigrams.sum() + types)

    @classmethod
    def of(cls, transcripts: Iterable[str], words: Iterable[str] = ()) -> Bigram:
        """The model of transcripts: texts, words separated by spaces."""
        counts: dict[str, Counter[str]] = {}
        for transcript in transcripts:
            sentence = [BOUNDARY, *transcript.split(), BOUNDARY]
            for before, word in pairwise(sentence):
                counts.setdefault(before, Counter())[word] += 1
        return cls(counts, words)

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold: the counts, and the words that have none."""
        seen = {word for row in self.counts.values() for word in row}
        return {"counts": self.counts, "unseen": [word for word in self.words if word not in seen]}

    @classmethod
    def from_json(cls, value: Any) -> Bigram:
        """The model that `as_json` gave; `ValueError` for anything else."""
        counts, unseen = (value.get("counts"), value.get("unseen")) if isinstance(value, dict) else (None, None)
        if not isinstance(counts, dict) or not all(isinstance(row, dict) for row in counts.values()):
            raise invalid("bigram: counts", got=shortened(counts), expected="a dict of dicts")
        if not isinstance(unseen, list) or not all(isinstance(word, str) for word in unseen):
            raise invalid("bigram: unseen", got=shortened(unseen), expected="a list of words")
        return cls(counts, unseen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bigram) and (self.counts, self.words) == (other.counts, other.words)

    def row(self, before: str) -> np.ndarray:
        """`log P(w | before)` of each of `words` and, last, of the end: (words + 1,)."""
        if before not in self._number:
            raise invalid("word", got=repr(before), expected="one of the bigram's words")
        seen = self.counts.get(before, {})
        row = len(seen) * self._unigram
        for word, count in seen.items():
            row[self._number[word]] += count
        return np.log(row / row.sum()) if seen else np.log(self._unigram)

    def log_probability(self, before: str, word: str) -> float:
        """`log P(word | before)`; `""` is the beginning as `before` and the end as `word`."""
        if word not in self._number:
            raise invalid("word", got=repr(word), expected="one of the bigram's words")
        return float(self.row(before)[self._number[word]])

    def perplexity(self, transcripts: Iterable[str]) -> float:
        """`exp` of the mean negative log-likelihood of a word, ends of transcripts included."""
        rows: dict[str, np.ndarray] = {}
        total, count = 0.0, 0
        for transcript in transcripts:
            sentence = [BOUNDARY, *transcript.split(), BOUNDARY]
            for before, word in pairwise(sentence):
                if before not in rows:
                    rows[before] = self.row(before)
                if word not in self._number:
                    raise invalid("word", got=repr(word), expected="one of the bigram's words")
                total, count = total - float(rows[before][self._number[word]]), count + 1
        return math.exp(total / count) if count else math.nan
