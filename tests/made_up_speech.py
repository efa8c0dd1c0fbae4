"""A small file in the form of AN4's, of made-up cepstra."""

from pathlib import Path

import numpy as np

WORDS = ("GO", "NO", "ON", "G")
FRAMES = 7  # of a character


def arrays(speakers=10, testers=2, utterances=3, seed=0):
    """Every character sounds alike in all utterances but for noise and a shift of the speaker's."""
    random = np.random.default_rng(seed)
    sounds = {character: random.normal(size=13) * 3 for character in " GNO"}
    features, ids, texts, split = [], [], [], []
    for speaker in range(speakers + testers):
        shift = random.normal(size=13)
        for number in range(utterances):
            text = " ".join(random.choice(WORDS, 1 + random.integers(3)))
            clean = np.repeat([sounds[c] for c in f" {text} "], FRAMES, 0)
            features.append((clean + shift + 0.3 * random.normal(size=clean.shape)).astype(np.float32))
            ids.append(f"made_up/speaker{speaker:02}/an{number}-b")
            texts.append(text)
            split.append(speaker >= speakers)
    return {
        "mfcc": np.concatenate(features),
        "offsets": np.cumsum([0, *map(len, features)]),
        "ids": np.array(ids),
        "text": np.array(texts),
        "split": np.array(split, np.uint8),
    }


def write(folder: Path, **changes) -> Path:
    """`an4/an4_mfcc13.npz` in `folder`, with some arrays changed, or left out where None is given."""
    path = folder / "an4" / "an4_mfcc13.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: value for key, value in {**arrays(), **changes}.items() if value is not None})
    return path
