"""The study of NSNet2: noisy speech as it says, features as of the package, and a file on the way to a smaller one."""

import wave
from argparse import Namespace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the importer reads by it")
pytest.importorskip("onnxruntime", reason="what is compared with")
import compactrnn as cr
from onnx_models import node as made_node
from onnx_models import save, tensor
from scripts import BENCHMARKS, benchmark

UNITS, WIDE = 16, 20


@pytest.fixture
def speech(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return benchmark("noisy_speech")


@pytest.fixture
def study(speech):
    return benchmark("nsnet2_smaller")


def voices(count=2, seconds=0.7, seed=0):
    """Recordings of two speakers."""
    rng = np.random.default_rng(seed)
    length = int(seconds * 16000)
    swell = np.sin(np.linspace(0, 20, length)) ** 2
    return [[(0.1 * swell * rng.normal(size=length)).astype(np.float32) for _ in range(count)] for _ in range(2)]


def write_voices(folder):
    for number, recordings in enumerate(voices()):
        (folder / f"speaker{number}").mkdir(parents=True)
        for name, audio in enumerate(recordings):
            with wave.open(str(folder / f"speaker{number}" / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes((audio * 32767).astype("<i2").tobytes())


def as_nsnet2(path):
    """A file with NSNet2's nodes, a few units wide."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.normal(size=shape) * 0.3).astype(np.float32)

    constants = {"w0": normal(161, WIDE) / 8, "b0": normal(WIDE), "w1": normal(UNITS, WIDE), "b1": normal(WIDE)}
    constants |= {"w2": normal(WIDE, WIDE), "b2": normal(WIDE), "w3": normal(WIDE, 161), "b3": normal(161)}

    def node(op, inputs, outputs, **attributes):
        return made_node(op, inputs, outputs, outputs[0], **attributes)

    nodes = [
        node("MatMul", ["input", "w0"], ["p0"]),
        node("Add", ["p0", "b0"], ["s0"]),
        node("Relu", ["s0"], ["r0"]),
        node("Transpose", ["r0"], ["h0"], perm=[1, 0, 2]),
    ]
    for number, size in enumerate((WIDE, UNITS)):
        constants |= {f"W{number}": normal(1, 3 * UNITS, size), f"R{number}": normal(1, 3 * UNITS, UNITS)}
        constants[f"B{number}"] = normal(1, 6 * UNITS)
        given = [f"h{number}", f"W{number}", f"R{number}", f"B{number}"]
        nodes += [
            node("GRU", given, [f"y{number}", ""], hidden_size=UNITS, linear_before_reset=1),
            node("Squeeze", [f"y{number}", "one"], [f"h{number + 1}"]),
        ]
    constants["one"] = np.array([1])
    nodes.append(node("Transpose", ["h2"], ["q0"], perm=[1, 0, 2]))
    for number, end in enumerate(("Relu", "Relu", "Sigmoid"), 1):
        last = "output" if number == 3 else f"q{number}"
        nodes += [
            node("MatMul", [f"q{number - 1}", f"w{number}"], [f"p{number}"]),
            node("Add", [f"p{number}", f"b{number}"], [f"s{number}"]),
            node(end, [f"s{number}"], [last]),
        ]
    return save(path, nodes, [tensor("input", ["batch", "T", 161])], [tensor("output", None)], constants)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_a_mixture_has_the_ratio_that_is_asked_for(speech, snr):
    clean, noise = np.sin(np.arange(5000.0)), np.random.default_rng(0).normal(size=5000)
    added = speech.mix(clean, noise, snr) - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(added**2)) == pytest.approx(snr)


def test_mixtures_are_of_all_kinds_and_of_their_seed(speech):
    kinds = speech.KINDS | speech.OTHERS

    def made(seed):
        return list(speech.mixtures(voices(), len(kinds), 1.0, seed, kinds))

    for one, again, other in zip(made(3), made(3), made(4), strict=True):
        assert np.array_equal(one.noisy, again.noisy) and not np.array_equal(one.noisy, other.noisy)
        assert np.abs(one.noisy).max() <= 0.99 + 1e-6 and len(one.noisy) == 16000
        noise = np.mean((one.noisy - one.clean).astype(float) ** 2)
        assert 10 * np.log10(np.mean(one.clean.astype(float) ** 2) / noise) == pytest.approx(one.snr, abs=1e-3)
    assert [one.noise for one in made(3)] == list(kinds) and len(kinds) == 9


@pytest.mark.parametrize("length", [1600, 1601, 1759])
def test_features_and_samples_are_those_of_the_package(speech, length):
    audio = np.random.default_rng(0).normal(size=length).astype(np.float32)
    window, frames = np.sqrt(np.hanning(320)), -(-length // 160)
    padded = np.pad(audio.astype(float), (0, (frames + 1) * 160 - length))
    spectrum = np.stack([np.fft.rfft(window * padded[n * 160 : n * 160 + 320], 320) for n in range(frames)])
    np.testing.assert_allclose(speech.spectra(audio), spectrum, atol=1e-5)
    power = np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12))
    np.testing.assert_allclose(speech.log_power(spectrum), power, rtol=1e-6)
    again = np.zeros(160 * (frames + 1))
    for number, row in enumerate(spectrum):
        again[number * 160 : number * 160 + 320] += window * np.fft.irfft(row, 320)
    np.testing.assert_allclose(speech.samples(spectrum), again, atol=1e-6)
    inside = slice(160, length - length % 160 - 160)
    np.testing.assert_allclose(speech.samples(spectrum)[inside], audio[inside], atol=0.02)


def test_recordings_of_another_form_are_refused(speech, tmp_path):
    with wave.open(str(tmp_path / "m.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    with pytest.raises(ValueError, match="expected 16,000 Hz, one channel, 16 bits; got 8000 Hz"):
        speech.read_wav(tmp_path / "m.wav")
    with pytest.raises(ValueError, match="expected a folder of WAV files for each speaker"):
        speech.read_speakers(tmp_path)


def test_from_the_file_to_a_smaller_one(study, tmp_path, monkeypatch):
    for name in ("train", "test"):
        write_voices(tmp_path / "speech" / name)
    model = as_nsnet2(tmp_path / "m.onnx")
    for name, value in {"BATCH": 2, "CROP": 40, "SECONDS": 1.0}.items():
        monkeypatch.setattr(study, name, value)
    stages = {"units": study.Stage(20, 1e-3, units=8), "factors": study.Stage(20, 1e-3, share=0.8)}
    monkeypatch.setattr(study, "STAGES", stages)
    given = Namespace(model=model, speech=tmp_path / "speech", runs=tmp_path / "runs", mixtures=7, seed=0, rounds=1)
    study.train(given)
    units = cr.load(given.runs / "units", lambda: cr.from_onnx(model))
    assert [layer.hidden_size for layer in units.children() if isinstance(layer, cr.GRU)] == [8, 8]
    small = cr.load(given.runs / "factors", lambda: cr.from_onnx(model))
    assert sum(p.numel() for p in small.parameters()) < 0.85 * sum(p.numel() for p in units.parameters())

    (given.runs / "factors" / "model.safetensors").unlink()
    study.train(given)  # "units" stays, and the same comes of it
    again = cr.load(given.runs / "factors", lambda: cr.from_onnx(model))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True))

    study.packed(given, tmp_path / "m.crnn")
    x = np.random.default_rng(1).normal(size=(30, 161)).astype(np.float32)
    with torch.no_grad():
        wanted = small(torch.from_numpy(x)[None])[0].numpy()
    assert np.abs(wanted - cr.Engine(tmp_path / "m.crnn").run(x)).max() < 0.05
    assert study.timed(given, tmp_path / "m.crnn")["times faster"] > 0


def test_an_interval_is_around_the_mean(study):
    differences = np.random.default_rng(0).normal(0.3, 1.0, size=400)
    low, high = study.interval(differences)
    assert low < differences.mean() < high and high - low == pytest.approx(4 * 1.0 / 20, rel=0.15)


def test_the_page_has_the_committed_figures(study):
    text = study.PAGE.read_text(encoding="utf-8")
    assert study.filled(text) == text, "run: python benchmarks/nsnet2_smaller.py measure --page"
