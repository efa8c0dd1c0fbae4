"""Language modeling: predict the next character or word of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from .._bounds import STRICT, Count, CountFrom0, Share, Word
from .._errors import invalid
from ..data import CORPORA, Corpus, load_corpus
from ..layers import detach
from ..models.candidates import NEVER
from ..models.recurrent_lm import LanguageModel, LanguageModelOptions
from .base import AbstractTask
from .batch import Batch
from .negatives import NegativeSampler, SampledBatch
from .quality import METRIC, evaluate_stream, from_nats, shortened
from .vocabulary import Vocabulary

EXAMPLE_SYMBOLS = 100


@dataclass(frozen=True)
class LanguageModelData:
    """The text and its symbols; those that occur fewer than `minimum_count` times are read as the unknown one.

    With `negatives` above 0 the softmax of training is sampled: a target is compared with so many other symbols, the
    same for all targets of an update, in place of all. Symbol i is among them with probability p_i ~ count_i **
    `negative_power` (`NegativeSampler`), and its logit counts as `z_i - log p_i`, so that the sum of exponentials has
    the expectation of the whole one. Validation and test are with all symbols.

    Jean, Cho, Memisevic, Bengio: On using very large target vocabulary for neural machine translation, 2015.
    """

    data: Word = "alice"
    level: Literal["character", "word"] = "character"
    minimum_count: Count = 1
    negatives: CountFrom0 = 0
    negative_power: Share = 0.4
    name: Literal["language_model"] = "language_model"
    __pydantic_config__ = STRICT


class LanguageModelTask(AbstractTask):
    """Truncated backpropagation through time: row b reads its own stretch of the text, `steps` symbols an update.

    States are carried from update to update and start from zero with each epoch; what does not fill a whole update at
    the end of a stretch is left out. With `shift`, a seed, each epoch begins at another of the first `steps` symbols,
    drawn from that seed, so that the text is not always cut in the same places.

    >>> task = LanguageModelTask(LanguageModelData("alice"), batch_size=32, steps=64)
    >>> task.batch(0).inputs.shape, task.metric
    (torch.Size([32, 64]), 'bits_per_character')
    """

    data_options = LanguageModelData
    model_options = LanguageModelOptions

    def __init__(
        self,
        data: LanguageModelData,
        *,
        batch_size: int,
        steps: int,
        shift: int | None = None,
        seed: int = 0,
        vocabulary: Sequence[str] | None = None,
    ):
        self.data, self.shift = data, shift
        self.metric = METRIC[data.level]
        corpus = load_corpus(data.data)
        if vocabulary is None:
            self.vocabulary = Vocabulary.of(corpus.train, data.level, data.minimum_count)
        else:
            self.vocabulary = Vocabulary(vocabulary, data.level)
        self.parts = _Encoded(corpus, self.vocabulary)
        self.batch_size, self.steps = batch_size, steps
        self.sampler = self._sampler(seed) if data.negatives else None

    def _sampler(self, seed: int) -> NegativeSampler:
        size, symbols = self.data.negatives, len(self.vocabulary)
        if size > symbols:
            hint = "set it to 0 for the softmax over all"
            raise invalid("task.negatives", got=size, expected=f"at most the {symbols} symbols", hint=hint)
        counts = np.bincount(self.parts["train"], minlength=symbols)
        return NegativeSampler(counts, size, self.data.negative_power, seed)

    @classmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task of a recipe, with the vocabulary of `saved`, or else of the training text."""
        vocabulary = None if saved is None else saved.get("vocabulary")
        if saved is not None and not (isinstance(vocabulary, list) and all(isinstance(v, str) for v in vocabulary)):
            raise invalid("vocabulary", got=shortened(vocabulary), expected="the symbols that the model was trained on")
        return cls(
            data, batch_size=batch_size, steps=steps, shift=seed if shift else None, seed=seed, vocabulary=vocabulary
        )

    @classmethod
    def with_data(cls, options: LanguageModelData, data: str) -> LanguageModelData:
        """`options` with another text."""
        return replace(options, data=data)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], data: str | None = None) -> Self:
        """The task of a packed model; a file may not choose what else is read on this machine."""
        named = metadata["task"].get("data")
        if data is None and named not in CORPORA:
            got, hint = f"{shortened(named)} in the file's metadata", "name the text: --data PATH"
            raise invalid("data", got=got, expected=" or ".join(CORPORA), hint=hint)
        section = {**metadata["task"], **({} if data is None else {"data": data})}
        return super().from_metadata({**metadata, "task": section})

    @cached_property
    def rows(self) -> Tensor:
        """The training part, (batch, time)."""
        return in_rows(self.parts["train"], self.batch_size)

    def updates_per_epoch(self) -> int:
        """Whole updates in a row of the batch."""
        most = 0 if self.shift is None else self.steps - 1
        symbols, wanted = len(self.parts["train"]), self.batch_size * (self.steps + most)
        if symbols <= wanted:
            raise invalid(
                "training part", got=f"{symbols} symbols", expected=f"more than batch_size * steps = {wanted}"
            )
        return (self.rows.shape[1] - 1 - most) // self.steps

    def check_start(self, streams: int) -> None:
        """Each part must fill its rows: `batch_size`, `streams` and one."""
        self.updates_per_epoch()
        for part, rows in (("valid", streams), ("test", 1)):
            if (symbols := len(self.parts[part])) <= rows:
                raise invalid(f"{part} part", got=f"{symbols} symbols", expected=f"more than the {rows} streams")

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """The outputs of each layer, and the logits with their gradient."""
        logits = 1 + self.data.negatives if self.data.negatives else len(self.vocabulary)
        return 4 * self.batch_size * self.steps * (sum(layer_sizes) + 2 * logits)

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Tokens and the tokens after them, (batch, steps) each; with negatives, where the softmax is sampled."""
        start = self._start(index, epoch)
        batch = Batch(self.rows[:, start : start + self.steps], self.rows[:, start + 1 : start + self.steps + 1])
        return batch if self.sampler is None else self.sampler.sampled(batch, epoch, index)

    def _start(self, index: int, epoch: int) -> int:
        offset = 0 if self.shift is None else int(np.random.default_rng((self.shift, epoch)).integers(self.steps))
        return offset + index * self.steps

    @torch.no_grad()
    def teacher_outputs(self, teacher: Any) -> Tensor | None:
        """Logits at every position of `rows`, (batch, time, vocabulary), if they take up to a quarter of a gigabyte."""
        if self.sampler is not None or self.rows.numel() * len(self.vocabulary) > 1 << 26:
            return None
        parts, states = [], None
        device = next(teacher.parameters()).device
        for tokens in self.rows.split(512, dim=1):
            logits, states = teacher.advance(tokens.to(device), states)
            parts.append(logits)
        return torch.cat(parts, dim=1)

    def teacher_targets(self, outputs: Tensor, index: int, epoch: int) -> Tensor:
        """The logits at the batch's inputs."""
        start = self._start(index, epoch)
        return outputs[:, start : start + self.steps]

    def build_model(self, options: LanguageModelOptions) -> LanguageModel:
        return LanguageModel(len(self.vocabulary), options)

    def forward(self, model: Any, batch: Batch, states: Any) -> tuple[Tensor, Any]:
        """Logits, and the states, detached; where the softmax is sampled those of the target and the negatives."""
        if not isinstance(batch, SampledBatch):
            logits, states = model.advance(batch.inputs, states)
            return logits, detach(states)
        logits, states = model.advance(batch.inputs, states, batch.targets, batch.negatives)
        others = logits[..., 1:] - batch.log_inclusion
        others = others.masked_fill(batch.negatives == batch.targets[..., None], NEVER)  # the target counts once
        return torch.cat([logits[..., :1], others], -1), detach(states)

    def answers(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The logits of all symbols, or of those that the softmax compares."""
        return batch.within(outputs)

    def target_count(self, batch: Batch) -> int:
        return batch.steps()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of a symbol, in nats."""
        targets = torch.zeros_like(batch.targets) if isinstance(batch, SampledBatch) else batch.targets
        return nn.functional.cross_entropy(self.answers(outputs, batch), batch.within(targets))

    @torch.no_grad()
    def evaluate(self, model: Any, part: str, streams: int = 1) -> float:
        """Bits per character or perplexity, the state carried over the whole part."""
        with one_thread() if streams == 1 else nullcontext():
            return self._evaluate(model, part, streams)

    def _evaluate(self, model: Any, part: str, streams: int) -> float:
        rows = in_rows(self.parts[part], streams)
        device = next(model.parameters()).device
        training, states, total = model.training, None, 0.0
        model.eval()
        chunk = max(1, 2000 // streams)
        for start in range(0, rows.shape[1] - 1, chunk):
            window = rows[:, start : start + chunk + 1].to(device)
            logits, states = model.advance(window[:, :-1], states)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten(), reduction="sum")
            total += float(loss)
        model.train(training)
        return from_nats(total / (rows.shape[0] * (rows.shape[1] - 1)), self.data.level)

    def evaluate_engine(self, engine: Any, part: str) -> float:
        """The same of a packed model, in one stream."""
        self._check_engine(engine)
        return evaluate_stream(engine, self.parts[part], self.data.level)

    def _check_engine(self, engine: Any) -> None:
        size = len(self.vocabulary)
        ports = [port.vocabulary for port in engine.inputs], [port.shape for port in engine.outputs]
        if ports != ([size], [(size,)]) or engine.offline:
            got = f"inputs of {ports[0]} tokens and outputs of shape {ports[1]}"
            got += ", offline" if engine.offline else ""
            raise invalid("model", got=got, expected=f"one token of {size} in, {size} logits out, step by step")

    def counts(self, part: str) -> dict[str, int]:
        return {"symbols": len(self.parts[part])}

    def data_name(self) -> str:
        return self.data.data

    def metadata(self) -> dict[str, Any]:
        return {
            "task": {"name": "language_model", "data": self.data.data, "level": self.data.level, "metric": self.metric},
            "vocabulary": list(self.vocabulary.symbols),
        }

    def calibration_inputs(self) -> Tensor:
        """The first 512 symbols of the validation part, (1, 512)."""
        return torch.as_tensor(self.parts["valid"][:512])[None]

    def example(self, part: str, number: int) -> tuple[Tensor, ...]:
        """Stretch `number` of 100 symbols."""
        tokens = self.parts[part]
        count = -(-len(tokens) // EXAMPLE_SYMBOLS)
        if not 1 <= number <= count:
            expected = f"1 to {count}, the stretches of {EXAMPLE_SYMBOLS} symbols of the {part} part"
            raise invalid("example", got=number, expected=expected)
        return (torch.as_tensor(tokens[(number - 1) * EXAMPLE_SYMBOLS : number * EXAMPLE_SYMBOLS])[None],)

    def text_inputs(self, text: str) -> tuple[Tensor, ...]:
        tokens = self.vocabulary.encode(text)
        if not len(tokens):
            raise invalid("text", got=repr(text), expected="at least one symbol")
        return (torch.as_tensor(tokens)[None],)

    def step_labels(self, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
        """The symbols."""
        return tuple(self.vocabulary.symbols[token] for token in inputs[0][0].tolist())

    def example_inputs(self) -> Tensor:
        """The first symbols of the text, (1, 16)."""
        return torch.as_tensor(self.parts["train"][:16])[None]


class _Encoded(dict[str, np.ndarray]):
    """The parts of a corpus as tokens, each encoded when it is first asked for."""

    def __init__(self, corpus: Corpus, vocabulary: Vocabulary):
        super().__init__()
        self._corpus, self._vocabulary = corpus, vocabulary

    def __missing__(self, part: str) -> np.ndarray:
        self[part] = self._vocabulary.encode(getattr(self._corpus, part))
        return self[part]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: a single stream is too little work for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_rows(tokens: np.ndarray, rows: int) -> Tensor:
    """`rows` consecutive stretches of equal length, each followed by the first token of the next.

    >>> in_rows(np.arange(8), 2).tolist()
    [[0, 1, 2, 3], [3, 4, 5, 6]]
    """
    length = (len(tokens) - 1) // rows
    if length < 1:
        raise invalid("text", got=f"{len(tokens)} symbols", expected=f"more than {rows}")
    starts = torch.arange(rows)[:, None] * length
    return torch.as_tensor(tokens)[starts + torch.arange(length + 1)]
