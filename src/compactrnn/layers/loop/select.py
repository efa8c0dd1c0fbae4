"""Choice of the loop over time for a cell."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from ..._errors import invalid
from ..._ordinary import why_not_native, why_not_ordinary
from ...cells.base import AbstractCell
from ...weights.quantized import QuantizedWeight
from .linear import LinearLoop
from .native import NativeLoop
from .newton import LIMIT, NewtonLoop
from .plain import plain_loop
from .read_step import NotTraceable, Step
from .trace_step import trace_step
from .values import ordered

Kind = Literal["auto", "plain", "native", "scan", "newton"]
_wanted: ContextVar[Kind] = ContextVar("time_loop", default="auto")

LONG = 1024  # from so many steps on a linear recurrence is scanned, where that pays


class Loop(Protocol):
    """The interface of loops over time: `NativeLoop`, `LinearLoop`, `NewtonLoop`."""

    def run(
        self, projected: Tensor, states: tuple[Tensor, ...], vectors: list[Tensor], matrices: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]] | None:
        """Outputs (time, batch, n) and last states; None where it has found none."""
        ...


@dataclass(frozen=True)
class LoopReport:
    """How a cell runs over time: the report of `loop_report`.

    `kinds` are the loops it can run in besides the plain one; `reason` says why there is none. One step has that many
    `operations`, `products` of matrices among them; to find out took `seconds`. The weights named in `dense` have a
    product of their own that is not made of matrices: their dense matrix is made, once per sequence.
    """

    cell: str
    kinds: tuple[str, ...]
    reason: str
    operations: int
    products: int
    seconds: float
    dense: tuple[str, ...] = ()


@dataclass
class _Found:
    signature: Any
    step: Step | None
    loops: dict[str, Loop]
    report: LoopReport

    def run(
        self, kind: str, cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs and last states; "states": the native loop, the states of all times among the outputs."""
        made = self.attempt(kind, cell, projected, states)
        assert made is not None  # "newton" alone may find none
        return made

    def attempt(
        self, kind: str, cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]] | None:
        """`run`, or None where Newton's method has not converged."""
        assert self.step is not None
        if kind == "states" and kind not in self.loops:
            step, widths = self.step, [s.width for s in self.step.states]
            self.loops[kind] = NativeLoop(
                replace(step, outputs=[*step.outputs, *step.after], widths=[*step.widths, *widths])
            )
        return self.loops[kind].run(projected, states, *self.step.prepare(cell))


# by whether the cell is in training: an evaluation now and then must not trace it twice
_found: weakref.WeakKeyDictionary[AbstractCell, dict[bool, _Found]] = weakref.WeakKeyDictionary()
_one_trace = threading.RLock()  # torch traces in one thread at a time


@contextmanager
def time_loop(kind: Kind) -> Iterator[None]:
    """Context manager that selects the loop over time, for comparisons.

    - "auto": the fastest that the cell, the sequence and the machine allow; the default
    - "plain": `step` after `step` in Python, the reference; `cr.LSTM`, `cr.GRU` and `cr.RNN`, too, run so in place of
      torch's fused operators
    - "native": the step as a short list of native operations; float32 on the CPU
    - "scan": all times at once, for cells that are linear in their states (GILR, MinGRU)
    - "newton": all times at once by Newton's method, for other cells whose units see their own states alone (IndRNN,
      a GRU with `hidden_weight=Diagonal()`), in float32 and float64 on any device; where it does not converge, the
      sequence runs in the native or the plain loop, with a warning

    Raises:
        ValueError: another kind, or, when a layer runs, one that its cell cannot run in.

    >>> import compactrnn as cr
    >>> layer = cr.Recurrent(cr.MGU, 8, 16)
    >>> with cr.time_loop("plain"):
    ...     output, h_n = layer(torch.randn(50, 4, 8))
    """
    if kind not in get_args(Kind):
        raise invalid("kind", got=repr(kind), expected=", ".join(map(repr, get_args(Kind))))
    token = _wanted.set(kind)
    try:
        yield
    finally:
        _wanted.reset(token)


def loop_report(layer: nn.Module) -> list[LoopReport]:
    """How each cell of a layer, or a cell itself, runs over time on the CPU.

    >>> import compactrnn as cr
    >>> loop_report(cr.Recurrent(cr.MGU, 8, 16))[0].kinds
    ('native',)
    """
    return [_find(cell).report for cell in layer.modules() if isinstance(cell, AbstractCell)]


