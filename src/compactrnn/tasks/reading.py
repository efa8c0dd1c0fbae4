"""Reading: find the answer to a question in a passage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from .._bounds import STRICT, Count
from .._errors import invalid
from ..data import load_glove, load_squad
from ..data.squad import Question
from ..models.reader import Reader, ReaderOptions
from .answer_spans import best_spans, exact_match, f1
from .batch import Batch
from .sequence import AbstractSequencesTask, generator
from .similar_lengths import batches_of_similar_length

ROWS = 32
TENTH = 10  # every so many passages one is for validation
FEATURES = 4


@dataclass(frozen=True)
class ReadingData:
    """Questions with more words, or on longer passages, are left out of the training part, in tokens.

    An answer has at most `answer_words` tokens.
    """

    passage_words: Count = 300
    question_words: Count = 40
    answer_words: Count = 15
    name: Literal["reading"] = "reading"
    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class ReadingBatch(Batch):
    """`inputs` are the passages, `targets` (batch, 2) the first and the last word of each answer.

    `questions` (batch, words, inputs) and `question_lengths`, int64 (batch,), are what is asked, `asked` the same as
    text.
    """

    questions: Tensor
    question_lengths: Tensor
    asked: tuple[Question, ...]

    def to(self, device: torch.device | str) -> Self:
        return replace(super().to(device), questions=self.questions.to(device))

    def rows(self, start: int, stop: int) -> Self:
        own = {name: getattr(self, name)[start:stop] for name in ("questions", "question_lengths", "asked")}
        lengths = None if self.lengths is None else self.lengths[start:stop]
        return replace(self, inputs=self.inputs[start:stop], targets=self.targets[start:stop], lengths=lengths, **own)


class ReadingTask(AbstractSequencesTask):
    """SQuAD 1.1 with GloVe vectors: the answer is a span of the passage; 100 - F1 in percent.

    The model gets of every word its vector, zero if there is none, and four numbers: whether the other text has the
    word too, whether it is written with a capital letter, whether it has a digit, and whether it has no vector. It
    gives logits of the first and of the last word; the loss is the mean cross-entropy of the two, the answer the span
    of at most `answer_words` with the largest probability. `exact_match` and F1 are those of SQuAD: articles,
    punctuation and case do not count, and of several answers that people gave the nearest one does.

    The validation part are the questions on every tenth passage of the training part.

    Rajpurkar, Zhang, Lopyrev, Liang: SQuAD: 100,000+ questions for machine comprehension of text, 2016; words that
    both texts have: Chen, Fisch, Weston, Bordes, Reading Wikipedia to answer open-domain questions, 2017.
    """

    data_options = ReadingData
    model_options = ReaderOptions
    metric = "f1_error"
    distill_targets = ("probabilities", "classes")
    batch_rows = ROWS
    data: ReadingData

    def __init__(self, data: ReadingData, *, batch_size: int, seed: int = 0):
        super().__init__(data, batch_size=batch_size, seed=seed)
        self.words = load_glove()
        known = load_squad("train")
        passages = list(dict.fromkeys(question.passage for question in known))
        held_out = set(passages[TENTH - 1 :: TENTH])
        train = [q for q in known if q.passage not in held_out and self._short(q)]
        valid = [q for q in known if q.passage in held_out]
        self.parts = {"train": train, "valid": valid, "test": load_squad("test")}
        for part, questions in self.parts.items():
            if not questions:
                got = f"no question in the {part} part"
                raise invalid("SQuAD", got=got, expected=f"{TENTH} passages or more, of at most {data.passage_words}")
        if batch_size > len(train):
            raise invalid("batch_size", got=batch_size, expected=f"at most the {len(train)} training questions")
        self._lengths = np.array([len(q.passage.spans) for q in train])
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 0), int))

    def _short(self, question: Question) -> bool:
        words, asked = len(question.passage.spans), len(question.tokens)
        return words <= self.data.passage_words and asked <= self.data.question_words

    @property
    def inputs(self) -> int:  # pyright: ignore
        """Numbers of a word."""
        return self.words.vectors.shape[1] + FEATURES

    @property
    def steps(self) -> int:
        return max(len(q.passage.spans) for questions in self.parts.values() for q in questions)

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """The outputs of the layers, and of each pair of words the product of two of them."""
        words = self.batch_size * int(self._lengths.max())
        pairs = words * max(len(q.tokens) for q in self.parts["train"])
        return 4 * (words * (self.inputs + 2 * sum(layer_sizes)) + 2 * pairs * layer_sizes[0])

    def build_model(self, options: ReaderOptions) -> Reader:  # pyright: ignore
        return Reader(self.inputs, options)

    def updates_per_epoch(self) -> int:
        """Whole batches; what is left over differs from epoch to epoch."""
        return len(self.parts["train"]) // self.batch_size

    def batch(self, index: int, epoch: int = 0) -> ReadingBatch:
        """Questions on passages of similar length."""
        if self._order[0] != epoch:
            random = generator(self.seed, "train", epoch)
            self._order = (epoch, batches_of_similar_length(self._lengths, self.batch_size, random))
        return self._batch([self.parts["train"][n] for n in self._order[1][index]])

    def batches(self, part: str) -> Iterator[ReadingBatch]:
        """Thirty-two at a time, from the shortest passage to the longest."""
        questions = sorted(self.parts[part], key=lambda q: len(q.passage.spans))
        for start in range(0, len(questions), ROWS):
            yield self._batch(questions[start : start + ROWS])

    def _batch(self, questions: Sequence[Question]) -> ReadingBatch:
        asked = [list(q.tokens) for q in questions]
        passages = [q.passage.tokens for q in questions]
        inputs, lengths = _padded([self._numbers(p, q) for p, q in zip(passages, asked, strict=True)])
        words, counts = _padded([self._numbers(q, p) for p, q in zip(passages, asked, strict=True)])
        targets = torch.tensor([q.span for q in questions])
        return ReadingBatch(inputs, targets, lengths, questions=words, question_lengths=counts, asked=tuple(questions))

    def _numbers(self, tokens: list[str], others: list[str]) -> np.ndarray:
        """What the model gets of a text, float32 (tokens, inputs)."""
        numbers, known = self.words.of(tokens), {token.lower() for token in others}
        common = [token.lower() in known for token in tokens]
        capital = [token[0].isupper() for token in tokens]
        digits = [any(c.isdigit() for c in token) for token in tokens]
        features = np.stack([common, capital, digits, numbers == 0], 1).astype(np.float32)
        return np.concatenate([self.words.vectors[numbers], features], 1)

    def forward(self, model: nn.Module, batch: Batch, states: Any) -> tuple[Tensor, Any]:
        assert isinstance(batch, ReadingBatch)
        return model(batch.inputs, batch.questions, batch.lengths, batch.question_lengths), None

    def answers(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Logits (2 * batch, words): those of the first and of the last word, question after question."""
        return outputs.flatten(0, 1)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the first and the last word of the answer, in nats."""
        return nn.functional.cross_entropy(self.answers(outputs, batch), batch.targets.flatten())

    def target_count(self, batch: Batch) -> int:
        return 2 * len(batch)

    def texts(self, answers: Tensor, batch: Batch) -> list[str]:
        """The text of the answer to each question."""
        assert isinstance(batch, ReadingBatch)
        start, end = answers.unflatten(0, (-1, 2)).unbind(1)
        spans = best_spans(start, end, self.data.answer_words)
        return [q.passage.between(*span) for q, span in zip(batch.asked, spans, strict=True)]

    def errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """100 - F1 of each answer."""
        return {self.metric: (sum(100 - 100 * f1(*pair) for pair in self._answered(answers, batch)), len(batch))}

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Exact match, in percent."""
        return {"exact_match": (sum(100 * exact_match(*pair) for pair in self._answered(answers, batch)), len(batch))}

    def _answered(self, answers: Tensor, batch: Batch) -> Iterator[tuple[str, tuple[str, ...]]]:
        assert isinstance(batch, ReadingBatch)
        return zip(self.texts(answers, batch), (question.answers for question in batch.asked), strict=True)

    def extra_metrics(self, metric: float) -> dict[str, float]:
        return {"f1": 100.0 - metric}

    def counts(self, part: str) -> dict[str, int]:
        return {"questions": len(self.parts[part])}

    def _check_engine(self, engine: Any) -> None:
        got, expected = "a packed model", "a run folder, whose model torch runs"
        raise invalid("reading", got=got, expected=expected, hint="the engine has no attention between two sequences")

    def one(self, batch: Batch) -> tuple[Tensor, ...]:
        """The passage and the question."""
        assert isinstance(batch, ReadingBatch)
        return *super().one(batch), batch.questions[:, : int(batch.question_lengths)]

    def example_inputs(self) -> Any:
        """A passage and a question, (1, 16, inputs) and (1, 8, inputs) or shorter."""
        passage, question = self.calibration_inputs()
        return passage[:, :16], question[:, :8]

    def calibration_inputs(self) -> Any:
        """A passage of the validation part, and a question on it."""
        batch = self._batch(self.parts["valid"][:1])
        return batch.inputs, batch.questions


def _padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of several lengths side by side, with zeros after each, and the lengths."""
    lengths = [len(row) for row in rows]
    padded = np.zeros((len(rows), max(lengths), rows[0].shape[1]), np.float32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded), torch.tensor(lengths)
