"""Log-mel energies and cepstra of audio, as a module that packs and streams."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid


class LogMel(nn.Module):
    """Log energies of a mel filter bank, or cepstra, of audio in rows of `hop` samples:
    (batch, frames, hop) to (batch, frames, mels or coefficients).

        s_k = sum over n of w_n x_n exp(-2 pi i k n / N)         n over the last `window` samples, w a Hann window
        e_m = log(sum over k of f_mk |s_k|^2 + floor)
        c_j = sqrt(2 / mels) sum over m of e_m cos(pi j (m + 1/2) / mels),   with `coefficients`

    A row is what a microphone gives in a step, numbers from -1 to 1; row t ends with the newest sample of frame t, so
    no later sample is needed. Before the first row there is silence. The transform is of N samples, by default of
    `window`, as a product with one matrix of cosines and sines; filters are triangles between points that lie evenly on
    the mel scale, 2595 log10(1 + f / 700), from `lowest` to `highest` Hz (by default half the rate).

    A sample that is NaN or infinite makes all features of every frame whose window holds it NaN, in torch and in the
    engine; a mean or a state that has taken them in stays NaN until the stream is reset.

    The energies of loud and quiet bands differ by factors of millions, more than int8 can tell apart: pack `spectrum`
    and `filters` in float32.

    >>> front = LogMel(hop=80, window=200, mels=32)
    >>> front(torch.randn(2, 50, 80)).shape
    torch.Size([2, 50, 32])
    >>> LogMel(hop=80, window=200, mels=32, coefficients=13)(torch.randn(2, 50, 80)).shape
    torch.Size([2, 50, 13])

    Davis, Mermelstein: Comparison of parametric representations for monosyllabic word recognition in continuously
    spoken sentences, 1980.
    """

    spectrum: Tensor
    filters: Tensor
    cosines: Tensor | None

    def __init__(
        self,
        rate: int = 8000,
        hop: int = 80,
        window: int = 200,
        mels: int = 32,
        *,
        lowest: float = 60.0,
        highest: float | None = None,
        transform: int | None = None,
        floor: float = 1e-5,
        coefficients: int | None = None,
    ):
        super().__init__()
        self.hop, self.window, self.floor = check_positive(hop, "hop"), check_positive(window, "window"), floor
        size = window if transform is None else transform
        top = rate / 2 if highest is None else highest
        if size < window:
            raise invalid("transform", got=size, expected=f"at least the {window} samples of the window")
        if not 0 <= lowest < top <= rate / 2:
            raise invalid("lowest, highest", got=f"{lowest}, {top} Hz", expected=f"0 <= lowest < highest <= {rate / 2}")
        if coefficients is not None and not 1 <= coefficients <= mels:
            raise invalid("coefficients", got=coefficients, expected=f"1 to {mels}, the mels")
        if not floor > 0:
            raise invalid("floor", got=floor, expected="a positive number")
        filters = mel_filters(check_positive(mels, "mels"), size, rate, lowest, top)
        if not bool(filters.any(1).all()):
            hint = "take fewer mels or a longer transform"
            got = f"{mels} filters, some without a frequency of the {size}-point transform"
            raise invalid("mels", got=got, expected="a frequency in each filter", hint=hint)
        used = filters.any(0).nonzero()[:, 0]
        angles = 2 * math.pi / size * torch.arange(window, dtype=torch.float64) * used[:, None]
        hann = torch.hann_window(window, dtype=torch.float64)
        spectrum = torch.cat([angles.cos(), -angles.sin()]) * hann
        self.register_buffer("spectrum", spectrum.float(), persistent=False)
        self.register_buffer("filters", filters[:, used].float(), persistent=False)
        cosines = None if coefficients is None else _cosines(coefficients, mels).float()
        self.register_buffer("cosines", cosines, persistent=False)
        self.size = mels if coefficients is None else coefficients

    def forward(self, x: Tensor) -> Tensor:
        """The energies or cepstra of a batch of sequences, each from silence."""
        earlier = -(-self.window // self.hop) - 1
        padded = nn.functional.pad(x, (0, 0, earlier, 0))
        steps = x.shape[1]
        samples = torch.cat([padded[:, n : n + steps] for n in range(earlier + 1)], -1)[..., -self.window :]
        real, imaginary = nn.functional.linear(samples, self.spectrum).chunk(2, -1)
        power = real * real + imaginary * imaginary
        energies = torch.log(nn.functional.linear(power, self.filters) + self.floor)
        return energies if self.cosines is None else nn.functional.linear(energies, self.cosines)


def mel_filters(mels: int, size: int, rate: float, lowest: float, highest: float) -> Tensor:
    """Weights of the frequencies of a transform of `size` points in each filter: float64 (mels, size // 2 + 1)."""
    ends = torch.tensor([lowest, highest], dtype=torch.float64)
    low, high = 2595 * torch.log10(1 + ends / 700)
    points = 700 * (10 ** (torch.linspace(float(low), float(high), mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
    left, peak, right = points[:-2, None], points[1:-1, None], points[2:, None]
    return torch.minimum((frequencies - left) / (peak - left), (right - frequencies) / (right - peak)).clamp(min=0)


def _cosines(coefficients: int, mels: int) -> Tensor:
    numbers = torch.arange(coefficients, dtype=torch.float64)[:, None]
    places = torch.arange(mels, dtype=torch.float64) + 0.5
    return math.sqrt(2 / mels) * torch.cos(math.pi / mels * numbers * places)
