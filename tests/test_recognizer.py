"""`Recognizer`, files of recordings, and `compactrnn run`: streams equal whole sequences, and hostile files."""

import io
import itertools
import json
import re
import wave
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import compactrnn as cr
import made_up_speech
from acoustic_models import COEFFICIENTS, HOP, STACKED, SYMBOLS, audio_spec, features_spec, pack_recognizer
from compactrnn.decoding import Bigram, RecognizerSpec, log_softmax
from compactrnn.models import AcousticModelOptions
from compactrnn.runtime import file as model_file
from compactrnn.tasks.speech import SpeechData, SpeechTask
from compactrnn.training.pack_run import pack_model
from run_folders import invoke
from scripts import benchmark


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recognizers")
    size = STACKED * COEFFICIENTS
    return {
        "features": pack_recognizer(folder / "features.crnn", features_spec(), size),
        "offline": pack_recognizer(folder / "offline.crnn", features_spec(), size, bidirectional=True),
        "audio": pack_recognizer(folder / "audio.crnn", audio_spec(), HOP),
    }


def recording(kind, seed, steps=40):
    random = np.random.default_rng(seed)
    if kind == "audio":
        return random.standard_normal(steps * HOP + 7).clip(-0.99, 0.99).astype(np.float32)
    return random.standard_normal((steps * STACKED + 2, COEFFICIENTS))


