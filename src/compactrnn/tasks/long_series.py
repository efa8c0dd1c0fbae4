"""Numbers at every step of long series, trained on windows that leave their states to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from .._bounds import STRICT, CountFrom0, ShareAbove0, Steps
from .._errors import invalid
from ..data.series import Layout
from ..data.state_memory import StateMemory, StatePolicy
from ..data.windows import NONE, Cut, Windows
from ..models.series_model import SeriesModel, SeriesModelOptions
from .batch import Batch
from .own_data import Examples, OwnData, Saved, Words, check_split_by_time
from .series_numbers import AbstractNumbersTask
from .series_split import by_time

STRATEGIES = ("zero", "warm_up", "sequential", "previous", "propagate")
READ_STEPS = 1 << 17  # of a batch of whole series that are evaluated, at most, but for the longest one


@dataclass(frozen=True)
class LongSeriesData(OwnData):
    """Those of `OwnData`; at every step the next `horizon` values of `targets`, or with 0 those of the step itself.

    With a horizon of 0 targets are columns that are no channels, such as the runoff of the rain that is read. The last
    share `test` of the steps of each sequence is the test part, the share `valid` before it the validation part.

    Trained on are windows of `window` steps, each once an epoch, every step of which has a target. `states` says what a
    window starts from:

    - "zero": the first state of the model, in random order
    - "warm_up": the same, after reading so many steps before the window, which have no targets (Kapturowski et al.,
      2019, call it burn-in)
    - "sequential": the last state of the window before it, which was in the update before this one: truncated
      backpropagation through time of `batch_size` stretches side by side
    - "previous": the last state of the window before it, from whenever that was trained on, in random order
    - "propagate": the same by way of two memories with policies; see `StateMemory` for `refresh` (0: an epoch), `mix`,
      `max_age` and `unseen`

    With `training.shift` each epoch cuts the windows elsewhere; not with "previous" and "propagate".
    """

    targets: Words = ()
    horizon: CountFrom0 = 1
    window: Steps = 48
    states: Literal["zero", "warm_up", "sequential", "previous", "propagate"] = "sequential"
    warm_up: CountFrom0 = 0
    refresh: CountFrom0 = 0
    mix: ShareAbove0 = 1.0
    max_age: CountFrom0 = 0
    unseen: Literal["keep", "drop"] = "keep"
    valid: ShareAbove0 = 0.15
    test: ShareAbove0 = 0.15
    name: Literal["long_series"] = "long_series"
    __pydantic_config__ = STRICT

    def __post_init__(self):
        check_split_by_time(self)
        if (self.states == "warm_up") != (self.warm_up > 0):
            expected = "steps to read before a window" if self.states == "warm_up" else "0"
            raise invalid("warm_up", got=f"{self.warm_up} with states = {self.states!r}", expected=expected)
        for policy in fields(self):
            if policy.name in POLICIES and self.states != "propagate":
                given = getattr(self, policy.name)
                if given != policy.default:
                    got = f"{given!r} with states = {self.states!r}"
                    raise invalid(policy.name, got=got, expected="it with states = 'propagate' alone")


POLICIES = ("refresh", "mix", "max_age", "unseen")


@dataclass(frozen=True, kw_only=True)
class WindowBatch(Batch):
    """Windows of a series: their numbers and those of the windows that follow them, int64 (batch,), on the CPU."""

    windows: Tensor
    following: Tensor
    update: int

    def rows(self, start: int, stop: int) -> Self:
        part = super().rows(start, stop)
        return replace(part, windows=self.windows[start:stop], following=self.following[start:stop])


class LongSeriesTask(AbstractNumbersTask):
    """Values of the targets at every step, (batch, time, horizon * targets), time by time: see `LongSeriesData`.

    A series is validated and tested on from its first step on, in one stream, as a packed model reads it: what comes
    before a part is read, and counted are the answers in it alone. Where time is missing a stretch begins from the
    first state again. Beside the errors of `AbstractNumbersTask` there are

        nse = 1 - sum((y - target)^2) / sum((target - mean)^2)

    of the targets of a stretch in the part and their mean, averaged over stretches by their targets (higher is better;
    Nash and Sutcliffe, River flow forecasting through conceptual models, 1970), and where the targets are read, too,
    all errors of the forecast that repeats the last value that is not missing (`persistence_...`).
    """

    data_options = LongSeriesData
    data: LongSeriesData
    every_step = True
    one_process = True  # a window's state would be in the process that wrote it
    batch_rows = 1

    def __init__(self, data: Any, *, batch_size: int, seed: int = 0, saved: Saved | None = None, shift: bool = False):
        self.keeps_states = data.states in ("previous", "propagate")
        if shift and self.keeps_states:
            got, expected = f"true with states = {data.states!r}", "false: a state is that of one step"
            raise invalid("training.shift", got=got, expected=expected)
        self.shift = shift
        self._drawn: tuple[int, Cut, list[np.ndarray]] | None = None  # of the epoch that batches are asked for
        super().__init__(data, batch_size=batch_size, seed=seed, saved=saved)

    @classmethod
    def build(
        cls, data: Any, *, batch_size: int, steps: int, shift: bool, seed: int, saved: Mapping[str, Any] | None = None
    ) -> Self:
        """The task of a recipe."""
        return cls(data, batch_size=batch_size, seed=seed, saved=cls.saved_of(saved), shift=shift)

    def layout(self, data: Any, categories: Mapping[str, Sequence[str]] | None) -> Layout:
        if not data.targets or (data.horizon == 0 and set(data.targets) & set(data.channels)):
            expected = "columns of numbers" + ("" if data.horizon else " that are no channels, with a horizon of 0")
            raise invalid("task.targets", got=list(data.targets), expected=expected)
        return self.layout_of(data, categories, targets=data.targets, every_step=True)

    def begin_reading(self, saved: Saved | None) -> None:
        data, file = self.data, self.series["file"]
        assert file.targets is not None
        self.ahead = np.arange(1, data.horizon + 1) if data.horizon else np.zeros(1, int)
        bounds = by_time(file.offsets, data.valid, data.test)
        self.asked = {part: self._asked(stretches) for part, stretches in bounds.items()}
        self.set_scale_in_time(file.targets, bounds["train"], saved, len(self.ahead))

    def _asked(self, stretches: Sequence[tuple[int, int]]) -> np.ndarray:
        """At which steps there is an answer, all targets of which are in these stretches and after no gap."""
        file, last = self.series["file"], int(self.ahead[-1])
        inside = np.zeros(len(file.values), bool)
        for begin, end in stretches:
            inside[max(begin - int(self.ahead[0]), 0) : max(end - last, 0)] = True
        stretch = np.searchsorted(self._begins(), np.arange(len(file.values) + last), side="right")
        stretch[len(file.values) :] = NONE
        return inside & (stretch[last:] == stretch[: len(file.values)])

    def _begins(self) -> np.ndarray:
        """The first steps of all stretches without a gap."""
        file = self.series["file"]
        return np.union1d(file.offsets[:-1], file.breaks)

    def target_names(self) -> list[str]:
        return list(self.data.targets)

    def make_examples(self) -> dict[str, Examples]:
        """Stretches from their first step to the last one with an answer in the part."""
        begins, found = self._begins(), {}
        ends = np.append(begins[1:], len(self.series["file"].values))
        for part, asked in self.asked.items():
            rows = [
                (begin, begin + int(np.flatnonzero(asked[begin:end])[-1]) + 1)
                for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
                if asked[begin:end].any()
            ]
            begin, end = np.array(rows, int).reshape(-1, 2).T
            found[part] = Examples(begin, end, np.zeros(len(begin)))
        if not len(found["train"]):
            got = f"no stretch of more than {self.ahead[-1]} steps without a gap"
            raise invalid("training part", got=got, expected="at least one")
        return found

    @property
    def windows(self) -> Windows:
        """The windows of the training part."""
        train, in_order = self.examples["train"], self.data.states == "sequential"
        stretches = list(zip(train.begin.tolist(), train.end.tolist(), strict=True))
        return Windows(
            stretches, self.data.window, self.batch_size, in_order=in_order, seed=self.seed, shift=self.shift
        )

    def training_examples(self) -> int:
        return len(self.windows)

    def updates_per_epoch(self) -> int:
        return self.windows.updates()

    def update_bytes(self, layer_sizes: Sequence[int]) -> int:
        """Inputs and outputs of each layer, of a batch of windows or the longest stretch to be read; both memories."""
        steps = max(self.batch_size * (self.data.window + self.data.warm_up), self.steps)
        stored = 0 if self.data.states in ("zero", "warm_up") else 2 * len(self.windows)
        return 4 * (steps * (self.inputs + sum(layer_sizes)) + stored * sum(layer_sizes))

    def batch(self, index: int, epoch: int = 0) -> WindowBatch:
        """The windows of an update, each with the steps before it that warm it up."""
        if self._drawn is None or self._drawn[0] != epoch:
            windows = self.windows
            self._drawn = epoch, windows.cut(epoch), windows.batches(epoch)
        _, cut, batches = self._drawn
        numbers, train = batches[index], self.examples["train"]
        begin, end = cut.begin[numbers], cut.end[numbers]
        stretch = train.begin[np.searchsorted(train.begin, begin, side="right") - 1]
        first = np.maximum(begin - self.data.warm_up, stretch)
        batch = self._of_steps("train", first, end, begin)
        return WindowBatch(
            batch.inputs,
            batch.targets,
            batch.lengths,
            windows=torch.from_numpy(numbers),
            following=torch.from_numpy(cut.following[numbers]),
            update=epoch * len(batches) + index,
        )

    def batches(self, part: str) -> Iterator[Batch]:
        """Whole stretches, those of equal length side by side."""
        examples = self.examples[part]
        lengths = examples.end - examples.begin
        for length in np.unique(lengths):
            numbers = np.flatnonzero(lengths == length)
            rows = max(1, READ_STEPS // int(length))
            for start in range(0, len(numbers), rows):
                chosen = numbers[start : start + rows]
                yield self._of_steps(part, examples.begin[chosen], examples.end[chosen])

    def _of_steps(self, part: str, begin: np.ndarray, end: np.ndarray, asked: np.ndarray | None = None) -> Batch:
        """Steps of the file, with targets from step `asked` on: (batch, time, ...)."""
        steps = begin[:, None] + np.arange((end - begin).max())
        inside = steps < end[:, None]
        inputs = self.series["file"].values[np.where(inside, steps, 0)]
        inputs[~inside] = 0.0
        targets = self.targets_at(part, np.where(inside, steps, NONE))
        if asked is not None:
            targets[steps < asked[:, None]] = np.nan
        lengths = None if bool(inside.all()) else torch.from_numpy(end - begin)
        by_time = torch.from_numpy(np.ascontiguousarray(inputs.transpose(1, 0, 2)))
        return Batch(by_time.transpose(0, 1), torch.from_numpy(targets), lengths)

    def targets_at(self, part: str, steps: np.ndarray) -> np.ndarray:
        """The targets at `steps` of any shape, (..., horizon * targets); NaN where the part has none, and at -1."""
        values = self.series["file"].targets
        assert values is not None
        there = (steps >= 0) & self.asked[part][steps]
        found = values[np.where(there, steps, 0)[..., None] + np.where(there[..., None], self.ahead, 0)]
        found[~there] = np.nan
        return found.reshape(*steps.shape, -1)

    def build_model(self, options: SeriesModelOptions) -> SeriesModel:
        """As for other tasks; a layer that reads backward has no state to go on from."""
        if options.bidirectional:
            got = f"{options.bidirectional}".lower()
            raise invalid("model.bidirectional", got=got, expected="false: what is read goes on")
        return super().build_model(options)

    def forward(self, model: nn.Module, batch: Batch, states: Any) -> tuple[Tensor, Any]:
        """Outputs, and what the memory of states holds after them; whole series start from the first state."""
        advance: Any = model
        if not isinstance(batch, WindowBatch) or self.data.states in ("zero", "warm_up"):
            return advance.advance(batch.inputs, None, batch.lengths)[0], None
        memory = StateMemory(len(self.windows), self._policy(), states)
        memory.begin(batch.update)
        before, known = memory.read(batch.windows, batch.update)
        outputs, after = advance.advance(batch.inputs, before, batch.lengths, ~known)
        memory.write(batch.following, after, batch.update)
        return outputs, memory.kept()

    def _policy(self) -> StatePolicy:
        data = self.data
        if data.states != "propagate":
            return StatePolicy()
        return StatePolicy(data.refresh or self.updates_per_epoch(), data.mix, data.max_age, data.unseen)

    def has_target(self, part: str, examples: Examples) -> np.ndarray:
        return np.array(
            [
                np.isfinite(self.targets_at(part, np.arange(begin, end))).any()
                for begin, end in zip(examples.begin.tolist(), examples.end.tolist(), strict=True)
            ],
            bool,
        )

    def counts(self, part: str) -> dict[str, int]:
        return {"sequences": len(self.examples[part]), "steps": int(self.asked[part].sum())}

    def calibration_inputs(self) -> Tensor:
        """The last steps of up to sixteen validation stretches, at most 4,096 and as many as half of all have."""
        examples = self.examples["valid"]
        lengths = examples.end - examples.begin
        chosen = np.flatnonzero(lengths >= np.median(lengths))[:16]
        end, steps = examples.end[chosen], min(int(lengths[chosen].min()), 4096)
        return self._of_steps("valid", end - steps, end).inputs

    def other_errors(self, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """Those of the answers, and all of the persistence forecast."""
        own = {**super().other_errors(answers, batch), **self._efficiency("", answers, batch)}
        if not self.data.horizon or not set(self.data.targets) <= set(self.data.channels):
            return own
        last = batch.within(self.persistence(batch))
        return {**own, **self.named("persistence_", last, batch), **self._efficiency("persistence_", last, batch)}

    def persistence(self, batch: Batch) -> Tensor:
        """At every step the last value of each target, before the first one the mean."""
        past = batch.inputs[..., [self.data.channels.index(name) for name in self.data.targets]]
        steps = torch.arange(1, past.shape[1] + 1)[:, None]
        last = torch.where(past.isnan(), 0, steps).cummax(1).values
        found = past.gather(1, (last - 1).clamp(min=0))
        return torch.where(last > 0, found, self.own_scale[0]).repeat(1, 1, self.data.horizon)

    def _efficiency(self, prefix: str, answers: Tensor, batch: Batch) -> dict[str, tuple[float, int]]:
        """One minus the squared error as a share of the variance of the targets, of each stretch, times its targets."""
        targets = batch.targets.double()
        known = ~targets.isnan()
        squares = (answers.reshape(targets.shape).double() - targets).square().where(known, 0.0).sum((1, 2))
        mean = targets.nanmean(1, keepdim=True)
        spread = (targets - mean).square().where(known, 0.0).sum((1, 2))
        counts, moves = known.sum((1, 2)), spread > 0
        total = float(((1 - squares / spread.where(moves, 1.0)) * counts)[moves].sum())
        return {f"{prefix}nse": (total, int(counts[moves].sum()))} if bool(moves.any()) else {}
