"""Greedy and lexicon decoding, and the bigram: against numpy and against all alignments of tiny cases."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactrnn.decoding import Alphabet, Bigram, GreedyDecoder, LexiconDecoder, log_softmax

LETTERS = Alphabet(["", " ", "a", "b"])
WORDS = Alphabet(["one", "two", "-"], blank=2)
CASES = {
    "letters": (LETTERS, ["a", "ab", "b", "aa"], ["ab a", "b b", "aa", "a b ab"]),
    "letters, no bigram": (LETTERS, ["ab", "b"], None),
    "words": (WORDS, ["one", "two"], ["one two", "two two", "one"]),
    "no separator": (Alphabet(["a", "-", "b"], blank=1), ["a", "b"], ["a b b", "a"]),
}


def frames_of(alphabet, steps, seed, sharpness=1.5):
    random = np.random.default_rng(seed)
    return log_softmax(sharpness * random.standard_normal((steps, len(alphabet))))


def collapsed(path, alphabet):
    """CTC's map from an alignment to symbols."""
    return tuple(n for n, _ in itertools.groupby(path) if n != alphabet.blank)


def readings(symbols, alphabet, lexicon):
    """The words that symbols spell, if they are of the lexicon; one separator may follow the last."""
    text = "".join(alphabet.symbols[n] for n in symbols)
    if alphabet.separator is None:
        words = [alphabet.symbols[n] for n in symbols]
    else:
        words = text.split(" ")
        words = words[:-1] if words[-1] == "" else words
    return tuple(words) if all(word in lexicon for word in words) else None


def all_scores(frames, alphabet, lexicon, bigram, weight, bonus):
    """The score of every sentence by its definition: every alignment is looked at."""
    sums = {}
    for path in itertools.product(range(len(alphabet)), repeat=len(frames)):
        words = readings(collapsed(path, alphabet), alphabet, lexicon)
        if words is not None:
            logarithm = sum(frames[t, n] for t, n in enumerate(path))
            sums[words] = sums.get(words, 0.0) + math.exp(logarithm)
    scores = {}
    for words, total in sums.items():
        pairs = zip(["", *words], [*words, ""], strict=True)
        language = sum(bigram.log_probability(v, w) for v, w in pairs) if bigram else 0.0
        scores[words] = math.log(total) + weight * language + bonus * len(words)
    return scores


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_sums_over_all_alignments(name, seed):
    alphabet, lexicon, transcripts = CASES[name]
    bigram = Bigram.of(transcripts, lexicon) if transcripts else None
    frames = frames_of(alphabet, 6, seed)
    limits = {"beam": 100_000, "threshold": math.inf, "certainty": math.inf}
    exact = LexiconDecoder(alphabet, lexicon, bigram, lm_weight=0.7, word_bonus=0.4, **limits)
    exact.feed(frames)
    found = {tuple(words): score for words, score in exact.hypotheses()}
    wanted = all_scores(frames, alphabet, lexicon, bigram, 0.7, 0.4)
    assert found.keys() == wanted.keys()
    assert max(abs(found[words] - wanted[words]) for words in wanted) < 1e-9
    assert tuple(exact.finish()) == max(wanted, key=wanted.__getitem__)


def spoken(text, alphabet, random, noise, clearly=4.0):
    """Log-probabilities in which `text` was said, with noise."""
    path = []
    for symbol in text:
        path += [alphabet.numbers[symbol]] * random.integers(1, 3) + [alphabet.blank] * random.integers(1, 3)
    logits = noise * random.standard_normal((len(path), len(alphabet)))
    logits[np.arange(len(path)), path] += clearly
    return log_softmax(logits)


SPELLED = Alphabet(["", " ", *"abcde"])
LEXICON = ["a", "b", "ab", "bad", "cab", "dead", "e", "add"]
SAID = ["a bad cab", "dead", "add a b", "e e ab add", "bad a dead cab e"]


def decoders():
    bigram = Bigram.of(SAID)
    return [
        GreedyDecoder(SPELLED),
        LexiconDecoder(SPELLED, LEXICON, bigram, beam=30),
        LexiconDecoder(SPELLED, LEXICON, bigram, beam=3, threshold=4.0, word_bonus=1.0),
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 7), max_size=30))
def test_chunks_do_not_change_words(seed, lengths):
    random = np.random.default_rng(seed)
    frames = spoken(" ".join(random.choice(SAID, 3)), SPELLED, random, noise=1.5)
    for decoder in decoders():
        whole = decoder.decode(frames)
        rest, words = frames, []
        for length in lengths:
            words += decoder.feed(rest[:length])
            rest = rest[length:]
        words += decoder.feed(rest)
        assert words + decoder.finish() == whole


def test_greedy_is_what_numpy_says():
    for seed in range(30):
        frames = frames_of(LETTERS, 40, seed)
        text = "".join(LETTERS.symbols[n] for n in collapsed(frames.argmax(1), LETTERS))
        assert GreedyDecoder(LETTERS).decode(frames) == text.split()


