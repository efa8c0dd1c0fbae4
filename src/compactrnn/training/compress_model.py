"""From a trained model and a budget to a smaller model, in one call."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._errors import invalid
from .._files import check_writable
from ..compress import PruningPlan, Quantize
from ..compress.table import table
from ..compress.wrappers import unwrap
from ..graph.copy import copy_module
from ..layers.matrices import matrices
from ..runtime.storage import WeightTypes, best_key
from ..weights.quantized import QuantizedWeight
from .compress_checkpoint import Checkpoint
from .cut_to_budget import Cutter
from .interrupt import stop_flag
from .progress import NullProgress, ProgressBar

PRUNING = 0.4  # of all steps; the others train the smaller model in its storage types
AGAIN = 0.25  # of the pruning steps, where the first cut has missed the budget
INT4_SHARE = 0.5  # of the loss allowed that rounding to int4 may cost before the model is trained for it
AGAIN_AT_MOST = 3  # times
TUNING = "tuning"  # the last stage


@dataclass(frozen=True)
class Compressed:
    """What `compress_model` gives; `print` shows it as a table.

    Attributes:
        model: the smaller model, an ordinary module in eval mode, which `cr.pack` stores in the types that it was
            trained for.
        types: how its matrices are stored, by name.
        sizes: "parameters", "bytes" of the model file, "macs" of the recurrent layers for a step and, if they are in
            the budget, "microseconds" for a step on this machine; each of the model in float32 before, and after.
        quality: what `evaluate` gave before, and after, with the products of the packed file.
        loss: how much worse that is, as a part of the first; negative where it is better.
        budget: what was asked for.
        reason: why the budget or the loss allowed was missed; empty if both are met.
    """

    model: nn.Module
    types: dict[str, str]
    sizes: dict[str, tuple[float, float]]
    quality: tuple[float, float]
    loss: float
    budget: dict[str, float]
    reason: str = ""

    @property
    def met(self) -> bool:
        """Whether the model is within the budget and the loss allowed."""
        return not self.reason

    def __str__(self) -> str:
        rows = [["", "before", "after", "ratio", "budget"]]
        for name, (before, after) in self.sizes.items():
            asked = f"{self.budget[name]:,.6g}" if name in self.budget else ""
            rows.append([name, f"{before:,.6g}", f"{after:,.6g}", f"{before / max(after, 1e-9):.2f}x", asked])
        rows.append(["quality", *(f"{value:.6g}" for value in self.quality), f"{self.loss:+.2%}", ""])
        kinds = [
            f"{kind}: {', '.join(name for name, of in self.types.items() if of == kind)}"
            for kind in sorted(set(self.types.values()))
        ]
        return "\n".join([*table(rows), *kinds, *([f"missed: {self.reason}"] if self.reason else [])])


def compress_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    train_step: Callable[[nn.Module], Tensor],
    evaluate: Callable[[nn.Module], float],
    budget: Mapping[str, float],
    steps: int = 2000,
    loss_allowed: float = 0.01,
    higher_is_better: bool = False,
    weights: str | Mapping[str, str] = "auto",
    exclude: Iterable[str] = (),
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    clip: float | None = 1.0,
    calibration: Iterable[Any] | None = None,
    lengths: Sequence[str] | None = None,
    time: int | None = None,
    path: str | PathLike[str] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> Compressed:
    """A smaller model that fits a budget: units are pruned, weights stored in int8 and int4, and all of it is trained.

    1. `evaluate` measures the model as it is, with int8 weights, and with int4 in all or single matrices.
    2. Matrices that hardly suffer from int4 get it, if bytes are asked for that int8 alone does not give: those that
       cost least for the bytes they save, as long as they cost half of `loss_allowed`; the others are int8.
    3. Trial cuts find the number of parameters whose packed file keeps the budget.
    4. `NeuronSelection` learns for the first two fifths of `steps` which units stay; embedding columns are units, too.
    5. The smaller model trains on with the products of its file (`Quantize`), at a rate that falls to zero.
    6. The file is packed, measured, and compared with the budget and with the first evaluation.

    The model that is passed stays as it is, and may be the teacher of the smaller one in `train_step`.

    With a `checkpoint` the same call goes on after Ctrl-C, SIGTERM or a crash, from where the file was last written:
    after each measurement, every `checkpoint_every` steps, and at the end, so that what is finished is not repeated. It
    has the generators of Python, NumPy and torch. What else `train_step` draws from starts over, unless it is an object
    with `state_dict` and `load_state_dict`. A file of another model or of other arguments is refused; what the
    functions do cannot be compared: delete the file after you have changed them.

    Args:
        model: any module that `NeuronSelection` and `pack` understand.
        example_inputs: what the model is called with, as in `pack`.
        train_step: gives the loss of the next batch for the model that it is called with, a scalar to be minimized.
            Layers become narrower: states must not be carried from call to call.
        evaluate: the quality of the model that it is called with, on held-out data; without gradients, in eval mode.
        budget: the most of "bytes" of the model file, "macs" of the recurrent layers for a step, "microseconds" for a
            step of the engine on this machine; one or several.
        steps: of the optimizer, in all.
        loss_allowed: by which part of itself the quality may get worse.
        higher_is_better: whether a larger result of `evaluate` is better, as of an accuracy.
        weights: "auto" as above, or types as in `pack`.
        exclude: names of modules whose recurrent layers keep all of their units.
        optimizer: makes the optimizer for a list of parameters; AdamW with a rate of 1e-3 by default.
        clip: the largest norm of the gradient; None for any.
        calibration, lengths, time: for `pack`; `lengths` names the argument that has the lengths of the sequences.
        path: the file to write, with the smaller model; none by default.
        checkpoint: the safetensors file to go on from, if it exists, and to write; none by default.
        checkpoint_every: steps of the optimizer between two times that it is written.
        progress: whether bars are drawn on standard error.

    Returns:
        The model and what was measured. Where the budget or the loss allowed is missed, `reason` says so.

    Raises:
        ValueError: bad arguments, a budget that is not met even with one unit in each layer, or a checkpoint of
            something else.
        ModelFileError: the checkpoint is damaged.
        UnsupportedModelError: the model cannot be pruned or packed.
        FloatingPointError: the loss is not finite.

    >>> import compactrnn as cr
    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0])
    >>> model, x = Tagger(), torch.randn(8, 12, 4)
    >>> def loss(model):
    ...     return (model(x) - x[..., :3].cumsum(1).tanh()).square().mean()
    >>> small = cr.compress_model(
    ...     model, x, train_step=loss, evaluate=lambda model: float(loss(model)), budget={"bytes": 4000}, steps=100,
    ...     calibration=[x], progress=False,
    ... )
    >>> small.sizes["bytes"][1] <= 4000, small.met
    (True, True)
    """
    _check_numbers(steps, loss_allowed, clip)
    if optimizer is not None and not callable(optimizer):
        expected = "a function that makes one for a list of parameters"
        raise invalid("optimizer", got=type(optimizer).__name__, expected=expected, hint="torch.optim.Adam itself")
    cutter = Cutter(example_inputs, budget, exclude, calibration, lengths, time)
    if path is not None:
        target = check_writable(path, "model file")
        if checkpoint is not None and check_writable(checkpoint, "checkpoint") == target:
            raise invalid("checkpoint", got=f"{checkpoint}, the path of the model file", expected="another file")
    model = copy_module(unwrap(model)).eval()
    asked = {
        "budget": cutter.budget,
        "steps": steps,
        "loss_allowed": loss_allowed,
        "higher_is_better": higher_is_better,
        "weights": weights if isinstance(weights, str) else dict(weights),
        "exclude": list(cutter.exclude),
        "clip": clip,
        "lengths": None if lengths is None else list(lengths),
        "time": time,
    }
    kept = Checkpoint(checkpoint, checkpoint_every, train_step, model, example_inputs, asked)
    with ProgressBar() if progress else NullProgress() as bar:
        task = _Task(train_step, evaluate, higher_is_better, clip, bar, kept)
        before = kept.once("before", lambda: task.quality(model))
        if not math.isfinite(before):
            raise invalid("evaluate", got=f"{before} for the model as it is", expected="a finite number")
        whole = kept.once("whole", lambda: cutter.measure(model, "float32"))
        types = kept.once("types", lambda: _types(model, task, cutter, weights, before, loss_allowed))
        make = optimizer or (lambda parameters: torch.optim.AdamW(parameters, 1e-3))
        small, trained = _pruned(model, task, cutter, types, make, round(PRUNING * steps))
        small = _tuned(small, trained, task, types, steps - round(PRUNING * steps))
        after = task.quality(small)
        with tempfile.TemporaryDirectory() as folder:
            sizes = cutter.pack(small, types, Path(folder) / "model.crnn" if path is None else path)
    missed = cutter.exceeded(sizes)
    if (loss := task.loss(before, after)) > loss_allowed:
        hint = "more steps, or a larger budget, may help"
        missed.append(f"evaluate gives {after:.6g} ({loss:+.2%}) where {loss_allowed:.2%} is allowed: {hint}")
    pairs = {name: (whole[name], size) for name, size in sizes.items()}
    return Compressed(small, _stored(small, types), pairs, (before, after), loss, dict(budget), "; ".join(missed))


@dataclass
class _Task:
    """How the model is trained and judged."""

    train_step: Callable[[nn.Module], Tensor]
    evaluate: Callable[[nn.Module], float]
    higher_is_better: bool
    clip: float | None
    bar: NullProgress
    kept: Checkpoint

    def quality(self, model: nn.Module) -> float:
        with torch.no_grad():
            found = self.evaluate(model.eval())
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError):
            raise invalid("evaluate", got=_named(found), expected="a number") from None

    def loss(self, before: float, after: float) -> float:
        """How much worse `after` is, as a part of `before`; infinite where it is not a number."""
        worse = (before - after) if self.higher_is_better else (after - before)
        return worse / (abs(before) or 1.0) if math.isfinite(after) else math.inf

    def train(
        self, name: str, model: nn.Module, optimizer: Optimizer, steps: int, compressor: Any, decay: bool
    ) -> None:
        """Steps of the optimizer, each followed by one of the compressor; with `decay` the rate falls to zero.

        Goes on from the checkpoint, if that is of this stage, and writes it at both ends, too.
        """
        model.train()
        first, rates = self.kept.restore(name, model, optimizer, compressor)
        if isinstance(self.bar, ProgressBar):
            self.bar.begin(name, steps, first)
        with nullcontext() if self.kept.path is None else stop_flag() as stop:
            for step in range(first, steps + 1):
                stopped = stop is not None and stop.is_set()
                if stopped or step == steps or step % self.kept.every == 0:
                    self.kept.save(name, step, rates, model, optimizer, compressor)
                if stopped:
                    raise KeyboardInterrupt
                if step < steps:
                    loss = self.step(name, step, steps, rates, model, optimizer, compressor, decay)
                    if isinstance(self.bar, ProgressBar):
                        self.bar.advance(step + 1, loss)

    def step(
        self,
        name: str,
        step: int,
        steps: int,
        rates: list[float],
        model: nn.Module,
        optimizer: Optimizer,
        compressor: Any,
        decay: bool,
    ) -> float:
        """One step; returns the loss."""
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps)) if decay else rate
        loss = self.train_step(model)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise invalid("train_step", got=_named(loss), expected="the loss, a scalar with a gradient")
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"train_step: a loss of {float(loss.detach())} at step {step} of {name}")
        optimizer.zero_grad()
        (loss + compressor.penalty()).backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)
        optimizer.step()
        compressor.step(optimizer)
        return float(loss.detach())


def _named(result: Any) -> str:
    """What a function of the caller gave."""
    if not isinstance(result, Tensor):
        return repr(result)
    gradient = "a gradient" if result.requires_grad else "no gradient"
    return f"a tensor of shape {tuple(result.shape)} with {gradient}"


def _types(
    model: nn.Module, task: _Task, cutter: Cutter, weights: str | Mapping[str, str], before: float, allowed: float
) -> dict[str, str]:
    """The storage types to train for."""
    if weights != "auto":
        return dict(WeightTypes.of(weights).by_key)
    int8 = {"*": "int8"}
    if "bytes" not in cutter.budget or not cutter.exceeded(cutter.measure(model, int8)):
        return int8

    def cost(types: dict[str, str]) -> float:
        twin = copy_module(model)
        Quantize(twin, types)
        return task.loss(before, task.quality(twin))

    most = max(cost(int8), 0.0) + INT4_SHARE * allowed
    if cost({"*": "int4"}) <= most:
        return {"*": "int4"}
    reports = [Quantize(copy_module(model), kind).report().matrices for kind in ("int8", "int4")]
    saved = {a.names[0]: a.bytes[1] - b.bytes[1] for a, b in zip(*reports, strict=True)}
    price = {name: cost({name: "int4", **int8}) / saving for name, saving in saved.items() if saving > 0}
    chosen = sorted(price, key=price.__getitem__)
    while chosen and cost(dict.fromkeys(chosen, "int4") | int8) > most:
        chosen.pop()
    return dict.fromkeys(chosen, "int4") | int8


def _pruned(
    model: nn.Module,
    task: _Task,
    cutter: Cutter,
    types: dict[str, str],
    make: Callable[[list[nn.Parameter]], Optimizer],
    steps: int,
) -> tuple[nn.Module, Optimizer]:
    """The model with as many units as the budget allows, and the optimizer that goes on with it."""
    kept, small = task.kept, copy_module(model)
    target, cutter.fixed = kept.once("target", lambda: (cutter.parameters(model, types), cutter.fixed))
    for done in kept.cuts:  # the weights are those of the checkpoint
        small = PruningPlan.from_json(done["plan"]).apply(small, same_weights=False)
        target, steps = done["target"], done["steps"]
    optimizer = None
    for number in range(len(kept.cuts), 1 + AGAIN_AT_MOST):
        if target is None or kept.stage == TUNING:
            break
        try:
            pruner = cutter.selection(small, target, steps)
        except ValueError:
            if number == 0:
                raise
            break  # what is too large about it are no units
        optimizer = optimizer or make(list(small.parameters()))
        stage = f"pruning {number + 1}" if number else "pruning"
        task.train(stage, small, optimizer, steps - 1, pruner, decay=False)
        cutter.adjust_(pruner, types)
        task.step("last cut", 0, 1, [group["lr"] for group in optimizer.param_groups], small, optimizer, pruner, False)
        plan = None if kept.path is None else pruner.plan()
        small = pruner.shrink(optimizer)
        target, steps = cutter.again(small, types, target), max(2, round(AGAIN * steps))
        if plan is not None:
            kept.cuts.append({"plan": plan.to_json(), "target": target, "steps": steps})
    return small, optimizer or make(list(small.parameters()))


def _tuned(model: nn.Module, optimizer: Optimizer, task: _Task, types: dict[str, str], steps: int) -> nn.Module:
    """The model trained with the products of its file."""
    if set(types.values()) == {"float32"}:
        task.train(TUNING, model, optimizer, steps, _Nothing(), decay=True)
        return model.eval()
    quantizer = Quantize(model, types)
    task.train(TUNING, model, optimizer, steps, quantizer, decay=True)
    return quantizer.shrink().eval()


class _Nothing:
    """The calls of a compressor, for a model that is only trained."""

    def penalty(self) -> float:
        return 0.0

    def step(self, optimizer: Optimizer) -> None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        return None


def _stored(model: nn.Module, types: dict[str, str]) -> dict[str, str]:
    """The type of each matrix by its name."""
    found = {}
    for matrix in matrices(model):
        held = matrix.held
        key = best_key(types, matrix.name) or "*"
        found[matrix.name] = held.kind if isinstance(held, QuantizedWeight) else types.get(key, "int8")
    return found


def _check_numbers(steps: int, allowed: float, clip: float | None) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise invalid("steps", got=repr(steps), expected="an int of 10 or more")
    if isinstance(allowed, bool) or not isinstance(allowed, int | float) or not 0 <= allowed < math.inf:
        raise invalid("loss_allowed", got=repr(allowed), expected="a part of the quality, 0 or more")
    if clip is not None and not clip > 0:
        raise invalid("clip", got=repr(clip), expected="a positive number or None")
