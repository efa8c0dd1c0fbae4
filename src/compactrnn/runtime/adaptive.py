"""Models that end in an adaptive softmax, of which a step opens only the clusters that it needs."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence

import numpy as np

from .._errors import invalid
from .adaptive_parts import split
from .engine import MEMORY_LIMIT, Engine, Stream
from .file import read, write
from .source import read_source


class AdaptiveEngine:
    """A packed model whose output is `log_prob` of an `nn.AdaptiveLogSoftmaxWithLoss`, in parts.

    A step computes the head: the log probabilities of the frequent classes, and of each cluster of the others. A
    cluster is computed when it is asked for. The arguments are those of `Engine`, and so are all numbers, to the bit.
    Other outputs of the model are left out.

    Attributes:
        classes: how many there are.
        cutoffs: the first class of each cluster.
        macs_per_step: multiply-accumulates of a step without clusters.
        cluster_macs: those of each cluster.
        parts: model files of the head and of each cluster, to be run from C.

    Raises:
        UnsupportedModelError: the model does not return such a `log_prob` at every step.
        ModelFileError: a damaged or foreign file.

    >>> import tempfile, torch, compactrnn as cr
    >>> class LanguageModel(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding = torch.nn.Embedding(1000, 16)
    ...         self.lstm = torch.nn.LSTM(16, 32, batch_first=True)
    ...         self.softmax = torch.nn.AdaptiveLogSoftmaxWithLoss(32, 1000, [50, 300])
    ...
    ...     def forward(self, tokens):
    ...         h = self.lstm(self.embedding(tokens))[0]
    ...         return self.softmax.log_prob(h.flatten(0, 1)).unflatten(0, tokens.shape)
    >>> path, tokens = tempfile.mkdtemp() + "/words.crnn", torch.randint(0, 1000, (1, 20))
    >>> report = cr.pack(LanguageModel(), path, tokens, calibration=[tokens])
    >>> engine = cr.AdaptiveEngine(path)
    >>> engine.classes, engine.cutoffs, engine.macs_per_step + sum(engine.cluster_macs) == report.macs_per_step
    (1000, (50, 300), True)
    >>> stream = engine.stream()
    >>> step = stream.step(3)
    >>> one = step.log_prob(60)  # opens the first cluster alone
    >>> values, classes = step.top_k(5)
    >>> bool((step.log_probs() == cr.Engine(path).stream().step(3)).all())
    True

    Source: Grave, Joulin, Cisse, Grangier, Jegou, "Efficient softmax approximation for GPUs", 2017.
    """

    def __init__(
        self,
        source: str | os.PathLike | bytes | bytearray | memoryview,
        isa: str | None = None,
        memory_limit: int | None = MEMORY_LIMIT,
    ):
        parts = split(read(read_source(source)[1]))
        self.parts: tuple[bytes, ...] = tuple(write(program) for program in (parts.head, *parts.clusters))
        self._head, *self._clusters = (Engine(part, isa, memory_limit) for part in self.parts)
        self._reads, self._shortlist = parts.reads, parts.shortlist
        sizes = [cluster.outputs[0].shape[0] for cluster in self._clusters]
        ends = np.cumsum([parts.shortlist, *sizes]).tolist()
        self.cutoffs: tuple[int, ...] = tuple(ends[:-1])
        self.classes: int = ends[-1]
        self.macs_per_step: int = self._head.macs_per_step
        self.cluster_macs: tuple[int, ...] = tuple(cluster.macs_per_step for cluster in self._clusters)

    def stream(self) -> AdaptiveStream:
        """A new stream, at the initial state."""
        return AdaptiveStream(self, self._head.stream(), [cluster.stream() for cluster in self._clusters])


class AdaptiveStream:
    """The state of one sequence, `head`, a `Stream`; made by `engine.stream()`."""

    def __init__(self, engine: AdaptiveEngine, head: Stream, clusters: Sequence[Stream]):
        self.head = head
        self._engine, self._clusters = engine, clusters

    def step(self, x) -> AdaptiveStep:
        """One time step, of the head alone; `x` as `Stream.step` takes it."""
        y = self.head.step(x)
        return AdaptiveStep(self._engine, self._clusters, y if isinstance(y, tuple) else (y,))

    def reset(self, /, **states) -> None:
        """As `Stream.reset`."""
        self.head.reset(**states)

    def copy(self) -> AdaptiveStream:
        """A copy of the stream, with the same state."""
        other = self._engine.stream()
        other.head = self.head.copy()
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> AdaptiveStream:
        return self.copy()


class AdaptiveStep:
    """The log probabilities after one step; each cluster is computed when it is first needed, and kept.

    It stays valid when the stream goes on.
    """

    def __init__(self, engine: AdaptiveEngine, clusters: Sequence[Stream], head: Sequence[np.ndarray]):
        self._engine, self._clusters, self._given = engine, clusters, head
        self._found: dict[int, np.ndarray] = {}

    @property
    def opened(self) -> tuple[int, ...]:
        """The clusters that have been computed, 0 the first."""
        return tuple(sorted(self._found))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the step so far."""
        return self._engine.macs_per_step + sum(self._engine.cluster_macs[i] for i in self._found)

    def log_prob(self, target: int) -> float:
        """That of one class, from the head or one cluster.

        Raises:
            ValueError: no such class.
        """
        target = _whole(target, "target", 0, self._engine.classes - 1)
        cluster = int(np.searchsorted(self._engine.cutoffs, target, side="right")) - 1
        if cluster < 0:
            return float(self._given[0][target])
        return float(self._cluster(cluster)[target - self._engine.cutoffs[cluster]])

    def top_k(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest and their classes, (k,) float32 and int64, largest first; of equal ones the first class.

        No class is more likely than its cluster, so that clusters are opened, the likeliest first, until the next is
        less likely than k classes that are known: the result is that of all classes. NaN counts as the largest.

        Raises:
            ValueError: k is not from 1 to the number of classes.
        """
        k = _whole(k, "k", 1, self._engine.classes)
        shortlist = self._engine._shortlist
        values, classes = _largest(self._given[0][:shortlist], np.arange(shortlist), k)
        bounds = self._given[0][shortlist:]
        for i in _order(bounds, np.arange(len(bounds))).tolist():
            if len(values) == k and bounds[i] < values[-1]:
                break
            of_cluster = self._cluster(i)
            first = self._engine.cutoffs[i]
            its = np.arange(first, first + len(of_cluster))
            values, classes = _largest(np.concatenate([values, of_cluster]), np.concatenate([classes, its]), k)
        return values, classes

    def log_probs(self) -> np.ndarray:
        """Those of all classes, from all clusters."""
        shortlist = self._given[0][: self._engine._shortlist]
        return np.concatenate([shortlist, *(self._cluster(i) for i in range(len(self._clusters)))])

    def _cluster(self, number: int) -> np.ndarray:
        if number not in self._found:
            given = [self._given[i] for i in self._engine._reads[number]]
            self._found[number] = np.asarray(self._clusters[number].step(given if len(given) > 1 else given[0]))
        return self._found[number]


def _largest(values: np.ndarray, classes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = _order(values, classes)[:k]
    return values[order], classes[order]


def _order(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Largest first, of equal ones the first class; NaN before all."""
    return np.lexsort((classes, -values, ~np.isnan(values)))


def _whole(value: int, what: str, least: int, most: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{what}: expected an int, got a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what}: expected an int, got {type(value).__name__}") from None
    if not least <= number <= most:
        raise invalid(what, got=number, expected=f"an int from {least} to {most}")
    return number
