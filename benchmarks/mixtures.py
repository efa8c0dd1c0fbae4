"""Speech with noise of several kinds: sentences read by espeak-ng, noise made by NumPy; 16,000 samples a second."""

import io
import subprocess
import wave
from functools import cache

import numpy as np
from scipy.signal import resample_poly

RATE, MADE = 16_000, 22_050  # espeak-ng's
LEVEL = 0.05  # root mean square of speech
VOICES = ("en-us", "en-us+f3", "en-gb+m3", "en-gb-scotland+f4")
OTHERS = ("en-us+m7", "en-gb+f2", "en-029+m1", "en-us+f5", "en-gb-x-rp+m4")  # who talk in the background
# From the lists of IEEE recommended practice for speech quality measurements, 1969.
SENTENCES = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls. The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us. A large size in stockings is hard to sell.",
    "The boy was there when the sun rose. A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring. Kick the ball straight and follow through.",
    "Help the woman get back to her feet. A pot of tea helps to pass the evening.",
    "Smoky fires lack flame and heat. The soft cushion broke the man's fall.",
    "The salt breeze came across from the sea. The girl at the booth sold fifty bonds.",
)


@cache
def speech(number: int, voice: str) -> np.ndarray:
    """A sentence."""
    command = ["espeak-ng", "-v", voice, "-s", "150", "--stdout", SENTENCES[number]]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(made)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (MADE, 1, 2):
            raise ValueError(
                f"espeak-ng: expected one channel of 16 bits, {MADE} samples a second, got {file.getparams()}"
            )
        samples = np.frombuffer(file.readframes(len(made)), "<i2").astype(np.float64)
    samples = resample_poly(samples, RATE // 50, MADE // 50)
    return samples * LEVEL / np.sqrt(np.mean(samples**2))


def white(count: int, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=count)


def pink(count: int, random: np.random.Generator) -> np.ndarray:
    """As much power in every octave, from 20 Hz on."""
    frequencies = np.fft.rfftfreq(count, 1 / RATE)
    return np.fft.irfft(np.fft.rfft(random.normal(size=count)) / np.sqrt(np.maximum(frequencies, 20)), count)


def babble(count: int, random: np.random.Generator) -> np.ndarray:
    """Five people who talk at once."""
    total = np.zeros(count)
    for voice in OTHERS:
        said = np.concatenate([speech(int(n), voice) for n in random.permutation(len(SENTENCES))[:3]])
        total += np.roll(np.resize(said, count), random.integers(count))
    return total


def hum(count: int, random: np.random.Generator) -> np.ndarray:
    """A machine: 50 Hz with harmonics, which swell and fade, and a hiss."""
    time = np.arange(count) / RATE
    waves = sum(np.sin(2 * np.pi * (50 * n * time + random.random())) / n for n in range(1, 40))
    swell = 1 + 0.5 * np.sin(2 * np.pi * (0.7 * time + random.random()))
    return waves * swell + 0.1 * random.normal(size=count)


NOISES = {"white": white, "pink": pink, "babble": babble, "hum": hum}


def mixtures(numbers: range, decibels: float, seed: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The kind of noise, speech, and speech with noise, float32, of sentences in turns of voices, with every noise."""
    found = []
    for number in numbers:
        clean = speech(number, VOICES[number % len(VOICES)])
        for place, (kind, make) in enumerate(NOISES.items()):
            noise = make(len(clean), np.random.default_rng([seed, number, place]))
            noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-decibels / 20)
            found.append((kind, clean.astype(np.float32), (clean + noise).astype(np.float32)))
    return found
