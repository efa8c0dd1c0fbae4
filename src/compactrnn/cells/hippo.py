"""Recurrent memory by optimal polynomial projection (HiPPO)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import StateSpec, UnitSet, new_bias
from .polynomial_memory import RULES, AbstractPolynomialMemory, check_window

_SHARES = {"bilinear": 0.5, "backward": 1.0}


class HiPPO(AbstractPolynomialMemory):
    """Gated HiPPO-RNN: its memory is the past as a polynomial, by default the whole past (LegS).

        u = Wu x + Uu h                           memory_size numbers, each with a memory c of `order` coefficients
        c' = (I - a A / t)^-1 ((I + (1 - a) A / t) c + B u / t),   c' = (u, 0, ..., 0) at the first step
        z = sigmoid(Wz x + Vz c' + bz)            k = tanh(Wk x + Vk c' + bk)
        h' = (1 - z) h + z k

    t counts the steps before this one; it is a state, `steps`, so that streams go on where they stopped. From the
    coefficients the past is f(s) = sum of c_n sqrt(2 n + 1) P_n(2 s / t - 1), P_n the Legendre polynomials. A and B are
    fixed: `A_nk = -sqrt((2n + 1)(2k + 1))` for n > k, `-(n + 1)` for n = k, 0 above, `B_n = sqrt(2n + 1)`, so only the
    matrices of u, z and k are trained and stored. a is 1/2 ("bilinear") or 1 ("backward"). Float32 or float64: in half
    precision the step counter would stop.

    The inverse is not formed: with s = a / t, row n of `(I - s A) y = r` is a first-order linear recurrence of the sums
    `p_n` of `sqrt(2k + 1) y_k` over k < n, `p_(n+1) = ((1 - s n) p_n + sqrt(2n + 1) r_n) / (1 + s (n + 1))`. Its
    factors are at most 1 in size, and all n are found in log2(order) steps.

    With `measure="legt"` the memory is of the last `window` steps (translated Legendre), with "lagt" of a past that
    counts the less the older it is, by a factor of e in `window` steps (translated Laguerre). Then `c' = A' c + B' u`
    with matrices that do not change over time, by the rule "zoh" (zero-order hold, the default of these two),
    "bilinear" or "backward"; there is no state `steps`, and a packed model has A' in float32.

    The state `memory` is flat: coefficient n of channel m stands at `n * memory_size + m`.

    >>> import torch
    >>> cell = HiPPO(8, 16, order=32)
    >>> y, (h, memory, steps) = cell(torch.randn(2, 8))
    >>> y.shape, memory.shape, steps.flatten()
    (torch.Size([2, 16]), torch.Size([2, 32]), tensor([1., 1.]...))

    Source: Gu, Dao, Ermon, Rudra, Ré, "HiPPO: Recurrent Memory with Optimal Polynomial Projections", 2020, and the
    authors' code, HazyResearch/hippo-code.
    """

    units = (UnitSet("h", written_by=("input", "input_bias", "memory"), read_by=("hidden",), output=True),)
    degree: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        hidden_weight: WeightSpec = DENSE,
        order: int | None = None,
        memory_size: int = 1,
        discretization: str | None = None,
        measure: str = "legs",
        window: float = 100.0,
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        if measure not in ("legs", "legt", "lagt"):
            raise invalid("measure", got=repr(measure), expected="'legs', 'legt' or 'lagt'")
        rules = tuple(_SHARES) if measure == "legs" else RULES
        discretization = rules[0] if discretization is None else discretization
        if discretization not in rules:
            expected = f"{', '.join(map(repr, rules[:-1]))} or {rules[-1]!r} with measure={measure!r}"
            raise invalid("discretization", got=repr(discretization), expected=expected)
        self.discretization, self.measure, self.window = discretization, measure, check_window(window)
        self.order = check_positive(hidden_size if order is None else order, "order")
        self.memory_size = check_positive(memory_size, "memory_size")
        self.states = (
            StateSpec("h"),
            StateSpec(
                "memory", shape=(self.order, memory_size), written_by=("memory_input", "hidden"), read_by=("memory",)
            ),
            *([StateSpec("steps", shape=(1,), role="counter")] if measure == "legs" else []),
        )
        self.memory_input = DENSE.build(memory_size, input_size)
        self.hidden = DENSE.build(memory_size, hidden_size)
        self.input = input_weight.build(2 * hidden_size, input_size, gates=2)  # update gate, candidate
        self.memory = hidden_weight.build(2 * hidden_size, self.order * memory_size, gates=2)
        self.input_bias = new_bias(2 * hidden_size, bias)
        if measure == "legs":
            degree = torch.arange(float(self.order)).repeat_interleave(memory_size)
            self.register_buffer("degree", degree, persistent=False)  # n of every coefficient
        else:
            self.fix_matrices_(measure, discretization)
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """The inputs of the memory, then of the gate and the candidate; see `AbstractCell.project`."""
        if self.measure == "legs" and self.degree.dtype not in (torch.float32, torch.float64):
            hint = "a narrower type cannot count thousands of steps"
            raise invalid("HiPPO dtype", got=self.degree.dtype, expected="float32 or float64", hint=hint)
        return torch.cat([self.memory_input(x), super().project(x)], -1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, memory, *count = states
        u = projected[:, : self.memory_size] + self.hidden(h)
        if count:
            first = self.spread(u) * (1 - self.degree).clamp(min=0)
            memory = torch.where(count[0] > 0, self._update(memory, u, count[0]), first)
        else:
            memory = self.remember(memory, self.spread(u))
        z, k = (projected[:, self.memory_size :] + self.memory(memory)).chunk(2, dim=-1)
        h = torch.lerp(h, torch.tanh(k), torch.sigmoid(z))
        return h, (h, memory, *(steps + 1 for steps in count))

    def _update(self, memory: Tensor, u: Tensor, steps: Tensor) -> Tensor:
        """The memory one step later: `(I - s A)^-1 (c + s B u)`, or with the bilinear rule twice that less c."""
        share = _SHARES[self.discretization]
        s, norm = share / steps.clamp(min=1), (2 * self.degree + 1).sqrt()
        r = memory + s * (norm * self.spread(u))
        below = (1 + s * (self.degree + 1)).reciprocal()
        behind = self.degree.clamp(max=1)  # nothing comes before degree 0: 0 there keeps channels apart
        factor, total = behind * (1 - s * self.degree) * below, norm * r * below
        reach = 1
        while reach < self.order:
            total = total + factor * self._later(total, reach)
            factor = factor * self._later(factor, reach)
            reach *= 2
        y = (r - s * (behind * norm) * self._later(total, 1)) * below
        return y if share == 1 else memory + (y - memory) / share

    def _later(self, x: Tensor, degrees: int) -> Tensor:
        """Coefficient n - degrees in the place of n; in the first places, whose factors are 0, whatever is there."""
        width = degrees * self.memory_size
        return torch.cat([x[:, :width], x[:, : x.shape[1] - width]], 1)

    def reset_parameters(self) -> None:
        """Gate and candidate by Xavier's rule, u from U(-b, b), b = (input_size + hidden_size) ** -0.5, biases 0."""
        inputs = self.input_size + self.order * self.memory_size
        for weight in (self.input, self.memory):
            weight.reset_parameters((6 / (inputs + self.hidden_size)) ** 0.5)
        for weight in (self.memory_input, self.hidden):
            weight.reset_parameters((self.input_size + self.hidden_size) ** -0.5)
        if self.input_bias is not None:
            nn.init.zeros_(self.input_bias)
