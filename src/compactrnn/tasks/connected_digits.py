"""Connected digits: which digits are said one after the other, without knowing how many or when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, Sequences
from ..data import DigitString, digit_strings
from ..data.fsdd import DIGITS, LONGEST_STRING, RATE
from ..decoding import Alphabet, GreedyDecoder, RecognizerSpec
from ..models.ctc import BLANK, ctc_loss
from .batch import Batch
from .ctc import encode
from .digit_audio import AbstractDigitsTask, DigitAudioData
from .sequence import generator
from .word_errors import jiwer, word_errors

SYMBOLS = [str(digit) for digit in range(DIGITS)]
UPDATES, STRINGS = 100, 20


@dataclass(frozen=True)
class ConnectedDigitsData(DigitAudioData):
    """Those of `DigitAudioData`; validation and test parts have `valid` and `test` strings."""

    valid: Sequences = 100
    test: Sequences = 300
    name: Literal["connected_digits"] = "connected_digits"
    __pydantic_config__ = STRICT


class ConnectedDigitsTask(AbstractDigitsTask):
    """Strings of 3 to 7 recordings of one speaker, with pauses; see `compactrnn.data.digit_strings`; word error rate.

    The strings of a part are made of the recordings of this part alone. A model gives logits of the blank and the ten
    digits at every step, for the loss of connectionist temporal classification; the metric is that of the best path, in
    percent of the digits. A packed model is a recognizer: `compactrnn run model.crnn audio.wav` prints the digits.
    """

    data_options = ConnectedDigitsData
    metric = "wer"
    every_step = True
    distill_targets = ("transcript",)  # a teacher's alignment need not be the student's
    batch_rows = STRINGS
    outputs = 1 + DIGITS
    data: ConnectedDigitsData

    def __init__(self, data: ConnectedDigitsData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        jiwer()

    @property
    def steps(self) -> int:  # pyright: ignore
        longest = int(np.diff(self.digits.offsets).max())
        return self.most_steps(LONGEST_STRING * (longest + RATE // 2))

    def updates_per_epoch(self) -> int:
        """A hundred: there is no end of strings."""
        return UPDATES

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Strings made and changed at random."""
        random, augment = generator(self.seed, "train", epoch, index), self.data.augmentation
        strings = digit_strings(self.digits, self.recordings["train"], self.batch_size, random)
        audio = [augment.apply(self.leveled(s.samples(self.digits)), RATE, random) for s in strings]
        return self._sequences(strings, audio)

    def batches(self, part: str) -> Iterator[Batch]:
        """Twenty at a time, as they were recorded; of the training part, as many as of the validation part."""
        count = self.counts(part)["sequences"]
        for number, start in enumerate(range(0, count, STRINGS)):
            random = generator(self.seed, part, 0, number)
            strings = digit_strings(self.digits, self.recordings[part], min(STRINGS, count - start), random)
            yield self._sequences(strings, [self.leveled(s.samples(self.digits)) for s in strings])

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": self.data.test if part == "test" else self.data.valid}

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `ctc_loss`: nats per digit."""
        return ctc_loss(outputs.log_softmax(-1), batch.targets, batch.lengths)

    def target_count(self, batch: Batch) -> int:
        """The number of digits."""
        return int((batch.targets > BLANK).sum())

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Of the best path: a hundred for each digit substituted, deleted or inserted, and the number of digits."""
        assert batch.lengths is not None
        alphabet = Alphabet(["", *SYMBOLS])
        decoder = GreedyDecoder(alphabet)
        found = [" ".join(decoder.decode(one.numpy())) for one in answers.log_softmax(-1).split(batch.lengths.tolist())]
        spoken = [" ".join(alphabet.words(row[row > BLANK].tolist())) for row in batch.targets]
        errors, digits = word_errors(spoken, found)
        return {"wer": (100.0 * errors, digits)}

    def metadata(self) -> dict[str, Any]:
        """The task's, and for `rows = "samples"` what `compactrnn run` needs to know."""
        if self.data.rows != "samples":
            return super().metadata()
        spec = RecognizerSpec(("", *SYMBOLS), input="audio", frames_per_step=self.data.hop, sample_rate=RATE)
        return {**super().metadata(), **spec.metadata()}

    def _sequences(self, strings: Sequence[DigitString], audio: Sequence[np.ndarray]) -> Batch:
        inputs, lengths = self._as_rows(audio)
        targets = encode(["".join(map(str, string.labels(self.digits))) for string in strings], SYMBOLS)
        return Batch(inputs, targets.to(torch.int64), lengths)
