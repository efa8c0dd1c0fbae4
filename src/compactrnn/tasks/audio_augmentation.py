"""Random changes of audio for training: speed, gain, tone, noise, silence before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._bounds import STRICT, Share

_TAPS, _DECAY = 8, 0.7


@dataclass(frozen=True)
class AudioAugmentation:
    """How far audio is changed; 0 leaves it as it is.

    `speed`: the speed, and with it pitch and formants, is multiplied by exp(u), u ~ U(-speed, speed), by linear
    interpolation. `tone`: a random filter of eight taps, 1 and then tone * 0.7^k * N(0, 1), as another microphone or
    room would be. `gain`: a factor of up to 10^gain, or its inverse. `noise`: white noise of 10^u of the largest
    sample, u ~ U(-2.5, log10 noise). `silence`: up to so many seconds before the audio.

    >>> x = np.sin(np.arange(800, dtype=np.float32))
    >>> len(AudioAugmentation(silence=0.2).apply(x, 8000, np.random.default_rng(0))) > 800
    True
    """

    speed: Share = 0.0
    tone: Share = 0.0
    gain: Share = 0.0
    noise: Share = 0.0
    silence: Share = 0.0
    __pydantic_config__ = STRICT

    def apply(self, samples: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
        """Changed samples, float32."""
        if self.speed:
            factor = np.exp(random.uniform(-self.speed, self.speed))
            places = np.arange(max(1, int(len(samples) / factor))) * factor
            samples = np.interp(places, np.arange(len(samples)), samples)
        if self.tone:
            taps = self.tone * _DECAY ** np.arange(_TAPS) * random.standard_normal(_TAPS)
            taps[0] = 1.0
            samples = np.convolve(samples, taps)[: len(samples)]
        if self.gain:
            samples = samples * 10 ** random.uniform(-self.gain, self.gain)
        if self.noise:
            level = 10 ** random.uniform(min(-2.5, np.log10(self.noise)), np.log10(self.noise))
            samples = samples + level * np.abs(samples).max() * random.standard_normal(len(samples))
        if self.silence:
            samples = np.concatenate([np.zeros(random.integers(int(self.silence * rate) + 1)), samples])
        return samples.astype(np.float32)
