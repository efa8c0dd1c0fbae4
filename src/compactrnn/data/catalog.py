"""Data sets known by name: license and download address."""

import hashlib
import http.client
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .._errors import invalid
from .._files import read_file, write_atomically
from .folder import data_folder

_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Remote:
    """A file to download: `path` below the data folder, its address and the SHA-256 of its bytes."""

    path: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A data set: `bundled` ones come with the package; those without `remotes` must be placed by the user.

    `instead` are files that serve in place of `paths`, `source` says where a user gets what cannot be downloaded here.
    """

    name: str
    about: str
    license: str
    paths: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()
    bundled: bool = False
    instead: tuple[str, ...] = ()
    source: str = ""

    def present(self) -> bool:
        """Whether every file is there."""
        root = data_folder()
        return self.bundled or any(
            files and all((root / p).is_file() or (root / p.removesuffix(".gz")).is_file() for p in files)
            for files in (self.paths, self.instead)
        )


_MNIST_AT = "https://ossci-datasets.s3.amazonaws.com/mnist"
_MNIST = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

DATASETS = {
    d.name: d
    for d in (
        Dataset("alice", "Alice's Adventures in Wonderland, 148 kB of text", "public domain", bundled=True),
        Dataset(
            "ptb",
            "Penn Treebank language model, Mikolov's preparation, 10,000 words",
            "LDC99T42: place the files yourself, they may not be passed on",
            paths=tuple(f"ptb/ptb.{part}.txt.gz" for part in ("train", "valid", "test")),
        ),
        Dataset(
            "tinyshakespeare",
            "Karpathy's 1.1 MB of Shakespeare",
            "public domain",
            paths=("text/tinyshakespeare.txt",),
            remotes=(
                Remote(
                    "text/tinyshakespeare.txt",
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                ),
            ),
        ),
        Dataset(
            "mnist",
            "MNIST, 70,000 handwritten digits of LeCun, Cortes and Burges",
            "CC BY-SA 3.0",
            paths=tuple(f"mnist/{name}.gz" for name in _MNIST),
            remotes=tuple(Remote(f"mnist/{name}.gz", f"{_MNIST_AT}/{name}.gz", sha) for name, sha in _MNIST.items()),
        ),
        Dataset(
            "an4",
            "AN4 of Carnegie Mellon University: 1,078 spelled names, numbers and commands of 84 speakers, as cepstra",
            "BSD-like: free for any purpose, the notice of Carnegie Mellon University stays with it",
            paths=("an4/an4_mfcc13.npz",),
            source="its arrays: docs/speech.md; the recordings: http://www.speech.cs.cmu.edu/databases/an4/",
        ),
        Dataset(
            "fsdd",
            "Free Spoken Digit Dataset of Zohar Jackson and others, 3,000 recordings of six speakers",
            "CC BY-SA 4.0: credit https://github.com/Jakobovski/free-spoken-digit-dataset",
            paths=("fsdd/fsdd.npz",),
            instead=("fsdd/recordings/0_george_0.wav",),
            source="or clone https://github.com/Jakobovski/free-spoken-digit-dataset there as fsdd",
        ),
        Dataset(
            "polymusic",
            "piano rolls of Boulanger-Lewandowski and others: Bach's chorales, Nottingham, Piano-midi.de, MuseData",
            "not stated for the collection; two of its sources restrict the use of their encodings",
            paths=("polymusic/polymusic.npz",),
            source="its arrays: compactrnn.data.load_polymusic; http://www-etud.iro.umontreal.ca/~boulanni/icml2012",
        ),
        Dataset(
            "squad_mini",
            "parts of SQuAD 1.1 of Stanford University, 4,885 questions to train on and 2,910 to test on",
            "CC BY-SA 4.0: credit https://rajpurkar.github.io/SQuAD-explorer",
            paths=("squad_mini/squad_v1_trainpart_tok.json.gz", "squad_mini/squad_v1_devpart.json.gz"),
            source="any files in the form of SQuAD 1.1 under these names: https://rajpurkar.github.io/SQuAD-explorer",
        ),
        Dataset(
            "glove",
            "word vectors of 50 numbers, of GloVe 6B of Stanford University",
            "Public Domain Dedication and License",
            paths=("glove/glove_6B_50d_subset.npz",),
            source="its arrays: docs/reading.md; the vectors: https://nlp.stanford.edu/data/glove.6B.zip",
        ),
    )
}


def fetch(name: str) -> list[Path]:
    """Download the files of a data set that are missing or damaged, and verify them; returns their paths."""
    if name not in DATASETS:
        raise invalid("data set", got=repr(name), expected=f"one of {', '.join(sorted(DATASETS))}")
    dataset = DATASETS[name]
    if dataset.bundled:
        return []
    if not dataset.remotes:
        if dataset.present():
            return [data_folder() / path for path in dataset.paths]
        raise invalid(
            f"data set {name}",
            got="no file to download" if dataset.source else "a license that forbids downloading it here",
            expected=f"the files {', '.join(dataset.paths)} placed in {data_folder()}",
            hint=dataset.source or f"license: {dataset.license}",
        )
    return [download(remote, data_folder() / remote.path) for remote in dataset.remotes]


def download(remote: Remote, target: Path) -> Path:
    """Download to `target`, which is created only after its SHA-256 was verified."""
    if target.is_file() and hashlib.sha256(read_file(target, "data file", _MAX_BYTES)).hexdigest() == remote.sha256:
        return target
    try:
        with urllib.request.urlopen(remote.url, timeout=60) as response:
            content, missing = response.read(_MAX_BYTES + 1), getattr(response, "length", None)
            if missing:
                raise ConnectionError(f"{len(content)} bytes of {len(content) + missing}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        got = f"{reason} ({type(error).__name__}) from {remote.url}"
        raise invalid("download", got=got, expected="the file") from error
    if (found := hashlib.sha256(content).hexdigest()) != remote.sha256:
        raise invalid(f"SHA-256 of {remote.url}", got=found, expected=remote.sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content, "data file")
    return target
