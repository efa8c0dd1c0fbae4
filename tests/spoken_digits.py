"""Recordings like those of the Free Spoken Digit Dataset, made of tones."""

import numpy as np

from compactrnn.data.fsdd import RATE, SpokenDigits


def toy_digits(speakers=3, takes=12, seed=0):
    """Digit d of speaker s is two tones, one after the other, whose pitch follows from d and, less, from s."""
    random = np.random.default_rng(seed)
    parts = [(digit, speaker, take) for speaker in range(speakers) for digit in range(10) for take in range(takes)]
    audio = []
    for digit, speaker, _ in parts:
        length = int(random.integers(RATE // 10, RATE // 4))
        tones = np.array([400.0 + 250 * (digit % 5), 400.0 + 500 * (digit // 5)]) * (1 + 0.02 * speaker)
        phase = 2 * np.pi * np.cumsum(np.repeat(tones, -(-length // 2))[:length]) / RATE
        sound = 0.3 * np.sin(phase) + 0.01 * random.standard_normal(length)
        audio.append((32768 * sound).astype(np.int16))
    digit, speaker, take = np.array(parts, np.int64).T
    offsets = np.cumsum([0, *map(len, audio)])
    return SpokenDigits(np.concatenate(audio), offsets, digit, speaker, take, ("ann", "bob", "cid")[:speakers])
