"""The grammar of benchmark models: `lstm:1500-373-315`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..._errors import invalid

GRAMMAR = "CELL:[VOCABULARY@]INPUT-HIDDEN[-HIDDEN...], such as lstm:40-128, gru:400-400-400 or lstm:10000@1500-373-315"
CELLS = ("lstm", "gru")
MOST_DIGITS, MOST_LAYERS = 9, 1000
_SIZES = re.compile(r"(?:([1-9]\d*)@)?([1-9]\d*(?:-[1-9]\d*)+)")


@dataclass(frozen=True)
class Spec:
    """A stack of recurrent layers without an output layer; with a vocabulary it takes tokens and embeds them.

    >>> parse_spec("lstm:10000@1500-373-315")
    Spec(cell='lstm', input_size=1500, hidden=(373, 315), vocabulary=10000)
    """

    cell: str
    input_size: int
    hidden: tuple[int, ...]
    vocabulary: int = 0

    def weights(self) -> int:
        """Number of weights in its matrices.

        >>> parse_spec("gru:3-5").weights()
        120
        """
        gates, total, size = {"lstm": 4, "gru": 3}[self.cell], self.vocabulary * self.input_size, self.input_size
        for hidden in self.hidden:
            total, size = total + gates * hidden * (size + hidden), hidden
        return total

    def __str__(self) -> str:
        tokens = f"{self.vocabulary}@" if self.vocabulary else ""
        return f"{self.cell}:{tokens}{'-'.join(map(str, (self.input_size, *self.hidden)))}"


def parse_spec(text: str) -> Spec:
    """Parse a model name; `ValueError` with the grammar if it is malformed."""
    cell, _, rest = text.partition(":")
    found = _SIZES.fullmatch(rest)
    if cell not in CELLS or found is None:
        raise invalid("model", got=repr(text), expected=GRAMMAR)
    sizes = found[2].split("-")
    if max(map(len, (found[1] or "", *sizes))) > MOST_DIGITS or len(sizes) > MOST_LAYERS:
        got, wanted = "too large a model", f"sizes of at most {MOST_DIGITS} digits, at most {MOST_LAYERS} of them"
        raise invalid("model", got=got, expected=wanted)
    first, *hidden = map(int, sizes)
    return Spec(cell, first, tuple(hidden), int(found[1] or 0))
