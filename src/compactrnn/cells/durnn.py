"""Dual recurrent neural network (DuRNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_part, check_positive, invalid
from ..weights.base import AbstractWeight, WeightSpec
from ..weights.dense import DENSE, DenseWeight
from .base import AbstractCell, StateSpec, UnitSet, new_bias
from .independent import IndependentWeights, limit_

_ITERATIONS = 2  # of the power method in each call; its vector is kept, so that a few are enough
_SETTLING = 30  # of them from a fresh start


class DuRNN(AbstractCell):
    """DuRNN-style cell: a constrained fully connected recurrence (short-term) and an IndRNN (long-term).

        s' = f(W x + b + R s)                  short_size units, f = tanh or relu, R constrained
        a  = sigmoid(Wa x + ba + Va s')        what the long memory is to see
        e  = a * (We s' + be)
        l' = relu(e + u * l)                   hidden_size units, |u| <= magnitude ** (1 / steps)

    The output is l', or [s'; l'] with `output="both"`. Because `|f'| <= 1`, the norm of ds_T/ds_t is at most
    `rho ** (T - t)` with `||R|| <= rho`: the short memory cannot explode, and forgets; what is far back reaches the
    loss through u alone. How R is kept there, by `constrain_` before every sequence in training:

    - `constraint="spectral"`: R is scaled down to the norm `rho`, found by the power method, whose vector is kept from
      call to call. Needs a `hidden_weight` that can be scaled exactly (Dense, LowRank).
    - "entries": `|R_ij| <= rho / short_size`. Needs a dense `hidden_weight`.
    - "penalty": nothing is done to R; `cell.penalty()`, `penalty_weight * max(0, ||R|| - rho)^2`, belongs to the loss,
      where recipes put it by themselves.
    - None: R is free.

    For ablations: `selection=False` leaves the gate out (`e = We s' + be`); `parts="short"` leaves s alone, which is
    then the output and has hidden_size units; `parts="long"` leaves l alone, which then reads x: `e = W x + b`. What is
    left out has no parameters, and options that speak of it alone have no effect, so that one recipe serves them all.

    `input_weight` says how W and Wa are stored, `hidden_weight` R and the transfer matrix [Va; We]. u starts from
    `recurrent_init` and is bounded as in `IndRNN`. Every matrix starts from U(-a, a), a = columns ** -0.5, which keeps
    the outputs of six layers alike (0.3 times that for W with `parts="long"`, as in `IndRNN`); R is then put within its
    bound. Biases start at zero.

    >>> import torch
    >>> cell = DuRNN(8, 16, short_size=12, steps=1000)
    >>> y, (s, l) = cell.step(cell.project(torch.randn(2, 8)), cell.initial_states(2))
    >>> y.shape, s.shape, l.shape
    (torch.Size([2, 16]), torch.Size([2, 12]), torch.Size([2, 16]))

    Source: after Zhang, Li, Ye, Zhu, Li, "Learning Various Length Dependence by Dual Recurrent Neural Networks", 2020.
    The equations are a reconstruction from the abstract, which names the two parts, their kinds of recurrence and the
    selection between them; the form of the gate, the constraints and the output are ours.
    """

    direction: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        bias: bool = True,
        short_size: int | None = None,
        parts: str = "both",
        selection: bool = True,
        nonlinearity: str = "tanh",
        constraint: str | None = "spectral",
        rho: float = 0.9,
        penalty_weight: float = 1.0,
        output: str = "long",
        steps: int | None = None,
        magnitude: float = 5.0,
        recurrent_init: str | tuple[float, float] = "uniform",
    ):
        super().__init__(input_size, hidden_size)
        _check_choice("parts", parts, "both", "short", "long")
        _check_choice("nonlinearity", nonlinearity, "tanh", "relu")
        _check_choice("constraint", constraint, "spectral", "entries", "penalty", None)
        _check_choice("output", output, "long", "both")
        check_part(rho, "rho")
        if isinstance(penalty_weight, bool) or not isinstance(penalty_weight, int | float) or not penalty_weight > 0:
            raise invalid("penalty_weight", got=repr(penalty_weight), expected="a number above 0")
        self.nonlinearity, self.constraint, self.rho = nonlinearity, constraint, float(rho)
        self.penalty_weight = float(penalty_weight)
        self.independent = IndependentWeights(steps, magnitude, recurrent_init)
        if parts == "short" and short_size not in (None, hidden_size):
            raise invalid("short_size", got=short_size, expected=f"hidden_size={hidden_size} with parts='short'")
        has_short, has_long = parts != "long", parts != "short"
        first = hidden_size if parts != "both" or short_size is None else check_positive(short_size, "short_size")
        self.input = input_weight.build(first, input_size)
        self.input_bias = new_bias(first, bias)
        self.hidden = hidden_weight.build(first, first) if has_short else None
        self.gate = self.gate_bias = self.transfer = self.transfer_bias = None
        if parts == "both":
            if selection:
                self.gate = input_weight.build(hidden_size, input_size)
                self.gate_bias = new_bias(hidden_size, bias)
            gates = 2 if selection else 1  # selection, transfer
            self.transfer = hidden_weight.build(gates * hidden_size, first, gates=gates)
            self.transfer_bias = new_bias(hidden_size, bias)
        self.recurrent = nn.Parameter(torch.empty(hidden_size)) if has_long else None
        watched = has_short and constraint in ("spectral", "penalty")
        self.register_buffer("direction", torch.empty(first) if watched else None)
        self._bounded: list[tuple[int, Tensor]] = []
        self._check_constraint(hidden_weight)

        self.states = tuple(StateSpec(s, units=s) for s, there in (("s", has_short), ("l", has_long)) if there)
        short = UnitSet(
            "s",
            written_by=("input", "input_bias", "hidden"),
            read_by=("hidden", "transfer") if has_long else ("hidden",),
            output=not has_long or output == "both",
            buffers=("direction",),
        )
        through = ("gate", "gate_bias", "transfer", "transfer_bias") if has_short else ("input", "input_bias")
        long = UnitSet("l", written_by=(*through, "recurrent"), read_by=(), output=True)
        self.units = tuple(u for u, there in ((short, has_short), (long, has_long)) if there)
        self.reads_input = ("input",) if self.gate is None else ("input", "gate")
        self.reset_parameters()

    def size_options(self) -> dict[str, int]:
        return {} if self.transfer is None else {"short_size": self.unit_count(self.unit_set("s"))}

    def project(self, x: Tensor) -> Tensor:
        """W x + b, and Wa x + ba where there is a gate: (..., short_size + hidden_size)."""
        projected = super().project(x)
        if self.gate is None:
            return projected
        gate = self.gate(x)
        return torch.cat([projected, gate if self.gate_bias is None else gate + self.gate_bias], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.hidden is None:
            long = self._remember(projected, states[0])
            return long, (long,)
        n = states[0].shape[-1]
        total = projected[..., :n] + self.hidden(states[0])
        short = torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)
        if self.transfer is None:
            return short, (short,)
        moved = self.transfer(short)
        if self.gate is None:
            seen = moved if self.transfer_bias is None else moved + self.transfer_bias
        else:
            gate, moved = moved.chunk(2, dim=-1)
            moved = moved if self.transfer_bias is None else moved + self.transfer_bias
            seen = torch.sigmoid(projected[..., n:] + gate) * moved
        long = self._remember(seen, states[1])
        return (torch.cat([short, long], dim=-1) if self.units[0].output else long), (short, long)

    def _remember(self, seen: Tensor, long: Tensor) -> Tensor:
        assert self.recurrent is not None
        return torch.relu(seen + self.recurrent * long)

    def reset_parameters(self) -> None:
        """Initialize all parameters as above, within their constraints."""
        for name in ("input", "gate", "hidden", "transfer"):
            if (weight := getattr(self, name)) is not None:
                weight.reset_parameters((1.0 if self.hidden is not None else 0.3) * weight.in_features**-0.5)
        for name in ("input_bias", "gate_bias", "transfer_bias"):
            if (bias := getattr(self, name)) is not None:
                nn.init.zeros_(bias)
        if self.recurrent is not None:
            self.independent.draw_(self.recurrent)
        if self.direction is not None:
            self.direction.fill_(len(self.direction) ** -0.5)
            self._follow_direction_(_SETTLING)
        self.constrain_()

    @torch.no_grad()
    def constrain_(self) -> None:
        """Project u and R onto their constraints."""
        if self.recurrent is not None:
            self.independent.clamp_(self.recurrent)
        if self.hidden is None:
            return
        if self.constraint == "entries":
            bound = self.rho / self.hidden.in_features
            limit_(self.hidden.dense(), bound)
        elif self.constraint == "spectral":
            # two sequences before one backward: a matrix that no optimizer has touched meanwhile must stay as it is
            now = list(self.hidden.parameters())
            if len(now) != len(self._bounded) or not all(map(_is_untouched, now, self._bounded)):
                factor = (self.rho / self._follow_direction_()).clamp(max=1)
                self.hidden.scale_(out=factor.expand(self.hidden.rows))
                self._bounded = [(p._version, p.detach().clone()) for p in self.hidden.parameters()]

    def penalty(self) -> Tensor | None:
        """`penalty_weight * max(0, ||R||_2 - rho)^2` with `constraint="penalty"`, else None."""
        if self.hidden is None or self.constraint != "penalty":
            return None
        self._follow_direction_()
        assert self.direction is not None
        norm = (self.hidden.dense() @ self.direction.clone()).norm()
        return self.penalty_weight * torch.relu(norm - self.rho).square()

    @torch.no_grad()
    def _follow_direction_(self, iterations: int = _ITERATIONS) -> Tensor:
        """One step of power iteration towards the leading right singular vector v of R; returns `||R v||`."""
        assert self.hidden is not None and self.direction is not None
        matrix, v = self.hidden.dense(), self.direction
        for _ in range(iterations):
            turned = matrix.mT @ (matrix @ v)
            size = turned.norm()
            v.copy_(torch.where(size > 0, turned / size, v))
        return (matrix @ v).norm()

    def _check_constraint(self, hidden_weight: WeightSpec) -> None:
        dense = isinstance(self.hidden, DenseWeight)
        scalable = self.hidden is None or type(self.hidden).scale_ is not AbstractWeight.scale_
        if self.hidden is not None and self.constraint == "entries" and not dense:
            wanted = "Dense() with constraint='entries'"
        elif self.constraint == "spectral" and not scalable:
            wanted = "a weight that can be scaled exactly, such as Dense or LowRank, with constraint='spectral'"
        else:
            return
        raise invalid("hidden_weight", got=hidden_weight, expected=wanted, hint="or use constraint='penalty'")


def _is_untouched(x: Tensor, before: tuple[int, Tensor]) -> bool:
    version, y = before
    alike = (x._version, x.shape, x.dtype, x.device) == (version, y.shape, y.dtype, y.device)
    return alike and (x.is_meta or torch.equal(x, y))  # torch's fused optimizers write without a new version


def _check_choice(name: str, value: object, *choices: str | None) -> None:
    if value not in choices:
        raise invalid(name, got=repr(value), expected="one of " + ", ".join(map(repr, choices)))
