"""Questions of the Stanford Question Answering Dataset, whose answers are spans of a passage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import invalid
from .folder import data_folder
from .text import read_text

FILES = {"train": "squad_v1_trainpart_tok.json.gz", "test": "squad_v1_devpart.json.gz"}
_TOKEN = re.compile(
    r"(?:[^\W\d_]\.){2,}"  # U.S.
    r"|\w+?(?=n['\u2019]t\b)|n['\u2019]t\b"  # do n't
    r"|['\u2019](?:s|m|d|ll|re|ve)\b"  # it 's
    r"|\w+(?:[-.,:/&]\w+)*"  # four-year, 1,000.5
    r"|\S",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Passage:
    """A text and its tokens: token i is `text[spans[i][0] : spans[i][1]]`."""

    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]

    def between(self, first: int, last: int) -> str:
        """The text from token `first` to token `last`, both included."""
        return self.text[self.spans[first][0] : self.spans[last][1]]


@dataclass(frozen=True)
class Question:
    """A question, the passage with the answer, the answers that people gave, and the tokens of the first of these.

    `span` has the numbers of the first and of the last token.
    """

    tokens: tuple[str, ...]
    passage: Passage
    answers: tuple[str, ...]
    span: tuple[int, int]


def tokenize(text: str) -> Passage:
    """Words, clitics and punctuation marks, much as in the Penn Treebank.

    >>> tokenize("It's 1,000 years old, isn't it?").tokens
    ['It', "'s", '1,000', 'years', 'old', ',', 'is', "n't", 'it', '?']
    """
    return Passage(text, tuple(match.span() for match in _TOKEN.finditer(text)))


def load_squad(part: str) -> list[Question]:
    """Read the training or the test part in the folder `squad_mini` of the data folder.

    A file has the form of SQuAD 1.1, plain or .gz: `data`, `paragraphs`, `context`, `qas`, `question`, `answers`. An
    answer has `text`, and where it begins as `answer_start`, a number of characters. In a passage with tokens between
    single spaces it may have `token_start` and `token_end` instead, the last of its tokens. A question whose first
    answer is empty is left out.

    Raises:
        ValueError: the file is missing, damaged, or not of this form.

    Rajpurkar, Zhang, Lopyrev, Liang: SQuAD: 100,000+ questions for machine comprehension of text, 2016.
    """
    folder = data_folder() / "squad_mini"
    for name in (FILES[part], FILES[part].removesuffix(".gz")):
        if (folder / name).is_file():
            return _read(folder / name)
    raise invalid(
        "SQuAD",
        got=f"no {FILES[part]} in {folder}",
        expected="the file of questions",
        hint="set COMPACTRNN_DATA to the folder that holds squad_mini/, or see: compactrnn data list",
    )


def _read(path: Path) -> list[Question]:
    try:
        found = list(_questions(json.loads(read_text(path))))
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, json.JSONDecodeError) as error:
        got = f"{path} ({type(error).__name__}: {error})"
        raise invalid("SQuAD", got=got, expected="JSON in the form of SQuAD 1.1") from error
    if not found:
        raise invalid("SQuAD", got=f"{path} without a question", expected="at least one")
    return found


def _questions(table: Any) -> Iterator[Question]:
    for article in table["data"]:
        for paragraph in article["paragraphs"]:
            split, whole = _at_spaces(paragraph["context"]), tokenize(paragraph["context"])
            for asked in paragraph["qas"]:
                first = asked["answers"][0]
                if not first["text"].strip():
                    continue
                by_token = "token_start" in first
                passage = split if by_token else whole
                span = (first["token_start"], first["token_end"]) if by_token else _tokens_of(whole, first)
                if not (all(type(n) is int for n in span) and 0 <= span[0] <= span[1] < len(passage.spans)):
                    got = f"answer {first} of {asked['question']!r}"
                    raise invalid("SQuAD", got=got, expected="a part of the passage")
                tokens = asked["question"].split() if by_token else tokenize(asked["question"]).tokens
                yield Question(tuple(tokens), passage, tuple(str(a["text"]) for a in asked["answers"]), span)


def _at_spaces(text: str) -> Passage:
    return Passage(text, tuple(match.span() for match in re.finditer(r"\S+", text)))


def _tokens_of(passage: Passage, answer: Any) -> tuple[int, int]:
    """The first and the last token that an answer covers, or part of."""
    start = answer["answer_start"]
    end = start + len(answer["text"])
    covered = [n for n, (a, b) in enumerate(passage.spans) if a < end and b > start]
    return (covered[0], covered[-1]) if covered and start >= 0 else (-1, -1)
