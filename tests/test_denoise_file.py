"""examples/denoise_file.py: the samples that the shipped files give in onnxruntime, and what it refuses."""

import numpy as np
import pytest

from compactrnn.runtime.wav import as_wav, read_wav
from scripts import benchmark, example_module

ort = pytest.importorskip("onnxruntime", reason="what is compared with")
pytest.importorskip("onnx", reason="the importer reads by it")
SCRIPT, MODELS = example_module("denoise_file"), benchmark("onnx_agreement").MODELS
RATE = 16_000


def save(path, samples, rate=RATE):
    path.write_bytes(as_wav(np.asarray(samples) / 32768, rate))
    return str(path)


def samples(path):
    return read_wav(path, RATE) / 32768


class Session:
    """A file in onnxruntime, called once a step with its own states."""

    def __init__(self, name):
        self.session = ort.InferenceSession(MODELS / name, providers=["CPUExecutionProvider"])
        first, *states = self.session.get_inputs()
        self.name, self.shape = first.name, first.shape
        self.states = {state.name: np.zeros(state.shape, np.float32) for state in states}

    def step(self, x):
        y, *after = self.session.run(None, {self.name: np.float32(x).reshape(self.shape), **self.states})
        self.states = dict(zip(self.states, after, strict=True))
        return np.asarray(y).ravel()


def overlapped(noisy, hop, clean):
    """Frames of 512 samples, `hop` apart, each through `clean`, added up."""
    padded = np.concatenate([np.zeros(512 - hop), noisy, np.zeros(512 - hop + -len(noisy) % hop)])
    total = np.zeros(len(padded))
    for start in range(0, len(padded) - 511, hop):
        total[start : start + 512] += clean(padded[start : start + 512])
    return total[512 - hop :][: len(noisy)]


def by_gtcrn(noisy):
    session, window = Session("gtcrn_stream.onnx"), np.sin(np.pi * np.arange(512) / 512)

    def clean(frame):
        spectrum = np.fft.rfft(frame * window)
        real, imaginary = session.step(np.stack([spectrum.real, spectrum.imag], -1)).reshape(257, 2).T
        return np.fft.irfft(real + 1j * imaginary) * window

    return overlapped(noisy, 256, clean)


def by_dtln(noisy):
    first, second = Session("dtln_1.onnx"), Session("dtln_2.onnx")

    def clean(frame):
        spectrum = np.fft.rfft(frame)
        kept = first.step(np.abs(spectrum)) * np.abs(spectrum) * np.exp(1j * np.angle(spectrum))
        return second.step(np.fft.irfft(kept))

    return overlapped(noisy, 128, clean)


@pytest.fixture
def noisy(tmp_path):
    if not (MODELS / "gtcrn_mix.wav").exists():
        pytest.skip("the data folder has no models beside it")
    return save(tmp_path / "noisy.wav", np.round(32768 * samples(MODELS / "gtcrn_mix.wav")[16_000:48_100]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("names", "wanted"), [(["gtcrn_stream.onnx"], by_gtcrn), (["dtln_1.onnx", "dtln_2.onnx"], by_dtln)]
)
def test_the_samples_are_those_of_onnxruntime(names, wanted, noisy, tmp_path, capsys):
    out = tmp_path / "clean.wav"
    SCRIPT.main([",".join(str(MODELS / name) for name in names), noisy, str(out)])
    given, expected = samples(noisy), wanted(samples(noisy))
    found = SCRIPT.load(",".join(str(MODELS / name) for name in names)).recording(given)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max() and np.abs(found - given).max() > 0.01
    assert np.abs(samples(out) - expected).max() <= 1 / 32768 and len(samples(out)) == len(given)
    assert "2.01 s of sound in" in capsys.readouterr().out


def test_a_file_that_is_of_another_kind_or_there_already_is_named(tmp_path):
    given, out = save(tmp_path / "given.wav", [1, 2]), tmp_path / "out.wav"
    with pytest.raises(SystemExit, match=r"missing\.wav"):
        SCRIPT.main(["none.onnx", str(tmp_path / "missing.wav"), str(out)])
    with pytest.raises(SystemExit, match=r"none\.onnx"):
        SCRIPT.main([str(tmp_path / "none.onnx"), given, str(out)])
    with pytest.raises(SystemExit, match="and 8000 samples a second"):
        SCRIPT.main(["none.onnx", save(tmp_path / "slow.wav", [1, 2], 8000), str(out)])
    with pytest.raises(SystemExit, match="without samples"):
        SCRIPT.main(["none.onnx", save(tmp_path / "empty.wav", []), str(out)])
    assert not out.exists()
    out.write_bytes(b"precious")
    with pytest.raises(SystemExit, match="it is there already"):
        SCRIPT.main(["none.onnx", given, str(out)])
    assert out.read_bytes() == b"precious"
