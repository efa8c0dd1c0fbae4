"""Small packed recognizers with random weights."""

import torch
from torch import nn

import compactrnn as cr
from compactrnn.decoding import Bigram, RecognizerSpec

SYMBOLS = ("", " ", "a", "b", "c")
SAID = ["a bac", "cab a b", "ab", "c"]
COEFFICIENTS, STACKED, HOP = 4, 3, 20


class Acoustic(nn.Module):
    """Scores of symbols, large enough that words come out of random weights."""

    def __init__(self, inputs, symbols, bidirectional=False):
        super().__init__()
        self.lstm = nn.LSTM(inputs, 12, batch_first=True, bidirectional=bidirectional)
        self.output = nn.Linear(12 * (1 + bidirectional), symbols)

    def forward(self, x):
        return 12 * self.output(self.lstm(x)[0])


def features_spec(**settings):
    return RecognizerSpec(**{"symbols": SYMBOLS, "frames_per_step": STACKED, "bigram": Bigram.of(SAID), **settings})


def audio_spec(**settings):
    values = {"symbols": ("one", "two", "-"), "blank": 2, "lexicon": ("one", "two")}
    return RecognizerSpec(**{**values, "input": "audio", "frames_per_step": HOP, "sample_rate": 800, **settings})


def pack_recognizer(path, spec, inputs, bidirectional=False, seed=3):
    torch.manual_seed(seed)
    x = torch.randn(1, 30, inputs)
    model = Acoustic(inputs, len(spec.symbols), bidirectional)
    cr.pack(model, path, x, weights="float32", metadata=spec.metadata())
    return path
