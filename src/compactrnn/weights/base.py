"""The base class of weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .._errors import check_divides, check_positive, invalid
from .terms import Matrix, Term


@dataclass(frozen=True)
class WeightSpec(ABC):
    """Specification of a weight, without its size; `build` makes the weight."""

    @abstractmethod
    def build(self, out_features: int, in_features: int, gates: int = 1) -> AbstractWeight:
        """Make an `(out_features, in_features)` weight whose rows are `gates` equal blocks."""

    def __add__(self, other: WeightSpec) -> WeightSpec:
        """The sum of two weights, see `compactrnn.weights.Sum`."""
        from .sum import Sum

        return Sum((self, other)) if isinstance(other, WeightSpec) else NotImplemented


class AbstractWeight(nn.Module, ABC):
    """A trainable linear map `y = W x`, W of shape (out_features, in_features), stored in some compact form.

    The rows are `gates` equal blocks of `rows` each (an LSTM's i, f, g, o); a structure holds within a gate.
    A subclass gives `forward` and `dense`, makes its parameters and ends `__init__` with `self.reset_parameters()`.
    `forward` is what every layer calls in training, `terms` what the run time multiplies with; all but `forward`
    follows from `dense` unless a subclass knows better. `compactrnn.testing.WeightContract` checks that they agree.
    """

    def __init__(self, spec: WeightSpec, out_features: int, in_features: int, gates: int = 1):
        super().__init__()
        self.spec = spec
        self.out_features = check_positive(out_features, "out_features")
        self.in_features = check_positive(in_features, "in_features")
        self.gates = gates
        self.rows = check_divides(out_features, gates, "out_features", "gates")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise TypeError(cls._read_as_tensor(getattr(func, "__name__", "a function")))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise AttributeError(self._read_as_tensor(name) if hasattr(Tensor, name) else str(error)) from None

    @classmethod
    def _read_as_tensor(cls, how: str) -> str:
        return (
            f"a {cls.__name__} is no tensor, and code of the model reads it as one, by {how}: leave the matrix of that"
            " module as it is, as by Quantize(model, {'embedding': 'float32', '*': 'int8'}), or read weight.dense()"
        )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`W x`: (..., in_features) -> (..., out_features)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """W itself, (out_features, in_features), differentiable."""

    def reset_parameters(self, bound: float | None = None) -> None:
        """Initialize the parameters so that the entries of `dense()` have the variance of U(-bound, bound).

        `bound` is `in_features ** -0.5` unless given. All parameters are drawn alike and then scaled by one number,
        which is right wherever W is homogeneous in them (a product, a sum of products): doubling them shows the degree.
        """
        bound = self.in_features**-0.5 if bound is None else bound
        parameters = list(self.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.uniform_(-1, 1)
            size = self.dense().norm()
            for parameter in parameters:
                parameter.mul_(2)
            degree = torch.log2(self.dense().norm() / size).round()
            wanted = bound * (self.out_features * self.in_features / 3) ** 0.5
            for parameter in parameters:
                parameter.mul_((wanted / size) ** (1 / degree) / 2)

    def terms(self) -> tuple[Term, ...]:
        """T1, T2, ... with `W = T1 T2 ...`: what is multiplied with at run time, the last one first."""
        return (Matrix(self.dense()),)

    def from_dense_(self, matrix: Tensor) -> AbstractWeight:
        """Set the parameters to the least-squares fit of `matrix`, (out_features, in_features); returns self."""
        self._check_matrix(matrix)
        parameters = list(self.parameters())
        trainable = [p.requires_grad for p in parameters]
        target = matrix.detach().to(parameters[0])
        scale = 1 / target.square().sum().clamp_min(torch.finfo(target.dtype).tiny)
        optimizer = torch.optim.LBFGS(
            [p.requires_grad_() for p in parameters],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            error = (self.dense() - target).square().sum() * scale
            error.backward()
            return error

        with torch.enable_grad():
            optimizer.step(loss)
        for parameter, flag in zip(parameters, trainable, strict=True):
            parameter.grad = None
            parameter.requires_grad_(flag)
        return self

    def select_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight | None:
        """Keep rows `out` and columns `inp` (index tensors; None keeps all) within the structure; returns self.

        `out` holds row numbers of the whole matrix, the same units in every gate. None, with nothing changed, says
        that the structure cannot be cut so; `compactrnn.weights.dense.select` then takes a dense sub-matrix.
        """
        return None

    def scale_(self, out: Tensor | None = None, inp: Tensor | None = None) -> AbstractWeight:
        """Multiply row i by `out[i]` and column j by `inp[j]`, as nearly as the structure can; returns self."""
        matrix = self.dense().detach()
        matrix = matrix if out is None else matrix * out[:, None]
        matrix = matrix if inp is None else matrix * inp
        return self.from_dense_(matrix)

    def stored_parameters(self) -> int:
        """How many numbers are learned, which is what a checkpoint stores."""
        return sum(p.numel() for p in self.parameters())

    def runtime_parameters(self) -> int:
        """How many numbers the core reads for one product."""
        with torch.no_grad():
            return sum(term.read for term in self.terms())

    def macs(self) -> int:
        """Multiply-accumulate operations of the core for one product with one vector."""
        with torch.no_grad():
            return sum(term.macs for term in self.terms())

    def training_macs(self) -> int:
        """Those of `forward` for one vector: as many as in the core unless a subclass says otherwise."""
        return self.macs()

    def extra_repr(self) -> str:
        return f"{self.out_features}x{self.in_features}, {self.spec}"

    def _check_matrix(self, matrix: Tensor) -> None:
        if tuple(matrix.shape) != (self.out_features, self.in_features):
            raise invalid(
                "matrix shape", got=tuple(matrix.shape), expected=f"({self.out_features}, {self.in_features})"
            )


def take(x: Tensor, axis: int, index: Tensor | None) -> Tensor:
    """The entries `index` along `axis`; all of them for None."""
    return x if index is None else x.index_select(axis, index.to(x.device))


def resize_(parameter: nn.Parameter, *shape: int) -> None:
    """Give a parameter another shape, with numbers that are still to be set.

    It stays the same object, so that an optimizer that has it already goes on training it.
    """
    parameter.data = parameter.new_empty(shape)
    parameter.grad = None
