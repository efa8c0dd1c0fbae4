"""The front end against torch.stft and the formulas of filters and cepstra; packed, it streams."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import compactrnn as cr
from compactrnn.models.log_mel import LogMel
from compactrnn.models.mean_normalization import MeanNormalization
from compactrnn.runtime import _native  # pyright: ignore[reportAttributeAccessIssue]


def reference(x, rate, window, size, mels, lowest, highest, floor, coefficients):
    """Frame by frame in float64, from torch.stft and a loop over filters."""
    batch, frames, hop = x.shape
    signal = nn.functional.pad(x.double().flatten(1), (window - hop, 0))
    spectra = torch.stack(  # one call per frame: torch.stft puts a shorter window into the middle of the transform
        [
            torch.stft(
                nn.functional.pad(signal[:, t * hop : t * hop + window], (0, size - window)),
                size,
                window=nn.functional.pad(torch.hann_window(window).double(), (0, size - window)),
                center=False,
                return_complex=True,
            )[..., 0]
            for t in range(frames)
        ],
        1,
    )
    power = spectra.abs().square()

    def mel(f):
        return 2595 * math.log10(1 + f / 700)

    def hertz(m):
        return 700 * (10 ** (m / 2595) - 1)

    width = (mel(highest) - mel(lowest)) / (mels + 1)
    energies = torch.full((batch, frames, mels), floor, dtype=torch.float64)
    for m in range(mels):
        left, peak, right = (hertz(mel(lowest) + (m + n) * width) for n in range(3))
        for k in range(size // 2 + 1):
            f = k * rate / size
            weight = (f - left) / (peak - left) if f <= peak else (right - f) / (right - peak)
            energies[..., m] += max(0.0, weight) * power[..., k]
    y = energies.log()
    if coefficients is None:
        return y
    cosines = [[math.cos(math.pi * j * (m + 0.5) / mels) for m in range(mels)] for j in range(coefficients)]
    return math.sqrt(2 / mels) * y @ torch.tensor(cosines, dtype=torch.float64).T


@pytest.mark.parametrize(
    ("hop", "window", "transform", "mels", "coefficients"),
    [(80, 200, None, 24, None), (128, 256, None, 32, None), (128, 128, None, 16, 13), (80, 200, 256, 32, 13)],
)
def test_energies_and_cepstra_are_those_of_the_formulas(hop, window, transform, mels, coefficients):
    torch.manual_seed(0)
    front = LogMel(8000, hop, window, mels, transform=transform, coefficients=coefficients, lowest=100, highest=3800)
    x = torch.randn(2, 12, hop) * torch.logspace(-4, 0, 12)[:, None]
    want = reference(x, 8000, window, transform or window, mels, 100.0, 3800.0, 1e-5, coefficients)
    torch.testing.assert_close(front(x).double(), want, rtol=0, atol=1e-4)


class Recognizer(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.front = LogMel(**options)
        self.gru = nn.GRU(self.front.size, 12, batch_first=True)

    def forward(self, x):
        return self.gru(self.front(x))[0]


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("options", [{}, {"hop": 128, "window": 128, "mels": 20, "coefficients": 13}], ids=str)
def test_a_packed_model_takes_rows_of_samples_as_they_come(options, weights, tmp_path):
    torch.manual_seed(0)
    model = Recognizer(**options).eval()
    x = 0.1 * torch.randn(1, 40, model.front.hop)
    types = {"front": "float32", "*": weights}
    report = cr.pack(model, tmp_path / "words.crnn", x, weights=types, calibration=[x])
    assert report.error < 0.02 and report.types["front.spectrum"] == "float32"
    engine = cr.Engine(tmp_path / "words.crnn")
    whole = engine.run(x[0].numpy())
    np.testing.assert_allclose(whole, model(x)[0].detach(), atol=1e-5 if weights == "float32" else 0.05)
    stream = engine.stream()
    assert np.array_equal(np.stack([stream.step(row) for row in x[0].numpy()]), whole)


class Energies(nn.Module):
    """The normalized features beside what is recognized."""

    def __init__(self, **options):
        super().__init__()
        self.recognizer = Recognizer(**options)
        self.normalize = MeanNormalization(self.recognizer.front.size)

    def forward(self, x):
        energies = self.recognizer.front(x)
        return {"energies": energies, "normalized": self.normalize(energies), "y": self.recognizer.gru(energies)[0]}


@pytest.mark.parametrize("bad", [math.nan, -math.inf], ids=str)
@pytest.mark.parametrize("options", [{}, {"hop": 128, "window": 128, "mels": 20, "coefficients": 13}], ids=str)
def test_a_sample_that_is_no_number_is_in_no_finite_feature(options, bad, tmp_path):
    """Not even the first sample of a window, whose weight is 0; frames whose window does not hold it stay finite."""
    torch.manual_seed(0)
    model = Energies(**options).eval()
    hop, window = model.recognizer.front.hop, model.recognizer.front.window
    x = torch.randn(1, 12, hop) * 0.1
    types = {"recognizer.front": "float32", "*": "int8"}
    cr.pack(model, tmp_path / "words.crnn", x, calibration=[x], weights=types)
    for place in (0, (3 * hop - window) % hop, hop - 1):  # the second is the first sample of a window
        damaged, first = x.clone(), 4 * hop + place
        damaged[0, 4, place] = bad
        holds = [(t + 1) * hop - window <= first < (t + 1) * hop for t in range(12)]
        since = np.cumsum(holds) > 0
        lost = [np.array(part)[:, None] for part in (holds, since, since)]  # of a mean and of a state all that follows
        wanted = [y[0].detach().numpy() for y in model(damaged).values()]
        for isa in _native.isas():
            stream = cr.Engine(tmp_path / "words.crnn", isa=isa).stream()
            found = stream.run(damaged[0].numpy())
            for want, got, bad_steps in zip(wanted, found, lost, strict=True):
                for values in (want, got):
                    assert np.array_equal(np.isfinite(values), np.broadcast_to(~bad_steps, values.shape))
            stream.reset()
            assert all(np.isfinite(part).all() for part in stream.run(x[0].numpy()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 0}, "hop: expected"),
        ({"transform": 100}, "transform: expected at least the 200 samples of the window, got 100"),
        ({"highest": 5000}, "lowest, highest: expected 0 <= lowest < highest <= 4000.0, got 60.0, 5000 Hz"),
        ({"coefficients": 33}, "coefficients: expected 1 to 32, the mels, got 33"),
        ({"mels": 100}, "mels: expected a frequency in each filter, got 100 filters.*take fewer mels"),
        ({"floor": 0.0}, "floor: expected a positive number, got 0.0"),
    ],
)
def test_impossible_filter_banks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LogMel(**options)
