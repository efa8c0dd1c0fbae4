"""Text corpora with a training, validation and test split."""

import os
from dataclasses import dataclass
from importlib.resources import as_file, files

from .._errors import invalid
from .folder import data_folder
from .text import read_text


@dataclass(frozen=True)
class Corpus:
    """The training, validation and test split of a text."""

    name: str
    train: str
    valid: str
    test: str

    @classmethod
    def split(cls, name: str, text: str) -> "Corpus":
        """The first 80 %, the next 10 % and the last 10 % of the characters of `text`.

        >>> Corpus.split("digits", "0123456789")
        Corpus(name='digits', train='01234567', valid='8', test='9')
        """
        if len(text) < 10:
            raise invalid(f"text {name}", got=f"{len(text)} characters", expected="at least 10")
        first, second = len(text) * 8 // 10, len(text) * 9 // 10
        return cls(name, text[:first], text[first:second], text[second:])


CORPORA = ("alice", "ptb")  # known by name; others are paths


def load_corpus(name_or_path: str) -> Corpus:
    """The bundled `alice`, the Penn Treebank (`ptb`) in the data folder, or any text file, split in order.

    >>> load_corpus("alice").train[:9]
    'CHAPTER I'
    """
    if name_or_path == "alice":
        with as_file(files("compactrnn.data") / "alice.txt.gz") as path:
            return Corpus.split("alice", read_text(path))
    if name_or_path == "ptb":
        return Corpus("ptb", *(_penn_treebank_part(part) for part in ("train", "valid", "test")))
    if not name_or_path or not os.path.exists(name_or_path):
        raise invalid("data", got=repr(name_or_path), expected="alice, ptb, or the path of a text file")
    return Corpus.split(str(name_or_path), read_text(name_or_path))


def _penn_treebank_part(part: str) -> str:
    folder = data_folder() / "ptb"
    for name in (f"ptb.{part}.txt.gz", f"ptb.{part}.txt"):
        if (folder / name).is_file():
            return "".join(line.strip() + "\n" for line in read_text(folder / name).splitlines())
    raise invalid(
        "Penn Treebank",
        got=f"no ptb.{part}.txt or ptb.{part}.txt.gz in {folder}",
        expected="Mikolov's three files",
        hint="set COMPACTRNN_DATA to the folder that holds ptb/, or see: compactrnn data list",
    )
