"""Prefix beam search over the words of a lexicon, with a bigram."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .._errors import check_positive, invalid
from .alphabet import Alphabet
from .base import AbstractDecoder
from .bigram import Bigram
from .spelling import NO_WORD, SpellingTree
from .word_scores import Row, WordScores

LONGEST = 64  # words that need not be certain


Prefix = tuple[tuple[int, ...], int]  # words that are not certain, and the node of the tree that the next has come to


class Score(NamedTuple):
    """Log-probabilities of the alignments of a prefix: those that end in a blank, in its last symbol, in either.

    `language` is what its words add, `row` what the next may add, `rank` the score that prefixes are compared by.
    """

    blank: float
    symbol: float
    either: float
    language: float
    row: Row
    rank: float


class LexiconDecoder(AbstractDecoder):
    """The words `w_1 ... w_n` of a lexicon with the highest score

        log P(w_1 ... w_n | frames) + lm_weight * log P(w_1 ... w_n) + word_bonus * n

    The first term sums over all CTC alignments of the words' spelling, `" "` between them; the second is the bigram's,
    the end included. After each frame the `beam` best prefixes are kept, of those whose score is less than `threshold`
    below the best one's; without these limits the search is exact. Within a word the language model already counts, by
    the best word that the letters may still become.

    A word is returned when it is certain: when all prefixes without it are `certainty` or more below the best one, or
    it is followed by 64 others that are not certain. So memory does not grow with the length of a stream.

    Own code, as the libraries do not fit: pyctcdecode 0.5 needs NumPy 1, flashlight-text 0.0.7, on which torchaudio's
    decoder builds, has no build for Python 3.13, and both take a language model from KenLM's files.

    Args:
        alphabet: the symbols of the frames.
        lexicon: the words, spelled by their characters; where the alphabet has no `" "`, each is a symbol.
        bigram: a language model that knows them all; None: `lm_weight` has no effect.

    Raises:
        ValueError: no word, one that cannot be spelled or that the bigram does not know, a weight that is not finite.

    Sources: Graves, Jaitly, "Towards end-to-end speech recognition with recurrent neural networks", ICML 2014; Hannun
    et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", arXiv
    1408.2873; the look-ahead: Ortmanns, Ney, "Look-ahead techniques for fast beam search", Computer Speech and Language
    14(1), 2000.

    >>> alphabet = Alphabet(["", " ", "a", "b"])
    >>> frames = np.log([[0.1, 0.1, 0.6, 0.2], [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.1, 0.6], [0.1, 0.6, 0.1, 0.2]])
    >>> LexiconDecoder(alphabet, ["b", "ba"]).decode(frames)
    ['b']
    >>> LexiconDecoder(alphabet, ["ab", "b"]).decode(frames)
    ['ab']
    """

    def __init__(
        self,
        alphabet: Alphabet,
        lexicon: Iterable[str],
        bigram: Bigram | None = None,
        *,
        lm_weight: float = 0.5,
        word_bonus: float = 0.0,
        beam: int = 50,
        threshold: float = 12.0,
        certainty: float = 3.0,
    ):
        for name, value in (("lm_weight", lm_weight), ("word_bonus", word_bonus)):
            if not math.isfinite(value):
                raise invalid(name, got=value, expected="a finite number")
        for name, value in (("threshold", threshold), ("certainty", certainty)):
            if not value > 0:
                raise invalid(name, got=value, expected="a positive number")
        self.alphabet, self.beam = alphabet, check_positive(beam, "beam")
        self.threshold, self.certainty = threshold, certainty
        self.tree = SpellingTree(lexicon, alphabet)
        self._scores = WordScores(self.tree, bigram, lm_weight, word_bonus)
        self._start()

    def _start(self) -> None:
        self._kept: dict[Prefix, Score] = {((), 0): Score(0.0, -math.inf, 0.0, 0.0, self._scores.after(NO_WORD), 0.0)}

    def feed(self, log_probabilities: np.ndarray) -> list[str]:
        certain: list[int] = []
        for frame in self.alphabet.frames(log_probabilities).tolist():
            self._kept = self._best(self._extended(frame))
            certain += self._settle()
        return [self.tree.lexicon[word] for word in certain]

    def _extended(self, frame: list[float]) -> dict[Prefix, list]:
        """The prefixes after one more frame: [blank, symbol, language, row] as in `Score`."""
        grown: dict[Prefix, list] = {}
        tree, after = self.tree, self._scores.after
        blank_frame = frame[self.alphabet.blank]
        least = self._least() + blank_frame
        for prefix, (blank, symbol, either, language, row, _) in self._kept.items():
            words, node = prefix
            last, word = tree.symbols[node], tree.words[node]
            if (entry := grown.get(prefix)) is None:
                grown[prefix] = [either + blank_frame, symbol + frame[last], language, row]
            else:  # the prefix that is shorter by a symbol has come to it
                entry[:2] = either + blank_frame, _log_add(symbol + frame[last], entry[1])
            ways = [(tree.within[node], words, language, row)]
            if word != NO_WORD:
                ways.append((tree.between, (*words, word), language + row.words[word], after(word)))
            for moves, text, said, then in ways:
                for following, place in moves:
                    path = (blank if following == last else either) + frame[following]
                    if path + said + then.ahead[place] <= least:
                        continue
                    if (entry := grown.get((text, place))) is None:
                        grown[text, place] = [-math.inf, path, said, then]
                    else:
                        entry[1] = _log_add(entry[1], path)
        return grown

    def _least(self) -> float:
        """The rank that a path must exceed in the next frame, less that frame's log-probability of the blank.

        All prefixes may take the blank, so that there will be as many with their present rank and the blank's.
        """
        ranks = [score.rank for score in self._kept.values()]
        return max(max(ranks) - self.threshold, min(ranks) if len(ranks) == self.beam else -math.inf)

    def _best(self, grown: dict[Prefix, list]) -> dict[Prefix, Score]:
        """Those within `threshold` of the best, at most `beam`."""
        ranked = []
        for prefix, (blank, symbol, language, row) in grown.items():
            either = _log_add(blank, symbol)
            ranked.append((either + language + row.ahead[prefix[1]], either, prefix))
        least = max(ranked)[0] - self.threshold
        kept = [entry for entry in ranked if entry[0] >= least]
        if len(kept) > self.beam:
            kept = sorted(kept, reverse=True)[: self.beam]
        best: dict[Prefix, Score] = {}
        for rank, either, prefix in kept:
            blank, symbol, language, row = grown[prefix]
            best[prefix] = Score(blank, symbol, either, language, row, rank)
        return best

    def _settle(self) -> list[int]:
        """Take off words that are certain, and drop the prefixes that begin otherwise."""
        certain: list[int] = []
        while words := self._leader()[0]:
            best, first = self._kept[self._leader()].rank, words[:1]
            rival = max((score.rank for (said, _), score in self._kept.items() if said[:1] != first), default=-math.inf)
            if best - rival < self.certainty and len(words) <= LONGEST:
                break
            self._kept = {(said[1:], node): s for (said, node), s in self._kept.items() if said[:1] == first}
            certain.append(words[0])
        return certain

    def _leader(self) -> Prefix:
        return max(self._kept, key=lambda prefix: self._kept[prefix].rank)

    @property
    def partial(self) -> str:
        words, node = self._leader()
        return " ".join([*(self.tree.lexicon[word] for word in words), self.tree.texts[node]]).rstrip()

    def hypotheses(self) -> list[tuple[list[str], float]]:
        """What has been said, if the recording ends here: the words not returned yet, and the score, best first."""
        ended: dict[tuple[int, ...], tuple[float, float]] = {}
        for (words, node), score in self._kept.items():
            word = self.tree.words[node]
            if node and word == NO_WORD:
                continue  # within a word
            language, row = score.language, score.row
            if node:
                words, language, row = (*words, word), language + row.words[word], self._scores.after(word)
            alignments = _log_add(score.either, ended.get(words, (-math.inf, 0.0))[0])
            ended[words] = (alignments, language + row.end)
        pairs = [([self.tree.lexicon[w] for w in words], sum(parts)) for words, parts in ended.items()]
        return sorted(pairs, key=lambda pair: pair[1], reverse=True)

    def finish(self) -> list[str]:
        found = self.hypotheses()
        words = found[0][0] if found else [self.tree.lexicon[word] for word in self._leader()[0]]
        self._start()
        return words


def _log_add(a: float, b: float) -> float:
    """`log(exp(a) + exp(b))`; not both are `-inf`."""
    return a + math.log1p(math.exp(b - a)) if a > b else b + math.log1p(math.exp(a - b))
