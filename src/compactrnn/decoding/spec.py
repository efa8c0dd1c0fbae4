"""What a model file says of the recognizer that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from .._errors import check_positive, invalid
from .._text import shortened
from .alphabet import Alphabet
from .base import AbstractDecoder
from .bigram import Bigram
from .greedy import GreedyDecoder
from .lexicon import LexiconDecoder

KEY = "recognizer"  # of a model file's metadata
DECODERS = ("greedy", "lexicon")
INPUTS = ("features", "audio")
MOST_LETTERS = 1 << 20  # of all symbols, and of all words
MOST_SCORES = 1 << 26  # that a search may have to keep: those of a tree's nodes after each prefix's last word
LIMITS = {"frames_per_step": 1 << 20, "beam": 1000}
RANGES = {
    "sample_rate": (1e-3, 1e6),
    "lm_weight": (-1e3, 1e3),
    "word_bonus": (-1e3, 1e3),
    "threshold": (1e-3, 1e6),
    "certainty": (1e-3, 1e6),
}


@dataclass(frozen=True)
class RecognizerSpec:
    """What a recognizer takes and gives; in the metadata of a model file it is the entry "recognizer".

    Attributes:
        symbols: those of the model's output, by number; see `Alphabet`.
        blank: the number of CTC's blank.
        input: "features", or "audio": samples from -1 to 1.
        frames_per_step: how many frames, or samples, one step of the model takes.
        sample_rate: frames, or samples, a second.
        lexicon: the words that it may be decoded with; None: those of the bigram, or, without one, any.
        bigram: a language model of these words, or None.
        lm_weight, word_bonus, beam, threshold, certainty: those of `LexiconDecoder`.

    Raises:
        ValueError: a value of another type, or out of range; a lexicon that cannot be spelled.

    >>> spec = RecognizerSpec(("", " ", "a", "b"), bigram=Bigram.of(["ab b", "b"]), word_bonus=0.5)
    >>> RecognizerSpec.from_metadata(spec.metadata()) == spec
    True
    """

    symbols: tuple[str, ...]
    blank: int = 0
    input: str = "features"
    frames_per_step: int = 1
    sample_rate: float = 100
    lexicon: tuple[str, ...] | None = None
    bigram: Bigram | None = None
    lm_weight: float = 0.5
    word_bonus: float = 0.0
    beam: int = 50
    threshold: float = 12.0
    certainty: float = 3.0

    def __post_init__(self):
        _check_texts("symbols", self.symbols)
        if self.input not in INPUTS:
            raise invalid("input", got=shortened(self.input), expected=" or ".join(INPUTS))
        for name, most in LIMITS.items():
            if check_positive(getattr(self, name), name) > most:
                raise invalid(name, got=getattr(self, name), expected=f"at most {most}")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise invalid(name, got=shortened(value), expected=f"a number from {least:g} to {most:g}")
        if self.lexicon is not None:
            _check_texts("lexicon", self.lexicon)
        if self.bigram is not None and not isinstance(self.bigram, Bigram):
            raise invalid("bigram", got=shortened(self.bigram), expected="a Bigram")
        decoder = self.decoder()
        if isinstance(decoder, LexiconDecoder) and self.beam * len(decoder.tree) > MOST_SCORES:
            got = f"{len(decoder.tree):,} beginnings of words with a beam of {self.beam}"
            raise invalid("lexicon", got=got, expected=f"at most {MOST_SCORES:,} as their product")

    @property
    def words(self) -> tuple[str, ...] | None:
        """The lexicon, or the words of the bigram."""
        return self.bigram.words if self.lexicon is None and self.bigram is not None else self.lexicon

    @property
    def default_decoder(self) -> str:
        """ "lexicon", if there is one, else "greedy"."""
        return "greedy" if self.words is None else "lexicon"

    def decoder(self, name: str | None = None) -> AbstractDecoder:
        """A new decoder, "greedy" or "lexicon"."""
        name = name or self.default_decoder
        alphabet = Alphabet(self.symbols, self.blank)
        if name == "greedy":
            return GreedyDecoder(alphabet)
        if name != "lexicon":
            raise invalid("decode", got=repr(name), expected=" or ".join(DECODERS))
        if self.words is None:
            raise invalid("decode", got="'lexicon'", expected="'greedy', as the model has no lexicon")
        return LexiconDecoder(
            alphabet,
            self.words,
            self.bigram,
            lm_weight=self.lm_weight,
            word_bonus=self.word_bonus,
            beam=self.beam,
            threshold=self.threshold,
            certainty=self.certainty,
        )

    def metadata(self) -> dict[str, Any]:
        """`{"recognizer": ...}`, to be packed: `cr.pack(..., metadata=spec.metadata())`."""
        section = {f.name: getattr(self, f.name) for f in fields(self)}
        section["bigram"] = self.bigram and self.bigram.as_json()
        return {KEY: {k: list(v) if isinstance(v, tuple) else v for k, v in section.items() if v is not None}}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """The recognizer of a packed model; the metadata may be anyone's."""
        section, names = metadata.get(KEY), [f.name for f in fields(cls)]
        if not isinstance(section, Mapping):
            hint = "pack(..., metadata=RecognizerSpec(...).metadata()) says what a recognizer takes and gives"
            raise invalid("model metadata", got="no recognizer", expected=f"an entry {KEY!r}", hint=hint)
        if unknown := sorted(section.keys() - names):
            raise invalid(f"model metadata: {KEY}", got=shortened(unknown[0]), expected=f"some of {', '.join(names)}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
        try:
            if "bigram" in values:
                values["bigram"] = Bigram.from_json(values["bigram"])
            return cls(**{"symbols": (), **values})
        except ValueError as error:
            raise ValueError(f"model metadata: {KEY}: {error}") from None


def _check_texts(name: str, texts: Any) -> None:
    if not isinstance(texts, tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise invalid(name, got=shortened(texts), expected="texts")
    if (letters := sum(map(len, texts))) > MOST_LETTERS:
        raise invalid(name, got=f"{letters:,} characters", expected=f"at most {MOST_LETTERS:,}")
