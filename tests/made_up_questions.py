"""Small files in the form of SQuAD's and GloVe's: what is the color of a thing?"""

import gzip
import json
from pathlib import Path

import numpy as np

THINGS = ("car", "hat", "cup", "box", "tree", "lamp")
COLORS = ("red", "blue", "green", "dark grey", "black")
SIZE = 8


def paragraphs(count, seed, tokens):
    """Passages with several things and their colors; answers by tokens, or by characters."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        things = random.permutation(THINGS)[: 2 + random.integers(4)]
        colors = random.choice(COLORS, len(things))
        text, asked = "", []
        for thing, color in zip(things, colors, strict=True):
            start = len(text) + len(f"The {thing} is ")
            first = len(text.split()) + 3
            place = (
                {"token_start": first, "token_end": first + len(color.split()) - 1}
                if tokens
                else {"answer_start": start}
            )
            asked.append({"question": f"What color is the {thing} ?", "answers": [{"text": str(color), **place}]})
            text += f"The {thing} is {color} . "
        yield {"context": text.rstrip(), "qas": asked}


def write(folder: Path, train=40, test=6) -> None:
    """Both files of questions, and the vectors of some of their words."""
    for name in ("squad_mini", "glove"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, count, tokens in (("trainpart_tok", train, True), ("devpart", test, False)):
        table = {"data": [{"title": "things", "paragraphs": list(paragraphs(count, count, tokens))}]}
        (folder / "squad_mini" / f"squad_v1_{name}.json.gz").write_bytes(gzip.compress(json.dumps(table).encode()))
    words = [w for w in (*THINGS, *" ".join(COLORS).split(), *"the is what color . ?".split()) if w != "lamp"]
    words = list(dict.fromkeys(words))
    vectors = np.random.default_rng(0).normal(size=(len(words), SIZE)).astype(np.float16)
    np.savez(folder / "glove" / "glove_6B_50d_subset.npz", words=np.array("\n".join(words)), vectors=vectors)
