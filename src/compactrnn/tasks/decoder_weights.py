"""Choice of a decoder's weights on recordings that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from .._errors import invalid
from ..decoding import RecognizerSpec
from .word_errors import word_errors

LM_WEIGHTS, WORD_BONUSES = (0.0, 0.15, 0.3, 0.5, 0.75), (-1.0, 0.0, 1.0, 2.0)


def tune(
    spec: RecognizerSpec,
    recordings: Sequence[tuple[np.ndarray, str]],
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_bonuses: Sequence[float] = WORD_BONUSES,
) -> tuple[RecognizerSpec, dict[tuple[float, float], float]]:
    """`spec` with the pair of weights that gives the fewest word errors, and the word error rate of each pair, 0 to 1.

    Of equal pairs the first is taken. `recordings` are log-probabilities, (time, symbols), and what was said, of
    speakers and texts that neither the acoustic model nor the bigram was trained on.

    Raises:
        ValueError: no recording, or a spec without a lexicon.

    >>> from compactrnn.decoding import Bigram
    >>> spec = RecognizerSpec(("", " ", "a", "b"), bigram=Bigram.of(["a b"] * 5))
    >>> frames = np.log([[0.1, 0.1, 0.5, 0.3], [0.2, 0.6, 0.1, 0.1], [0.1, 0.1, 0.42, 0.38]])
    >>> tuned, rates = tune(spec, [(frames, "a b")], lm_weights=(0.0, 1.0), word_bonuses=(0.0,))
    >>> tuned.lm_weight, rates
    (1.0, {(0.0, 0.0): 0.5, (1.0, 0.0): 0.0})
    """
    if not recordings or spec.words is None:
        got = "no recordings" if spec.words else "no lexicon"
        raise invalid("decoder weights", got=got, expected="recordings, and a lexicon to decode them with")
    texts, rates = [text for _, text in recordings], {}
    for pair in product(lm_weights, word_bonuses):
        decoder = replace(spec, lm_weight=pair[0], word_bonus=pair[1]).decoder("lexicon")
        found = [" ".join(decoder.decode(frames)) for frames, _ in recordings]
        errors, words = word_errors(texts, found)
        rates[pair] = errors / words
    best = min(rates, key=rates.__getitem__)
    return replace(spec, lm_weight=best[0], word_bonus=best[1]), rates
