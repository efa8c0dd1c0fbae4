"""Legendre memory unit without feedback, trained at all times at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import check_positive, invalid
from ..weights.base import WeightSpec
from ..weights.dense import DENSE
from .base import StateSpec, UnitSet, new_bias
from .memory_block import FUNCTIONS, reset_affine_
from .polynomial_memory import AbstractPolynomialMemory, check_window


class ParallelLMU(AbstractPolynomialMemory):
    """Legendre memory unit without feedback: the memory is a fixed linear map of the past inputs, read by the units.

        u = E x                                   memory_size numbers, each with a memory m of `order` coefficients
        m' = A m + B u                            Legendre polynomials over the last `window` steps
        h' = f(W x + b + V m')                    f = relu, tanh or sigmoid

    A and B are those of `LMU`, fixed and no parameters; a packed model has A as a matrix, in float32. Nothing that the
    units give is read by a later step, so that the memory at the end of a sequence follows from all its inputs by one
    product: where only the last output is wanted (`Recurrent.last`, and models that answer at the end of a sequence) a
    training of hundreds of steps takes about as long as one of a feedforward network. Other uses run step by step.

    The weight `input` is W, `memory` V, `memory_input` E; `order` is hidden_size unless given. The state `memory` is
    flat: coefficient n of channel m stands at `n * memory_size + m`.

    >>> import torch
    >>> cell = ParallelLMU(8, 16, order=32, window=100)
    >>> y, (m,) = cell(torch.randn(2, 8))
    >>> y.shape, m.shape
    (torch.Size([2, 16]), torch.Size([2, 32]))

    Raises:
        ValueError: a window below 1 step; an order or a memory size below 1; another f.

    Source: Chilkuri, Eliasmith, "Parallelizing Legendre Memory Unit Training", 2021; the equations after its
    abstract and its implementations, in which u may pass a nonlinear function, too.
    """

    units = (UnitSet("h", written_by=("input", "input_bias", "memory"), read_by=(), output=True),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        input_weight: WeightSpec = DENSE,
        output_weight: WeightSpec = DENSE,
        order: int | None = None,
        memory_size: int = 1,
        window: float = 100.0,
        nonlinearity: str = "relu",
        bias: bool = True,
    ):
        super().__init__(input_size, hidden_size)
        if nonlinearity not in FUNCTIONS:
            raise invalid("nonlinearity", got=repr(nonlinearity), expected=f"one of {sorted(FUNCTIONS)}")
        self.nonlinearity = nonlinearity
        self.order = check_positive(hidden_size if order is None else order, "order")
        self.memory_size = check_positive(memory_size, "memory_size")
        self.window = check_window(window)
        shape = (self.order, self.memory_size)
        self.states = (StateSpec("memory", shape=shape, written_by=("memory_input",), read_by=("memory",)),)
        self.memory_input = DENSE.build(self.memory_size, input_size)
        self.input = input_weight.build(hidden_size, input_size)
        self.input_bias = new_bias(hidden_size, bias)
        self.memory = output_weight.build(hidden_size, self.order * self.memory_size)
        self.fix_matrices_("lmu", "zoh")
        self._response: tuple[tuple[int, torch.dtype, torch.device], Tensor, Tensor] | None = None
        self.reset_parameters()

    def project(self, x: Tensor) -> Tensor:
        """What the input writes to the memory, then W x + b."""
        return torch.cat([self.memory_input(x), super().project(x)], dim=-1)

    def step(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (memory,) = states
        memory = self.remember(memory, self.spread(projected[:, : self.memory_size]))
        y = FUNCTIONS[self.nonlinearity](projected[:, self.memory_size :] + self.memory(memory))
        return y, (memory,)

    def jump(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`m_T = A^T m_0 + sum of A^(T - t) B u_t`, then the last step; see `AbstractCell.jump`."""
        (memory,) = states
        if before := len(x) - 1:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be of use in training later
                decayed, response = self._responses(before, memory)
            written = torch.einsum("tbm,tn->bnm", self.memory_input(x[:-1]), response).flatten(1)
            kept = torch.einsum("bkm,nk->bnm", memory.unflatten(1, (self.order, -1)), decayed).flatten(1)
            memory = kept + written
        return self.forward(x[-1], (memory,))

    def _responses(self, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A^steps, and A^(steps - t) B for t = 1 ... steps, (steps, order); kept for sequences as long."""
        key = steps, like.dtype, like.device
        if self._response is None or self._response[0] != key:
            # of one channel; powers in doubles, so that no error grows over the steps
            every = slice(None, None, self.memory_size)
            power, columns = self.transition[every, every].double(), self.drive[every, None].double()
            whole, left = torch.eye(self.order, dtype=power.dtype, device=power.device), steps
            while left:
                if left % 2:
                    whole = whole @ power
                if columns.shape[1] < steps:
                    columns = torch.cat([columns, power @ columns], 1)
                power, left = power @ power, left // 2
            response = columns[:, :steps].flip(1).T
            self._response = key, whole.to(like), response.to(like)
        return self._response[1:]

    def reset_parameters(self) -> None:
        """W, b and V as torch draws those of linear layers, E from U(-a, a), a = (3 / input_size) ** 0.5."""
        reset_affine_(self.input, self.input_bias)
        self.memory.reset_parameters((6 / (self.memory.in_features + self.hidden_size)) ** 0.5)
        self.memory_input.reset_parameters((3 / self.input_size) ** 0.5)
