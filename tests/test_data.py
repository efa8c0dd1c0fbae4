import gzip
import hashlib
import struct
import wave
from dataclasses import replace

import numpy as np
import pytest

from compactrnn.data import (
    DATASETS,
    Corpus,
    catalog,
    data_folder,
    digit_strings,
    fetch,
    load_corpus,
    load_fsdd,
    load_mnist,
)
from compactrnn.data.catalog import Remote, download
from compactrnn.data.mnist import read_idx
from compactrnn.data.text import read_text
from spoken_digits import toy_digits


def test_data_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("COMPACTRNN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "compactrnn"


def test_alice_is_bundled_without_its_title_lines():
    alice = load_corpus("alice")
    text = alice.train + alice.valid + alice.test
    assert text.startswith("CHAPTER I\n") and text.endswith("THE END\n")
    assert (len(text), len(alice.train), len(alice.valid)) == (148303, 118642, 14830)
    assert "\r" not in text and "\x1a" not in text and "MILLENNIUM" not in text


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_files_are_read_plain_or_compressed(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    raw = "\ufeffÄrger\r\nund\rmehr\n".encode()
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    assert read_text(path) == "Ärger\nund\nmehr\n"


def test_unreadable_texts_are_named(tmp_path):
    latin, torn = tmp_path / "latin.txt", tmp_path / "torn.gz"
    latin.write_bytes("Käse".encode("latin1"))
    torn.write_bytes(gzip.compress(b"abc" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"latin\.txt, whose byte 1 is not UTF-8.*iconv"):
        read_text(latin)
    with pytest.raises(ValueError, match=r"torn\.gz"):
        read_text(torn)
    with pytest.raises(ValueError, match="No such file"):
        read_text(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match=r"data: expected alice, ptb, or the path.*, got "):
        load_corpus(str(tmp_path / "missing.txt"))


def test_split_is_in_order_and_complete():
    text = "".join(chr(97 + i % 26) for i in range(997))
    corpus = Corpus.split("letters", text)
    assert corpus.train + corpus.valid + corpus.test == text
    assert (len(corpus.train), len(corpus.valid)) == (797, 100)


def test_penn_treebank_is_read_from_the_data_folder_only(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"ptb\.train\.txt.*COMPACTRNN_DATA"):
        load_corpus("ptb")
    (tmp_path / "ptb").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "ptb" / f"ptb.{part}.txt").write_text(f" no it was {part} \n a <unk> \n")
    assert load_corpus("ptb").valid == "no it was valid\na <unk>\n"


def test_download_checks_and_replaces_at_once(tmp_path):
    source, target = tmp_path / "source.txt", tmp_path / "folder" / "target.txt"
    source.write_bytes(b"to be")
    good = Remote("target.txt", source.as_uri(), hashlib.sha256(b"to be").hexdigest())
    assert download(good, target).read_bytes() == b"to be"
    source.unlink()
    assert download(good, target) == target, "a whole file is not fetched again"
    source.write_bytes(b"not to be")
    with pytest.raises(ValueError, match="SHA-256"):
        download(replace(good, sha256="0" * 64), target)
    assert [p.name for p in target.parent.iterdir()] == ["target.txt"]
    assert target.read_bytes() == b"to be"


def test_fetch_respects_licenses(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path / "data"))
    source = tmp_path / "source.txt"
    source.write_bytes(b"words")
    remote = Remote("text/words.txt", source.as_uri(), hashlib.sha256(b"words").hexdigest())
    words = catalog.Dataset("words", "a few", "public domain", ("text/words.txt",), (remote,))
    monkeypatch.setitem(DATASETS, "words", words)
    assert not words.present()
    assert [p.read_bytes() for p in fetch("words")] == [b"words"]
    assert words.present()
    assert fetch("alice") == []
    with pytest.raises(ValueError, match="LDC99T42"):
        fetch("ptb")
    with pytest.raises(ValueError, match="expected one of alice"):
        fetch("nothing")


def test_idx_files_are_read_plain_or_compressed_and_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte.*data get mnist"):
        load_mnist()
    folder = tmp_path / "mnist"
    folder.mkdir()
    images = b"\0\0\x08\x03" + struct.pack(">3i", 2, 2, 3) + bytes(range(12))
    labels = b"\0\0\x08\x01" + struct.pack(">i", 2) + b"\x07\x02"
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    pictures, digits = load_mnist().test
    assert pictures.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]] and digits.tolist() == [7, 2]
    for torn in (images[:-1], images[:9], b"", b"\0\0\x0d\x01" + labels[4:], b"\0\0\x08\0"):
        (folder / "torn").write_bytes(torn)
        with pytest.raises(ValueError, match=r"IDX file: .*torn"):
            read_idx(folder / "torn")


