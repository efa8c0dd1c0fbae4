"""Files that people ship give what onnxruntime gives, over 500 steps of speech and of text."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the importer reads by it")
pytest.importorskip("onnxruntime", reason="what is compared with")
from scripts import benchmark

SCRIPT = benchmark("onnx_agreement")
CLOSE = 1e-4


def made_up(rate=16000):
    """Twenty seconds of a voice with a pitch, pauses and noise, for where the recording is not at hand."""
    rng, time = np.random.default_rng(0), np.arange(20 * rate) / rate
    pitch = np.cumsum(2 * np.pi * (120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / rate)
    voice = sum(np.sin(n * pitch) / n for n in range(1, 20))
    loud = np.clip(np.sin(2 * np.pi * 1.3 * time) + np.sin(2 * np.pi * 0.31 * time), 0, None)
    return (0.1 * voice * loud + 0.01 * rng.normal(size=len(time))).astype(np.float32)


@pytest.mark.parametrize("case", SCRIPT.CASES)
def test_a_file_that_is_shipped(case, monkeypatch):
    one = SCRIPT.CASES[case]
    try:
        found = one.path.exists()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if not found:
        pytest.skip("the data folder has no models beside it")
    if not (SCRIPT.MODELS / "gtcrn_mix.wav").exists():
        monkeypatch.setattr(SCRIPT, "samples", made_up)
    row = SCRIPT.agreement(one)
    outputs = [name for name in row["errors"] if name.startswith("output")]
    streams = row["stream equals run"] is True
    assert row["steps"] >= 500 and outputs and max(row["errors"].values()) < CLOSE, row
    assert streams or "encoder" in case, row
    assert not streams or {f"state {name}" for name in one.states} <= set(row["errors"])
    assert set(row["states"]) == set(one.states) and row["parity when packed"] < CLOSE