def run_cell(cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs (time, batch, n) and last states, from projections and initial states, by the selected loop."""
    if (made := _by_newton(cell, projected, states)) is not None:
        return made
    found, wanted = own_loops(cell, projected, states)
    if found is None:
        return plain_loop(cell, projected, states)
    scan = found.loops.get("scan")
    pays = isinstance(scan, LinearLoop) and scan.pays(projected.shape[1], max(s.shape[-1] for s in states))
    scanned = wanted == "scan" or (wanted == "auto" and pays and len(projected) >= LONG and not _quantizes(cell))
    (output,), after = found.run("scan" if scanned and scan else "native", cell, projected, states)
    return output, after


def _by_newton(
    cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """The results where Newton's method is wanted; else None."""
    wanted = _wanted.get()
    if wanted != "newton":
        return None
    reason = why_not_ordinary([projected, *states])
    found = None if reason else _find(cell)
    if found is None or "newton" not in found.loops:
        if found is not None:
            alone = "units must see their own states alone, and not linearly"
            reason = alone if found.step else found.report.reason
        raise _cannot(wanted, cell, found, reason)
    if (made := found.attempt("newton", cell, projected, states)) is not None:
        return _first(made)
    native = "native" in found.loops and not why_not_native([projected, *states])
    warnings.warn(
        f"{cell.title}: Newton's method has not converged in {LIMIT} iterations over {len(projected)} steps; they"
        f" run in the {'native' if native else 'plain'} loop",
        stacklevel=2,
    )
    return _first(found.run("native", cell, projected, states)) if native else plain_loop(cell, projected, states)


def _cannot(wanted: Kind, cell: AbstractCell, found: _Found | None, reason: str) -> ValueError:
    kinds = ("plain", *(found.report.kinds if found else ()))
    return invalid("time_loop", got=repr(wanted), expected=f"one of {kinds} for {cell.title}", hint=reason)


def own_loops(cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[_Found | None, Kind]:
    """The cell's own loops, unless it must run in the plain one; and which kind is wanted."""
    wanted = _wanted.get()
    if wanted == "plain" or (wanted == "auto" and len(projected) < 2 and not _quantizes(cell)):
        return None, wanted
    reason = why_not_native([projected, *states])
    if wanted == "auto" and reason:
        return None, wanted
    found = None if reason else _find(cell)
    if wanted != "auto" and (found is None or wanted not in found.report.kinds):
        raise _cannot(wanted, cell, found, found.report.reason if found else reason)
    assert found is not None
    if "native" in found.loops:
        return found, wanted
    warnings.warn(
        f"{found.report.reason}; so it runs in the plain loop over time, which gives the same numbers several times"
        " slower (docs/extending.md says what a step may do)",
        stacklevel=2,
    )
    return None, wanted


def _quantizes(cell: AbstractCell) -> bool:
    """Whether products are quantized: native steps then have the engine's bits."""
    return any(isinstance(module, QuantizedWeight) for module in cell.modules())


def wanted_loop() -> Kind:
    """The current setting of `time_loop`."""
    return _wanted.get()


def _find(cell: AbstractCell) -> _Found:
    signature = _signature(cell)
    kept = _found.setdefault(cell, {})
    found = kept.get(cell.training)
    if found is None or found.signature != signature:
        with _one_trace:
            found = kept.get(cell.training)
            if found is None or found.signature != signature:  # another thread may have looked meanwhile
                found = kept[cell.training] = _look(cell, signature)
    return found


def _signature(cell: AbstractCell) -> Any:
    """Cache key of a traced step: everything it may depend on besides tensor values."""
    parts: list[Any] = []
    for module in cell.modules():
        parts.append((type(module), module.training))
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training":
                parts.append((name, value if isinstance(value, int | float | str | bool | None | tuple) else id(value)))
    parts += [
        (name, tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in (*cell.named_parameters(), *cell.named_buffers())
    ]
    return parts


def _look(cell: AbstractCell, signature: Any) -> _Found:
    began = time.perf_counter()
    loops: dict[str, Loop] = {}
    reason, step = "", None
    try:
        like = _like(cell)
        with _ordinary_numbers(like.device):
            step = replace(_trace(cell), exact=_quantizes(cell))
            linear, newton = LinearLoop.of(step), NewtonLoop.of(step)
            if not why_not_native([like]):
                loops["native"] = NativeLoop(step)
                loops |= {"scan": linear} if linear else {}
            loops |= {"newton": newton} if newton and not linear else {}
            found = _Found(signature, step, loops, LoopReport(cell.title, (), "", 0, 0, 0.0))
            for kind in tuple(loops):
                try:
                    _check(cell, found, kind)
                except NotTraceable:
                    if kind != "newton":
                        raise
                    del loops[kind]
        if "native" not in loops:
            reason = why_not_native([like])
    except NotTraceable as error:
        loops, reason, step = {}, str(error), None
    values = ordered([*step.outputs, *step.after]) if step else []
    report = LoopReport(
        cell=cell.title,
        kinds=tuple(loops),
        reason=reason,
        operations=sum(bool(v.args) and v.op not in ("slice", "cat") for v in values),
        products=sum(v.op in ("linear", "quantized") for v in values),
        seconds=time.perf_counter() - began,
        dense=step.dense if step else (),
    )
    return _Found(signature, step, loops, report)


@contextmanager
def _ordinary_numbers(device: torch.device) -> Iterator[None]:
    """Neutral autograd, autocast and saved-tensor settings, whatever the caller has set."""
    with (
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.device(device),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),  # in place of a checkpoint's
    ):
        yield


def _sample(cell: AbstractCell, steps: int, rows: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Random projections and states that leave torch's global generator untouched."""
    like = _like(cell)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * rows, cell.input_size, generator=generator, dtype=torch.float32, device="cpu").to(like)
    with torch.no_grad():
        projected = cell.look_ahead(cell.project(x).to(like).unflatten(0, (steps, rows)))
    states = []
    for state, n in zip(cell.states, cell.state_sizes(), strict=True):
        drawn = torch.randn(rows, n, generator=generator, dtype=torch.float32, device="cpu").to(like)
        states.append(drawn.mul(4).abs().round() if state.role == "counter" else drawn)
    return projected, tuple(states)


def _like(cell: AbstractCell) -> Tensor:
    """A number of the type and on the device of all parameters."""
    found = {(p.dtype, p.device) for p in cell.parameters()} or {(torch.float32, torch.device("cpu"))}
    (dtype, device), *others = found
    if others or dtype not in (torch.float32, torch.float64) or device.type == "meta":
        raise NotTraceable(f"{type(cell).__name__}: parameters that are not float32 on the CPU")
    return torch.empty((), dtype=dtype, device=device)


def _trace(cell: AbstractCell) -> Step:
    projected, states = _sample(cell, 1, 2)
    _check_results(cell, projected[0], states)
    return trace_step(cell, projected[0], states)


def _check_results(cell: AbstractCell, projected: Tensor, states: tuple[Tensor, ...]) -> None:
    """Validate the results of `step`: their number, types and sizes."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        result = cell.step(projected, tuple(s.clone() for s in states))
    what = f"{type(cell).__name__}.step"
    names = ", ".join(s.name for s in cell.states)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple | list)):
        raise invalid(
            what, got="something else", expected=f"two results, the output and a tuple of states: y, ({names},)"
        )
    y, after = result
    if len(after) != len(states):
        raise invalid(what, got=f"{len(after)} new states", expected=f"{len(states)}, as `states` declares: {names}")
    rows = len(projected)
    wanted = [("output", cell.output_size), *zip((s.name for s in cell.states), cell.state_sizes(), strict=True)]
    for tensor, (name, size) in zip((y, *after), wanted, strict=True):
        if tensor.shape != (rows, size):
            shape = tuple(tensor.shape)
            raise invalid(f"{what}, {name}", got=shape, expected=f"{(rows, size)}, a row each and the size in `units`")


def _check(cell: AbstractCell, found: _Found, kind: str) -> None:
    """Compare results and gradients with the plain loop, to catch what the traced graph misses."""
    projected, states = _sample(cell, 5, 2)
    parameters = list(cell.parameters())
    given = [t.requires_grad_() for t in (projected, *states)] + [p for p in parameters if p.requires_grad]
    differentiable = not any(p.is_inference() for p in parameters)  # those made in torch.inference_mode never are

    def results(run: Any) -> list[Tensor | None]:
        with torch.set_grad_enabled(differentiable):
            output, after = run(projected, states)
            outputs = [output, *after]
            if not differentiable:
                return outputs
            generator = torch.Generator().manual_seed(1)
            total = sum((y * torch.randn(y.shape, generator=generator)).sum() for y in outputs)
            grads = torch.autograd.grad(total, given, allow_unused=True)  # pyright: ignore
        return [*(y.detach() for y in outputs), *grads]

    wanted = results(lambda p, s: plain_loop(cell, p, s))
    if kind == "newton" and found.attempt(kind, cell, projected, states) is None:
        raise NotTraceable(f"{type(cell).__name__}.step: no result ({kind})")
    got = results(lambda p, s: _first(found.run(kind, cell, p, s)))
    # what is rounded to a level may be rounded to the next one where float32 differs in its last digit
    least = 0.05 if _quantizes(cell) else 1e-4
    for a, b in zip(wanted, got, strict=True):
        a, b = (torch.zeros(()) if t is None else t for t in (a, b))
        size = float(a.nan_to_num(0, 0, 0).abs().max())
        if not torch.allclose(a, b, rtol=1e-3, atol=least * (1 + size), equal_nan=True):
            raise NotTraceable(
                f"{type(cell).__name__}.step: traced ({kind}), it gives other numbers or gradients than called; it must"
                " depend on its arguments, parameters and buffers alone"
            )


def _first(results: tuple[list[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
    (output,), after = results
    return output, after