def test_spoken_digits_are_the_same_from_one_file_and_from_recordings(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPACTRNN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"neither fsdd\.npz nor recordings.*data get fsdd"):
        load_fsdd()
    with pytest.raises(ValueError, match=r"no file to download.*clone https"):
        fetch("fsdd")
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    parts = [(digit, speaker, take) for speaker in ("ann", "bob") for digit in (0, 7) for take in (0, 5, 10)]
    audio = [np.arange(5 + n, dtype=np.int16) - 3 for n in range(len(parts))]
    for (digit, speaker, take), samples in zip(parts, audio, strict=True):
        with wave.open(str(folder / f"{digit}_{speaker}_{take}.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
            file.writeframes(samples.tobytes())
    one_by_one = load_fsdd()
    arrays = {
        "audio": np.concatenate(audio),
        "offsets": np.cumsum([0, *map(len, audio)]),
        "digit": np.array([digit for digit, _, _ in parts], np.uint8),
        "speaker": np.array([speaker == "bob" for _, speaker, _ in parts], np.uint8),
        "take": np.array([take for _, _, take in parts], np.uint8),
        "rate": np.int32(8000),
        "speakers": np.array(["ann", "bob"]),
    }
    np.savez(tmp_path / "fsdd" / "fsdd.npz", **arrays)
    at_once = load_fsdd()
    assert one_by_one.speakers == at_once.speakers == ("ann", "bob") and len(at_once) == 12
    for n in range(12):
        assert np.array_equal(one_by_one.samples(n), at_once.samples(n))
        assert np.array_equal(at_once.samples(n), audio[n] / np.float32(32768))
    train, test = at_once.official()
    assert at_once.take[train].tolist() == [5, 10] * 4 and at_once.take[test].tolist() == [0] * 4
    assert at_once.fold(1)[0].tolist() == [0, 1, 2, 3, 4, 5] and at_once.fold(1)[1].tolist() == [6, 7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="speaker: expected 0 to 1: ann, bob, got 2"):
        at_once.fold(2)
    for name, wrong in (
        ("offsets", arrays["offsets"][::-1]),
        ("digit", arrays["digit"] + 4),
        ("rate", np.int32(16000)),
    ):
        np.savez(tmp_path / "fsdd" / "fsdd.npz", **{**arrays, name: wrong})
        with pytest.raises(ValueError, match=r"FSDD: expected int16 audio at 8000 Hz"):
            load_fsdd()
    (tmp_path / "fsdd" / "fsdd.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"FSDD file: expected an \.npz file"):
        load_fsdd()


def test_connected_digits_are_of_one_speaker_and_one_part():
    digits = toy_digits()
    train, test = digits.official()
    strings = digit_strings(digits, train, 50, np.random.default_rng(3))
    assert strings == digit_strings(digits, train, 50, np.random.default_rng(3))
    for string in strings:
        assert 3 <= len(string.recordings) <= 7 and not set(string.recordings) & set(test.tolist())
        assert len(set(digits.speaker[list(string.recordings)].tolist())) == 1
        samples, at = string.samples(digits), 0
        for index, pause in zip(string.recordings, string.pauses, strict=False):
            assert 400 <= pause <= 2400 and not samples[at : at + pause].any()
            at += pause + len(digits.samples(index))
            assert np.array_equal(samples[at - len(digits.samples(index)) : at], digits.samples(index))
        assert at + string.pauses[-1] == len(samples)
        assert string.labels(digits).tolist() == [int(digits.digit[i]) for i in string.recordings]