def test_words_are_returned_as_soon_as_they_are_certain():
    frames = spoken("a bad cab", SPELLED, np.random.default_rng(0), noise=0.2, clearly=12.0)
    for decoder in decoders():
        words, seen = [], []
        for frame in frames:
            words += decoder.feed(frame[None])
            seen.append((" ".join(words) + " " + decoder.partial).strip())
        assert words[0] == "a" and len(words) < 3 and seen[-1] == "a bad cab" and "a ba" in seen
        assert words + decoder.finish() == ["a", "bad", "cab"] and decoder.partial == ""


def test_a_stream_of_any_length_keeps_little():
    alphabet = Alphabet(["-", "one", "two"])
    decoder = LexiconDecoder(alphabet, ["one", "two"], beam=4)
    frames = log_softmax(np.zeros((3000, 3)))  # nothing is ever more likely than something else
    words = decoder.decode(frames)
    assert max(len(words) for words, _ in decoder._kept) <= 65
    other, pieces = LexiconDecoder(alphabet, ["one", "two"], beam=4), []
    for start in range(0, 3000, 7):
        pieces += other.feed(frames[start : start + 7])
    assert pieces + other.finish() == words


def test_the_bigram_decides_between_words_that_sound_alike():
    frames = log_softmax([[0.0, -30.0, 0.0, 0.0]] * 4)
    for said, other in (("a", "b"), ("b", "a")):
        bigram = Bigram.of([said] * 5 + [other])
        assert LexiconDecoder(LETTERS, ["a", "b"], bigram).decode(frames) == [said]


def test_letters_that_the_lexicon_does_not_have():
    frames = np.full((3, 4), -np.inf)
    frames[:, 3] = 0.0  # b, with certainty
    assert LexiconDecoder(LETTERS, ["a"]).decode(frames) in ([], ["a"])


def test_a_recording_that_ends_within_a_word():
    frames = log_softmax(20.0 * np.eye(4)[[2, 3, 1, 2]])
    assert LexiconDecoder(LETTERS, ["ab", "abab"]).decode(frames) == ["ab"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=4).map(" ".join), min_size=1, max_size=6))
def test_bigram_rows_sum_to_one(transcripts):
    bigram = Bigram.of(transcripts, ["e"])
    for before in ("", *bigram.words):
        assert abs(np.exp(bigram.row(before)).sum() - 1) < 1e-12
    again = Bigram(bigram.counts, bigram.words)
    assert again.words == bigram.words and again.perplexity(transcripts) == bigram.perplexity(transcripts)
    if len(bigram.words) > 1:  # what was seen is likelier than what was not
        assert bigram.log_probability("", "e") < max(bigram.row(""))


WRONG = [
    (lambda: Alphabet(["a"]), "two texts"),
    (lambda: Alphabet(["", "a", "a"]), "each once"),
    (lambda: Alphabet(["a", ""]), "only blank is empty"),
    (lambda: Alphabet(["", "a"], blank=2), "from 0 to 1"),
    (lambda: Alphabet(["", "a"], blank=True), "True"),
    (lambda: LexiconDecoder(LETTERS, []), "no words"),
    (lambda: LexiconDecoder(LETTERS, ["abc"]), "'abc'"),
    (lambda: LexiconDecoder(LETTERS, ["a b"]), "'a b'"),
    (lambda: LexiconDecoder(LETTERS, [""]), "word"),
    (lambda: LexiconDecoder(LETTERS, ["a", "b"], Bigram.of(["a"])), "words of the bigram"),
    (lambda: LexiconDecoder(LETTERS, ["a"], beam=0), "beam"),
    (lambda: LexiconDecoder(LETTERS, ["a"], threshold=0.0), "threshold"),
    (lambda: LexiconDecoder(LETTERS, ["a"], certainty=math.nan), "certainty"),
    (lambda: LexiconDecoder(LETTERS, ["a"], word_bonus=math.nan), "word_bonus"),
    (lambda: Bigram({}), "counts"),
    (lambda: Bigram({"a": {"b": 0}}), "counts"),
    (lambda: Bigram({"a": {"b": True}}), "counts"),
    (lambda: Bigram.of(["a"]).log_probability("a", "x"), "'x'"),
    (lambda: Bigram.of(["a"]).perplexity(["a x"]), "'x'"),
    (lambda: GreedyDecoder(LETTERS).decode(np.zeros((3, 5))), "(time, 4)"),
    (lambda: GreedyDecoder(LETTERS).decode(np.full((3, 4), np.nan)), "NaN"),
    (lambda: LexiconDecoder(LETTERS, ["a"]).decode(np.ones((3, 4))), "log_softmax"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_mistakes(number):
    make, words = WRONG[number]
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