def by_numpy(path, kind, frames):
    """The words of greedy decoding, from the engine's outputs for the whole sequence."""
    engine = cr.Engine(path)
    if kind == "audio":
        frames = np.concatenate([frames, np.zeros(-len(frames) % HOP)]).reshape(-1, HOP)
    else:
        frames = frames[: len(frames) // STACKED * STACKED].reshape(-1, STACKED * COEFFICIENTS)
    spec = RecognizerSpec.from_metadata(engine.metadata)
    best = engine.run(frames.astype(np.float32)).argmax(-1)
    texts = [spec.symbols[n] for n, _ in itertools.groupby(best) if n != spec.blank]
    return texts if kind == "audio" else "".join(texts).split()


@pytest.mark.parametrize("kind", ["features", "offline", "audio"])
def test_greedy_words_are_those_of_numpy(models, kind):
    found = []
    for seed in range(5):
        frames = recording(kind, seed)
        words = cr.recognize(cr.Engine(models[kind]), frames, "greedy")
        assert words == by_numpy(models[kind], kind, frames)
        found += words
    assert len(set(found)) > 1, "words that could differ"


@pytest.mark.parametrize("kind", ["features", "offline", "audio"])
@pytest.mark.parametrize("decode", ["greedy", "lexicon"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(0, 90), max_size=12))
def test_a_stream_gives_the_words_of_the_whole(models, kind, decode, seed, lengths):
    recognizer = cr.Recognizer(cr.Engine(models[kind]), decode)
    for number in range(2):  # the second recording begins where nothing is left of the first
        frames = recording(kind, seed + number)
        whole = cr.recognize(cr.Engine(models[kind]), frames, decode)
        words, rest = [], frames
        for length in lengths:
            words += recognizer.feed(rest[:length])
            rest = rest[length:]
        words += recognizer.feed(rest)
        assert recognizer.engine.offline is (kind == "offline") and (not words or kind != "offline")
        assert words + recognizer.finish() == whole


def test_the_lexicon_decides(models):
    engine = cr.Engine(models["features"])
    for seed in range(5):
        words = cr.recognize(engine, recording("features", seed))
        assert words and set(words) <= set(features_spec().words)
    other = cr.Recognizer(engine, spec=features_spec(bigram=None, lexicon=("abc",)))
    assert set(other.feed(recording("features", 0)) + other.finish()) <= {"abc"}


def test_int16_is_audio_too(models):
    engine = cr.Engine(models["audio"])
    whole = (recording("audio", 3) * 32767).astype(np.int16)
    assert cr.recognize(engine, whole) == cr.recognize(engine, whole / 32768)


SPECS = [
    ({"symbols": ["a"]}, "two texts"),
    ({"symbols": "ab"}, "symbols"),
    ({"symbols": [["a"], "b"]}, "symbols"),
    ({"symbols": None}, "symbols"),
    ({"symbols": ["", "a" * (2 << 20)]}, "characters"),
    ({"blank": 5}, "blank"),
    ({"blank": "0"}, "blank"),
    ({"input": "video"}, "'video'"),
    ({"input": ["audio"]}, "input"),
    ({"frames_per_step": 0}, "frames_per_step"),
    ({"frames_per_step": 10**9}, "frames_per_step"),
    ({"frames_per_step": 1.5}, "frames_per_step"),
    ({"sample_rate": 0}, "sample_rate"),
    ({"sample_rate": "fast"}, "sample_rate"),
    ({"sample_rate": True}, "sample_rate"),
    ({"lm_weight": 1e9}, "lm_weight"),
    ({"word_bonus": "x" * 10_000}, "word_bonus"),
    ({"threshold": -1}, "threshold"),
    ({"certainty": 0}, "certainty"),
    ({"beam": 10**9}, "beam"),
    ({"beam": 0}, "beam"),
    ({"lexicon": []}, "lexicon"),
    ({"lexicon": 5}, "lexicon"),
    ({"lexicon": ["a", 5]}, "lexicon"),
    ({"lexicon": ["dad"]}, "'dad'"),
    ({"lexicon": ["ccc"]}, "words of the bigram"),
    ({"bigram": 5}, "bigram"),
    ({"bigram": {"counts": {}, "unseen": []}}, "counts"),
    ({"bigram": {"counts": {"": 3}, "unseen": []}}, "counts"),
    ({"bigram": {"counts": {"": {"a": -1}}, "unseen": []}}, "counts"),
    ({"bigram": {"counts": {"": {"a": 1}}, "unseen": [3]}}, "unseen"),
    ({"bigram": {"counts": {"": {"ä": 1}}, "unseen": []}}, "'ä'"),
    ({"colour": 3}, "'colour'"),
]


@pytest.mark.parametrize("number", range(len(SPECS)))
def test_metadata_of_anyone(number):
    change, words = SPECS[number]
    section = {**json.loads(json.dumps(features_spec().metadata()["recognizer"])), **change}
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        RecognizerSpec.from_metadata({"recognizer": section})
    assert str(caught.value).startswith("model metadata: recognizer") and len(str(caught.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["counts", "unseen", "a"]), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([f.name for f in fields(RecognizerSpec)]), JSON)
def test_metadata_is_taken_or_refused_with_a_sentence(name, value):
    section = {**features_spec().metadata()["recognizer"], name: value}
    try:
        RecognizerSpec.from_metadata({"recognizer": section}).decoder().decode(log_softmax(np.zeros((2, 5))))
    except ValueError as error:
        assert str(error).startswith(("model metadata: recognizer: ", "log-probabilities: "))


def test_a_search_is_bounded(monkeypatch):
    monkeypatch.setattr("compactrnn.decoding.spec.MOST_SCORES", 1000)
    words = tuple("".join(letters) for letters in itertools.product("abc", repeat=3))
    assert RecognizerSpec(SYMBOLS, lexicon=words, beam=25).words == words  # 40 nodes
    with pytest.raises(ValueError, match="40 beginnings of words with a beam of 26"):
        RecognizerSpec(SYMBOLS, lexicon=words, beam=26)


@pytest.mark.parametrize("spec", [features_spec(lm_weight=0.5, beam=7), audio_spec(), features_spec(bigram=None)])
def test_a_spec_survives_json(spec):
    assert RecognizerSpec.from_metadata(json.loads(json.dumps(spec.metadata()))) == spec


def test_words_that_no_transcript_has_are_kept():
    spec = features_spec(bigram=Bigram.of(["a b"], ["cab"]))
    again = RecognizerSpec.from_metadata(json.loads(json.dumps(spec.metadata())))
    assert again.bigram.words == ("a", "b", "cab") and again == spec


OTHER_MODELS = [
    (features_spec(frames_per_step=5), "5 frames"),
    (RecognizerSpec(SYMBOLS, input="audio", frames_per_step=STACKED), "12 samples a step"),
    (RecognizerSpec(SYMBOLS[:3]), "3 symbols"),
]


@pytest.mark.parametrize("number", range(len(OTHER_MODELS)))
def test_a_model_of_another_form(models, number):
    spec, words = OTHER_MODELS[number]
    with pytest.raises(ValueError, match=words):
        cr.Recognizer(cr.Engine(models["features"]), spec=spec)


def test_chunks_of_another_form(models):
    features, audio = (cr.Recognizer(cr.Engine(models[kind])) for kind in ("features", "audio"))
    for recognizer, chunk in [
        (features, np.zeros((3, 5))),
        (features, np.zeros(4)),
        (features, np.zeros((3, 4), np.int16)),
        (features, np.full((3, 4), np.nan)),
        (features, np.full((3, 4), 1e300)),
        (audio, np.zeros((3, 1))),
        (audio, np.zeros(3, np.int32)),
        (audio, np.array(["a"])),
    ]:
        with pytest.raises(ValueError, match="expected"):
            recognizer.feed(chunk)


def test_a_long_recording_for_an_offline_model_is_bounded(models):
    recognizer = cr.Recognizer(cr.Engine(models["offline"], memory_limit=200_000))
    with pytest.raises(ValueError, match="memory_limit"):
        for _ in range(1000):
            recognizer.feed(np.zeros((300, COEFFICIENTS)))


def wav(path, samples, channels=1, width=2, rate=800):
    with wave.open(str(path) if not hasattr(path, "write") else path, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def samples_of(seed):
    return (recording("audio", seed) * 32767).astype(np.int16)


def test_run_prints_words_of_files(models, tmp_path):
    paths = [wav(tmp_path / f"{seed}.wav", samples_of(seed)) for seed in range(2)]
    engine = cr.Engine(models["audio"])
    texts = [" ".join(cr.recognize(engine, samples_of(seed))) for seed in range(2)]
    one = invoke("run", models["audio"], paths[0])
    assert one.exit_code == 0 and one.stdout == f"{texts[0]}\n", one.output
    assert "real-time factor" in one.stderr and "lexicon decoding, as a stream" in one.stderr
    both = invoke("run", models["audio"], *paths)
    assert both.stdout == "".join(f"{path}: {text}\n" for path, text in zip(paths, texts, strict=True))


def test_run_of_features_and_json(models, tmp_path):
    frames = recording("features", 1)
    np.save(tmp_path / "x.npy", frames.astype(np.float32))
    np.savez_compressed(tmp_path / "x.npz", frames=frames)
    for kind in ("features", "offline"):
        for name, decode in (("x.npy", "greedy"), ("x.npz", "lexicon")):
            result = invoke("run", models[kind], tmp_path / name, "--decode", decode, "--json")
            assert result.exit_code == 0, (result.output, result.exception)
            record = json.loads(result.stdout)
            assert result.stdout.count("\n") == 1 and record["streaming"] is (kind == "features")
            (file,) = record["files"]
            assert file["text"].split() == cr.recognize(cr.Engine(models[kind]), frames, decode)
            assert file["seconds"] == pytest.approx(1.22) and record["real_time_factor"] > 0
            times = [word["at"] for word in file["words"]]
            assert times == sorted(times) and (kind == "features" or set(times) == {1.22})
    assert "at the end" in invoke("run", models["offline"], tmp_path / "x.npy").stderr


def test_run_reads_standard_input(models, monkeypatch):
    from typer.testing import CliRunner

    from compactrnn.cli.app import app

    content = io.BytesIO()
    wav(content, samples_of(1))
    endless = bytearray(content.getvalue())
    endless[4:8] = endless[40:44] = b"\xff\xff\xff\xff"  # as a program writes it that does not know the length yet
    for given_bytes in (content.getvalue(), bytes(endless)):
        result = CliRunner().invoke(app, ["run", str(models["audio"]), "-"], input=given_bytes)
        assert result.exit_code == 0, (result.output, result.exception)
        assert result.stdout.split() == cr.recognize(cr.Engine(models["audio"]), samples_of(1))


def test_a_terminal_shows_what_is_not_certain(models, capsys, monkeypatch):
    import sys

    from compactrnn.cli.run import _Line

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    line = _Line("")
    line.show([], "on")
    line.show(["one"], "t\x1bwo")
    line.show([], "")
    line.end()
    shown = capsys.readouterr().out
    assert shown == "\x1b[K\x1b[2mon\x1b[0m\b\b\x1b[Kone\x1b[2m t\\x1bwo\x1b[0m" + "\b" * 8 + "\x1b[K\n"


def test_an_interrupted_stream_ends_in_its_words(models, monkeypatch):
    from compactrnn.runtime import wav as reading

    def until_interrupted(reader, count):
        yield samples_of(1)
        raise KeyboardInterrupt

    content = io.BytesIO()
    wav(content, samples_of(1))
    monkeypatch.setattr(reading, "_chunks", until_interrupted)
    from typer.testing import CliRunner

    from compactrnn.cli.app import app

    result = CliRunner().invoke(app, ["run", str(models["audio"]), "-"], input=content.getvalue())
    assert result.exit_code == 130, (result.output, result.exception)
    assert result.stdout.split() == cr.recognize(cr.Engine(models["audio"]), samples_of(1))


def save(path, array):
    np.save(path, array, allow_pickle=True)
    return path


def text(path, content):
    path.write_bytes(content)
    return path


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


def float_wav(path):
    wav(path, samples_of(0))
    content = bytearray(path.read_bytes())
    content[20] = 3  # IEEE float
    return text(path, bytes(content))


ARCHIVE = {"a": np.zeros((3, 4)), "b": np.zeros(2)}
FILES = {
    "stereo": ("audio", lambda f: wav(f / "x.wav", samples_of(0), channels=2), "2 channels"),
    "8 bits": ("audio", lambda f: wav(f / "x.wav", samples_of(0), width=1), "8 bits"),
    "another rate": ("audio", lambda f: wav(f / "x.wav", samples_of(0), rate=1600), "ffmpeg -i IN -ac 1 -ar 800"),
    "float": ("audio", lambda f: float_wav(f / "x.wav"), "unknown format: 3"),
    "no wav": ("audio", lambda f: text(f / "x.wav", b"ID3" + bytes(100)), "no PCM .wav file"),
    "empty": ("audio", lambda f: text(f / "x.wav", b""), "it ends within its header"),
    "cut off": ("audio", lambda f: cut(wav(f / "x.wav", samples_of(0)), 500), "456 bytes of audio"),
    "mp3": ("audio", lambda f: text(f / "x.mp3", b""), "a .wav, .npy or .npz file"),
    "missing": ("audio", lambda f: f / "x.wav", "No such file"),
    "a folder": ("audio", lambda f: (f / "x.wav").mkdir() or f / "x.wav", "a folder"),
    "features for audio": ("audio", lambda f: save(f / "x.npy", np.zeros((3, 4))), "(samples,)"),
    "audio for features": ("features", lambda f: wav(f / "x.wav", samples_of(0)), "a .npy file of features"),
    "width": ("features", lambda f: save(f / "x.npy", np.zeros((3, 5))), "(frames, 4)"),
    "a number": ("features", lambda f: save(f / "x.npy", np.float32(3)), "(frames, 4)"),
    "texts": ("features", lambda f: save(f / "x.npy", np.array(["a"])), "(frames, 4)"),
    "objects": ("features", lambda f: save(f / "x.npy", np.array([{}], object)), "allow_pickle"),
    "NaN": ("features", lambda f: save(f / "x.npy", np.full((1, 4), np.nan)), "NaN"),
    "no array": ("features", lambda f: text(f / "x.npy", b"abc"), "an array of numbers"),
    "half an array": ("features", lambda f: cut(save(f / "x.npy", np.zeros((9, 4))), 200), "an array of numbers"),
    "no archive": ("features", lambda f: text(f / "x.npz", b"abc"), "an array of numbers"),
    "two arrays": ("features", lambda f: np.savez(f / "x.npz", **ARCHIVE) or f / "x.npz", "2 arrays: a, b"),
    "an archive": ("features", lambda f: text(f / "x.npy", b"PK\x03\x04" + bytes(99)), "an array of numbers"),
}


def refused(*arguments, words):
    result = invoke("run", *arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and not result.stdout, (result.output, result.exception)
    assert lines[0].startswith("compactrnn: ") and words in lines[0] and "internal" not in lines[0], lines
    return lines[0]


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_recognized(models, tmp_path, name):
    kind, make, words = FILES[name]
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in")
    said = refused(models[kind], path, words=words)
    assert "x." in said
    good = wav(tmp_path / "good.wav", samples_of(0)) if kind == "audio" else save(tmp_path / "g.npy", np.zeros((9, 4)))
    refused(models[kind], good, path, words=words)


def test_a_header_that_promises_more_memory_than_there_is(models, tmp_path):
    save(tmp_path / "x.npy", np.zeros((9, 4)))
    content = (tmp_path / "x.npy").read_bytes().replace(b"(9, 4), }            ", b"(900000000000000, 4)}")
    refused(models["features"], text(tmp_path / "y.npy", content), words="an array of numbers")


def test_models_that_are_no_recognizers(models, tmp_path):
    program = model_file.read(models["features"].read_bytes())
    np.save(tmp_path / "x.npy", np.zeros((9, 4)))
    for change, words in [
        ({}, "neither in"),
        ({"recognizer": 5}, "an entry 'recognizer'"),
        ({"recognizer": {"symbols": ["", "\x1b[2J"]}}, "2 symbols"),
        ({"recognizer": {"symbols": ["", "\x1b[2J"], "lexicon": ["\x1b[3J"]}}, "one or more symbols of the model"),
    ]:
        program.metadata = change
        path = tmp_path / "h.crnn"
        path.write_bytes(model_file.write(program))
        assert refused(path, tmp_path / "x.npy", words=words).isprintable()
    spec = features_spec(bigram=None)
    program.metadata = spec.metadata()
    path.write_bytes(model_file.write(program))
    refused(path, tmp_path / "x.npy", "--decode", "lexicon", words="no lexicon")
    refused(path, "-", "-", words="more than once")


def test_symbols_never_steer_the_terminal(tmp_path):
    spec = audio_spec(symbols=("\x1b[2J", "\x9b1m", "-"), lexicon=None)
    model = pack_recognizer(tmp_path / "m.crnn", spec, HOP)
    np.save(tmp_path / "x.npy", recording("audio", 1))
    result = invoke("run", model, tmp_path / "x.npy")
    assert result.exit_code == 0 and "\\x1b[2J" in result.stdout and "\x1b" not in result.output


def test_log_softmax_keeps_log_probabilities():
    x = log_softmax(np.random.default_rng(0).standard_normal((5, 7)))
    assert np.abs(log_softmax(x) - x).max() < 1e-12


def test_the_benchmark_of_an4_runs(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv("COMPACTRNN_DATA", str(made_up_speech.write(tmp_path).parents[1]))
    script, files = benchmark("decode_an4"), {}
    for normalization in ("running", "utterance"):
        task = SpeechTask(SpeechData(), batch_size=4)
        model = task.build_model(AcousticModelOptions(hidden=(8,), normalization=normalization))
        files[normalization] = tmp_path / f"{normalization}.crnn"
        pack_model(model, task, files[normalization], "float32")
    engines = {name: cr.Engine(path) for name, path in files.items()}
    assert engines["utterance"].offline and not engines["running"].offline
    rows = [script.row_of(name, engine, engine) for name, engine in engines.items()]
    test = rows[0]["decoders"]["bigram"]
    assert test["as_a_stream"]["equal"] == test["as_a_stream"]["utterances"] == 6
    assert "as_a_stream" not in rows[1]["decoders"]["bigram"]
    assert test["wer"] == pytest.approx(100 * sum(test["word_errors"]) / sum(test["words"]))
    apart = script.bootstrap(rows[0], rows[1], "greedy")
    assert apart["from"] <= apart["difference"] <= apart["to"]
    assert script.bootstrap(rows[0], rows[0], "bigram")["difference"] == 0
    assert "running" in script.table(rows)
