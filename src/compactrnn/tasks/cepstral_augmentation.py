"""Random changes of cepstra: speed, length of the vocal tract, masks in time and frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_MEL = 1127.0


@dataclass(frozen=True)
class MelScale:
    """Mel filters, evenly spaced on the mel scale between two frequencies in Hz, from whose logs cepstra are made."""

    filters: int
    lowest: float
    highest: float

    def cosines(self, coefficients: int, positions: np.ndarray) -> np.ndarray:
        """The inverse discrete cosine transform to filters at any positions: (positions, coefficients)."""
        angles = np.pi / self.filters * (positions[:, None] + 0.5) * np.arange(coefficients)
        return np.cos(angles) * np.where(np.arange(coefficients) > 0, 2.0, 1.0)

    def transform(self, coefficients: int) -> np.ndarray:
        """The discrete cosine transform from the filters: (coefficients, filters)."""
        number = np.arange(coefficients)[:, None]
        return np.cos(np.pi / self.filters * number * (np.arange(self.filters) + 0.5)) / self.filters

    def warp(self, coefficients: int, factor: float) -> np.ndarray:
        """The matrix of cepstra whose spectrum at frequency f is what it was at `factor * f`.

        >>> bool(np.allclose(MelScale(40, 130, 6800).warp(13, 1.0), np.eye(13)))
        True
        """
        low, high = (_MEL * math.log1p(f / 700) for f in (self.lowest, self.highest))
        spacing = (high - low) / (self.filters + 1)
        frequencies = 700 * np.expm1((low + spacing * (1 + np.arange(self.filters))) / _MEL)
        moved = _MEL * np.log1p(factor * frequencies / 700)
        positions = np.clip((moved - low) / spacing - 1, 0, self.filters - 1)
        return self.transform(coefficients) @ self.cosines(coefficients, positions)

    def mask(self, coefficients: int, first: int, count: int) -> np.ndarray:
        """The matrix of cepstra without the contribution of `count` filters from `first` on."""
        kept = np.ones(self.filters)
        kept[first : first + count] = 0
        return (self.transform(coefficients) * kept) @ self.cosines(coefficients, np.arange(self.filters))


@dataclass(frozen=True)
class CepstralAugmentation:
    """Draws, for every utterance:

    - a speed from 1 - `speed` to 1 + `speed`: frames are interpolated;
    - a factor from 1 - `warp` to 1 + `warp`, by which the spectrum is stretched, as by another vocal tract;
    - up to `frequency_masks` masks of up to `filters_masked` neighboring mel filters;
    - one time mask for each `frames_per_mask` frames (0: none), up to `frames_masked` long.

    What is masked gets the mean of the utterance.

    >>> augment = CepstralAugmentation(MelScale(40, 130, 6800))
    >>> frames = np.random.default_rng(0).normal(size=(100, 13)).astype(np.float32)
    >>> changed = augment(frames, np.random.default_rng(1))
    >>> changed.dtype, changed.shape[1], 86 <= len(changed) <= 118
    (dtype('float32'), 13, True)

    Jaitly, Hinton: Vocal tract length perturbation (VTLP) improves speech recognition, 2013; Ko, Peddinti, Povey,
    Khudanpur: Audio augmentation for speech recognition, 2015; Park et al.: SpecAugment, 2019.
    """

    scale: MelScale
    speed: float = 0.15
    warp: float = 0.12
    frequency_masks: int = 2
    filters_masked: int = 8
    frames_per_mask: int = 80
    frames_masked: int = 15

    def __call__(self, frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Other frames, (time, coefficients)."""
        frames = _at_speed(frames, random.uniform(1 - self.speed, 1 + self.speed))
        size = frames.shape[1]
        frames = frames @ self.scale.warp(size, random.uniform(1 - self.warp, 1 + self.warp)).T
        mean = frames.mean(0)
        frames = frames - mean
        for _ in range(random.integers(self.frequency_masks + 1)):
            count = int(random.integers(self.filters_masked + 1))
            first = int(random.integers(self.scale.filters - count + 1))
            frames = frames @ self.scale.mask(size, first, count).T
        for _ in range(len(frames) // self.frames_per_mask if self.frames_per_mask else 0):
            first = random.integers(len(frames))
            frames[first : first + random.integers(self.frames_masked + 1)] = 0
        return (frames + mean).astype(np.float32)


def _at_speed(frames: np.ndarray, speed: float) -> np.ndarray:
    """Frames read at another speed, by linear interpolation."""
    count = max(1, round(len(frames) / speed))
    at = np.minimum(np.arange(count) * speed, len(frames) - 1)
    first = at.astype(int)
    share = (at - first)[:, None]
    return frames[first] * (1 - share) + frames[np.minimum(first + 1, len(frames) - 1)] * share
