"""docs/case-studies.md: its figures, and the benchmark that they are from."""

import numpy as np
import pytest

import compactrnn as cr
from scripts import BENCHMARKS, benchmark

PAGE = benchmark("case_studies_page")


def test_the_page_has_the_committed_figures():
    text = PAGE.PAGE.read_text(encoding="utf-8")
    assert PAGE.filled(text) == text, "run: python benchmarks/case_studies_page.py"
    assert PAGE.filled(text.replace("| the noisy speech |", "| another |")) == text


@pytest.fixture
def script(monkeypatch):
    for name in ("onnx", "pesq", "pystoi"):
        pytest.importorskip(name, reason="what the benchmark needs")
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = benchmark("enhancement")

    def speech(number, voice):
        """Noise in syllables, in place of the program that reads sentences."""
        time = np.arange(24000) / 16000
        syllables = np.maximum(np.sin(2 * np.pi * (2 + number / 10) * time), 0)
        return 0.07 * syllables * np.sin(2 * np.pi * 300 * time * (1 + 0.1 * np.sin(3 * time)))

    monkeypatch.setitem(script.mixtures.__globals__, "speech", speech)
    return script


def test_mixtures_have_the_noise_that_they_say(script):
    found = script.mixtures(range(2), 5.0, seed=0)
    assert [kind for kind, _, _ in found] == ["white", "pink", "babble", "hum"] * 2
    noises = [noisy - clean for _, clean, noisy in found]
    for (_, clean, _), noise in zip(found, noises, strict=True):
        assert abs(10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) - 5) < 1e-3
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(noises) for b in noises[:i])
    again = script.mixtures(range(2), 5.0, seed=0)
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(found, again, strict=True))


def test_the_ratio_is_that_of_its_definition(script):
    random = np.random.default_rng(0)
    clean, noise = random.normal(size=(2, 100_000))
    assert abs(script.ratio(clean, 3 * clean + 0.3 * noise) - 20) < 0.1
    assert script.ratio(clean, -0.5 * clean) > 200


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_gets_a_row_for_each_form(script, monkeypatch, tmp_path):
    from onnx_models import denoiser

    denoiser(tmp_path / "denoiser.onnx")
    audio = cr.Audio(16000, 64, 32, "sqrt-hann", takes="magnitude", gives="mask")
    monkeypatch.setattr(script, "folder", lambda package: tmp_path)
    monkeypatch.setattr(script, "TEST", range(1))
    monkeypatch.setattr(script, "CALIBRATION", range(1, 2))
    monkeypatch.setitem(script.ENHANCERS, "denoiser", script.Enhancer("", (("denoiser.onnx", audio),)))
    rows = script.of_enhancer("denoiser", tmp_path)
    assert [row["form"] for row in rows][:3] == list(script.FORMS[:3])
    assert all(15 < row["SI-SDR against float32"] < 90 for row in rows[1:3])
    assert all(len(row["PESQ by noise"]) == 4 and row["bytes"][0] > 1000 for row in rows)
    for low, high in ((row["at 5 dB"], row["at 15 dB"]) for row in rows):
        assert 0 < low["STOI"] < high["STOI"] <= 1 < low["PESQ"] < high["PESQ"] < 5 and low["SI-SDR"] < high["SI-SDR"]
