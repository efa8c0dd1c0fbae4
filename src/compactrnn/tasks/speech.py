"""Speech recognition on AN4: spelled names, numbers and commands, character by character."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from .._bounds import STRICT, CountFrom0, Finite, Flag, ShareBelow1
from .._errors import invalid
from ..data import load_an4
from ..data.an4 import HIGHEST, LOWEST, MEL_FILTERS, Utterance
from ..decoding import Bigram, RecognizerSpec
from ..models.acoustic_model import AcousticModel, AcousticModelOptions
from ..models.ctc import ctc_loss
from .batch import Batch
from .cepstral_augmentation import CepstralAugmentation, MelScale
from .ctc import encode
from .quality import shortened
from .sequence import AbstractSequencesTask, generator
from .similar_lengths import batches_of_similar_length
from .word_errors import character_errors, jiwer, word_errors

FRAME_RATE, STACKED = 100, 3  # frames a second, and frames in a step
ROWS = 16
NINTH, EIGHTH = 9, 7  # of the speakers in alphabetical order, every ninth from the eighth on is held out


@dataclass(frozen=True)
class SpeechData:
    """The ranges of `CepstralAugmentation` in training, all 0 for none; two weights of `LexiconDecoder`.

    With `all_speakers` the validation part belongs to the training part too: for a last training after all choices
    were made.
    """

    all_speakers: Flag = False
    speed: ShareBelow1 = 0.15
    warp: ShareBelow1 = 0.12
    frequency_masks: CountFrom0 = 2
    frames_per_mask: CountFrom0 = 80
    lm_weight: Finite = 0.3
    word_bonus: Finite = 1.0
    name: Literal["speech"] = "speech"
    __pydantic_config__ = STRICT


class SpeechTask(AbstractSequencesTask):
    """AN4 with 13 cepstra, 100 frames a second, three in a step; characters as symbols; word error rate in percent.

    The model gives log-probabilities of the blank and of the characters of the training transcripts, for the loss of
    connectionist temporal classification. The metric is the word error rate of the best path: substitutions,
    deletions and insertions of words, per word of the references. Others are `cer`, the same of characters, and
    `lexicon_wer`, that of words found with the lexicon and a bigram of the training transcripts. Frames that do not
    fill a step at the end of an utterance, up to two, are left out.

    The validation part are the utterances of eight speakers of the training part: every ninth in alphabetical order,
    from the eighth on. The test part is AN4's own, 130 utterances of ten other speakers.

    A batch has utterances of similar length, of which the longest is at most some 20 % longer than the shortest
    before augmentation in a training part of AN4's size.

    Acero: Acoustical and environmental robustness in automatic speech recognition, 1991 (the recordings); Graves,
    Fernández, Gomez, Schmidhuber: Connectionist temporal classification, 2006.
    """

    data_options = SpeechData
    model_options = AcousticModelOptions
    metric = "wer"
    distill_targets = ("probabilities", "transcript")
    every_step = True
    batch_rows = ROWS
    data: SpeechData

    def __init__(self, data: SpeechData, *, batch_size: int, seed: int = 0, symbols: Sequence[str] | None = None):
        super().__init__(data, batch_size=batch_size, seed=seed)
        jiwer()
        an4 = load_an4()
        held_out = set(sorted({utterance.speaker for utterance in an4.train})[EIGHTH::NINTH])
        valid = [utterance for utterance in an4.train if utterance.speaker in held_out]
        train = [u for u in an4.train if data.all_speakers or u.speaker not in held_out]
        self.parts = {"train": train, "valid": valid, "test": list(an4.test)}
        for part, utterances in self.parts.items():
            if not utterances or min(len(u.features) for u in utterances) < STACKED:
                got = f"{len(utterances)} utterances in the {part} part, or one of less than {STACKED} frames"
                raise invalid("AN4", got=got, expected=f"utterances of {STACKED} frames or more in every part")
        if batch_size > len(train):
            raise invalid("batch_size", got=batch_size, expected=f"at most the {len(train)} training utterances")
        self.symbols = sorted(set("".join(u.text for u in train))) if symbols is None else list(symbols)
        self.augment = CepstralAugmentation(
            MelScale(MEL_FILTERS, LOWEST, HIGHEST),
            speed=data.speed,
            warp=data.warp,
            frequency_masks=data.frequency_masks,
            frames_per_mask=data.frames_per_mask,
        )
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    @classmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task of a recipe, with the symbols of `saved`, or else of the training transcripts."""
        if saved is None:
            return cls(data, batch_size=batch_size, seed=seed)
        return cls(data, batch_size=batch_size, seed=seed, symbols=_symbols(saved))

    @property
    def coefficients(self) -> int:
        """Numbers of a frame."""
        return self.parts["train"][0].features.shape[1]

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Numbers of a step: three frames."""
        return STACKED * self.coefficients

    @property
    def outputs(self) -> int:  # pyright: ignore
        """The blank, and the characters."""
        return 1 + len(self.symbols)

    @property
    def steps(self) -> int:
        longest = max(len(u.features) for utterances in self.parts.values() for u in utterances)
        return int(longest / (1 - self.data.speed)) // STACKED + 1

    def build_model(self, options: AcousticModelOptions) -> AcousticModel:
        """A model whose front end knows mean and standard deviation of the training part's frames."""
        frames = np.concatenate([u.features for u in self.parts["train"]]).astype(np.float64)
        model = AcousticModel(self.coefficients, self.outputs, options, STACKED)
        mean, deviation = (torch.from_numpy(a).float() for a in (frames.mean(0), frames.std(0)))
        return model.standardize_(mean, deviation.clamp(min=1e-6))

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return len(self.parts["train"]) // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Utterances of similar length, changed at random."""
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        random = generator(self.seed, "train", epoch, index)
        chosen = [self.parts["train"][n] for n in self._order[1][index]]
        return self._batch(chosen, [self.augment(u.features, random) for u in chosen])

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The numbers of the utterances of each batch, (batches, batch_size)."""
        lengths = np.array([len(u.features) for u in self.parts["train"]])
        return batches_of_similar_length(lengths, self.batch_size, generator(self.seed, "train", epoch))

    def batches(self, part: str) -> Iterator[Batch]:
        """Sixteen at a time, as they were recorded, from the shortest to the longest."""
        utterances = sorted(self.parts[part], key=lambda u: len(u.features))
        for start in range(0, len(utterances), ROWS):
            chosen = utterances[start : start + ROWS]
            yield self._batch(chosen, [u.features for u in chosen])

    def _batch(self, utterances: Sequence[Utterance], features: Sequence[np.ndarray]) -> Batch:
        lengths = [len(frames) // STACKED for frames in features]
        inputs = np.zeros((len(features), max(lengths), self.inputs), np.float32)
        for row, frames, length in zip(inputs, features, lengths, strict=True):
            row[:length] = frames[: length * STACKED].reshape(length, -1)
        targets = encode([u.text for u in utterances], self.symbols)
        return Batch(torch.from_numpy(inputs), targets, torch.tensor(lengths))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `ctc_loss`: nats per character."""
        return ctc_loss(outputs, batch.targets, batch.lengths)

    def target_count(self, batch: Batch) -> int:
        """The number of characters."""
        return int((batch.targets > 0).sum())

    @cached_property
    def recognizer(self) -> RecognizerSpec:
        """What a packed model takes and gives; its bigram is of the transcripts of the training part."""
        return RecognizerSpec(
            ("", *self.symbols),
            frames_per_step=STACKED,
            sample_rate=FRAME_RATE,
            bigram=Bigram.of([u.text for u in self.parts["train"]]),
            lm_weight=self.data.lm_weight,
            word_bonus=self.data.word_bonus,
        )

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Of the best path: a hundred for each word substituted, deleted or inserted, and the number of words."""
        return {"wer": _percent(*word_errors(self.texts(batch), self._recognized(answers, batch, "greedy")))}

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """The same of characters, and of words found with the lexicon and the bigram of the training transcripts."""
        texts, found = self.texts(batch), self._recognized(answers, batch, "lexicon")
        characters = character_errors(texts, self._recognized(answers, batch, "greedy"))
        return {"cer": _percent(*characters), "lexicon_wer": _percent(*word_errors(texts, found))}

    def _recognized(self, answers: Tensor, batch: Batch, decode: str) -> list[str]:
        decoder = self.recognizer.decoder(decode)
        lengths = [batch.inputs.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
        return [" ".join(decoder.decode(one.numpy())) for one in answers.split(lengths)]

    def texts(self, batch: Batch) -> list[str]:
        """The transcripts of a batch."""
        return ["".join(self.symbols[n - 1] for n in row[row > 0].tolist()) for row in batch.targets]

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.parts[part]), "words": sum(len(u.text.split()) for u in self.parts[part])}

    def metadata(self) -> dict[str, Any]:
        """The section `[task]`, the metric, and the entry `recognizer` of `RecognizerSpec`."""
        return {**super().metadata(), **self.recognizer.metadata()}


def _percent(errors: int, number: int) -> tuple[float, int]:
    return 100.0 * errors, number


def _symbols(metadata: Mapping[str, Any]) -> list[str]:
    """The characters that a model was trained on, without the blank; the metadata may be anyone's."""
    blank, *characters = RecognizerSpec.from_metadata(metadata).symbols
    if blank or not all(len(character) == 1 for character in characters):
        got = shortened([blank, *characters])
        raise invalid("model metadata: symbols", got=got, expected="the blank, '', and single characters")
    return characters
